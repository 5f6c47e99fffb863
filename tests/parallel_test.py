"""Many devices do what one does, and many processes what one does; lost ones end the others."""

import functools
import os
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_runs
from reference import initial_state

import lcn_jax
from lcn_jax import sleep
from lcn_jax.data.batches import BatchSpec, Pixels
from lcn_jax.errors import UsageError
from lcn_jax.networks.resnet import ResNet
from lcn_jax.training import ownership, parallel, sleep_step, wake
from lcn_jax.training.metrics import Sums

SHAPE, EXAMPLES, BATCH = (8, 8, 1), 48, 16


def train(devices, sync_batch_norm):
    """Parameters after 20 wake steps of SGD and 2 sleeps on the first `devices` devices."""
    model = ResNet(
        (1,), 4, 'cifar', 10, local=True, batch_axis=parallel.AXIS if sync_batch_norm else None
    )
    optimizer = optax.sgd(0.05)
    batch = BatchSpec(batch_size=BATCH, size=8, padding=1, repetitions=2, flips=True)

    def on_devices(program, in_axes):
        return jax.pmap(program, parallel.AXIS, in_axes=in_axes, devices=jax.devices()[:devices])

    learner = wake.Learner(model, optimizer, batch=batch)
    wake_step = on_devices(functools.partial(wake.step, learner=learner), (0, 0, None, None, None))
    rule = sleep.resolve('mean', {'border': 'include'})
    asleep = on_devices(
        functools.partial(sleep_step.step, grids=lcn_jax.grids(model, SHAPE), rule=rule),
        (0, None),
    )
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (EXAMPLES, 8, 8, 1)).astype(np.uint8)
    labels = random.randint(0, 10, EXAMPLES).astype(np.int32)
    pixels = Pixels(images, labels, np.float32([0.5]), np.float32([0.3]))
    key = jax.random.key(1)
    mesh = jax.sharding.Mesh(jax.devices()[:devices], (parallel.AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(parallel.AXIS))
    create = functools.partial(initial_state, model, optimizer, SHAPE)
    train_state, sums = jax.tree.map(
        lambda leaf: jax.device_put(np.stack([leaf] * devices), sharding),
        (jax.jit(create)(key), Sums.zero()),
    )
    for step in range(1, 21):
        train_state, sums = wake_step(train_state, sums, pixels, np.arange(EXAMPLES), key)
        if step % 10 == 0:
            train_state = asleep(train_state, key)
    return jax.device_get((train_state, sums))


def first_difference(tree, other):
    """The largest, between the first replicas of two trees."""
    return max(
        np.abs(a[0] - b[0]).max() for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other))
    )


@pytest.mark.slow
def test_eight_devices_are_one_device():
    (one, sums_of_one), (eight, sums_of_eight) = train(1, True), train(8, True)
    assert one.step[0] == eight.step[0] == 20
    assert first_difference(one.params, eight.params) < 1e-5
    assert first_difference(one.batch_stats, eight.batch_stats) < 1e-5
    assert sums_of_one.count[0] == sums_of_eight.count[0] == 20 * BATCH
    np.testing.assert_allclose(sums_of_eight.loss[0], sums_of_one.loss[0], rtol=1e-5)
    for leaf in jax.tree.leaves(eight):
        assert (leaf == leaf[:1]).all()  # the replicas are one
    apart, _ = train(8, False)
    assert first_difference(one.params, apart.params) > 1e-3  # each normalises by its own batch


def buffers(array):
    """Where each device keeps its part."""
    return [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]


@pytest.mark.parametrize('devices', [1, 8])
def test_replicated_values_are_where_programs_work_on_them(monkeypatch, devices):
    """A donated argument is overwritten in place; it would not be if it had to be moved first."""
    chosen = jax.devices()[:devices]
    monkeypatch.setattr(jax, 'device_count', lambda: devices)
    monkeypatch.setattr(jax, 'local_device_count', lambda: devices)
    monkeypatch.setattr(jax, 'local_devices', lambda *process: chosen)
    leading = () if devices == 1 else (devices,)
    tree = {'kernel': jnp.arange(6.0).reshape(2, 3), 'step': np.zeros((), np.int32)}
    add = parallel.per_device(lambda tree: jax.tree.map(lambda x: x + 1, tree), [0], donate=[0])
    replicated = add(parallel.replicate(tree))
    assert replicated['kernel'].shape == (*leading, 2, 3)
    before = buffers(replicated['kernel'])
    assert len(set(before)) == devices
    after = add(replicated)
    assert buffers(after['kernel']) == before
    assert parallel.replicate(tree['kernel']).sharding == after['kernel'].sharding
    assert (tree['kernel'] == np.arange(6.0).reshape(2, 3)).all() and tree['step'] == 0
    expected = jax.tree.map(lambda x: np.broadcast_to(x + 2, (*leading, *x.shape)), tree)
    chex.assert_trees_all_equal(jax.device_get(after), expected)
    chex.assert_trees_all_equal(parallel.first(after), jax.tree.map(lambda x: x + 2, tree))
    images = np.arange(16.0)
    assert parallel.spread(images).shape == (*leading, 16 // devices)
    assert parallel.replicated_shapes(tree)['kernel'].shape == after['kernel'].shape
    over_all = parallel.over_all(after['kernel'])  # what a checkpoint keeps of divided kernels
    np.testing.assert_array_equal(over_all, np.stack([tree['kernel'] + 2] * devices))


def test_the_first_copy_stays_when_its_device_goes_on():
    add = parallel.per_device(lambda x: x + 1, [0], donate=[0])
    replicated = add(parallel.replicate(np.zeros(3, np.float32)))
    first = parallel.first(replicated)
    add(replicated)
    assert isinstance(first, np.ndarray) and first.tolist() == [1, 1, 1]
    step = parallel.first(parallel.replicate(jnp.zeros((), jnp.int32)))
    assert isinstance(step, np.ndarray) and step.shape == ()  # as checkpoints have it


def test_keys_are_replicated():
    keys = parallel.replicate(jax.random.key(3))
    drawn = parallel.per_device(jax.random.normal, [0])(keys)
    np.testing.assert_array_equal(drawn, [jax.random.normal(jax.random.key(3))] * 8)


def test_batches_are_cut_and_sent_one_ahead():
    made = []

    def batches():
        for i in range(3):
            made.append(i)
            yield np.arange(16) + i, np.full(8, i)

    received = parallel.prefetch(batches())
    x, i = next(received)
    assert made == [0, 1]
    assert x.shape == (8, 2) and i.shape == (8, 1)
    for device, shard in enumerate(x.addressable_shards):
        assert shard.device == jax.local_devices()[device]
        assert shard.data.tolist() == [[2 * device, 2 * device + 1]]
    assert [i.tolist() for _, i in received] == [[[1]] * 8, [[2]] * 8]


WITHIN_A_LIMIT = """
import resource
import jax
jax.config.update('jax_num_cpu_devices', 8)
from lcn_jax.training import parallel

parallel.replicate(jax.numpy.zeros(1))
array = jax.block_until_ready(jax.numpy.ones((16, 2**20)))
with open('/proc/self/status') as status:
    used = next(int(line.split()[1]) * 1024 for line in status if line.startswith('VmData'))
limit = used + 11 * array.nbytes
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print(jax.block_until_ready(parallel.replicate(array)).shape)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems do not limit memory so')
@pytest.mark.slow
def test_replicating_takes_no_more_memory_than_the_copies():
    """Eight devices get a copy each within the memory of eleven; a stack of them takes sixteen."""
    process = subprocess.run(
        [sys.executable, '-c', WITHIN_A_LIMIT], cwd=tiny_runs.ROOT, text=True, capture_output=True
    )
    assert process.stdout == '(8, 16, 1048576)\n', process.stderr


def test_batches_that_cannot_be_split_are_refused():
    with pytest.raises(UsageError, match=r'batch_size 12 cannot be split over 8 .*8 or 16'):
        parallel.check_batch_size(12)


def test_a_program_is_compiled_once_for_replicated_values_and_its_own_results():
    traced = []

    def program(values, key):
        traced.append(True)
        return jax.tree.map(lambda x: x + jax.random.uniform(key), values)

    values = parallel.replicate({'a': np.zeros(3, np.float32), 'b': jnp.ones(())})
    assert [leaf.shape for leaf in jax.tree.leaves(values)] == [(8, 3), (8,)]
    assert [len(leaf.devices()) for leaf in jax.tree.leaves(values)] == [8, 8]
    add = parallel.per_device(program, (0, None))
    results = add(add(values, jax.random.key(0)), jax.random.key(0))
    assert len(traced) == 1
    twice = 2 * jax.random.uniform(jax.random.key(0))
    np.testing.assert_allclose(parallel.first(results)['b'], 1 + twice, rtol=1e-6)


# ---- Processes. ----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def starter(tmp_path_factory):
    return tiny_runs.Starter('resident', str(tmp_path_factory.mktemp('data')))


@pytest.fixture(scope='module')
def two_devices(starter, tmp_path_factory):
    """The workdir of one process with two devices; it also prepares data and programs."""
    workdir = tmp_path_factory.mktemp('two_devices')
    starter.fork(workdir, tiny_runs.ONE_SAVE, devices=2)
    return workdir


# Processes find each other, and end together, however busy the machine is.
PATIENT = """
import jax
initialize = jax.distributed.initialize
def initialize_patiently(*arguments, **options):
    options['initialization_timeout'] *= 20
    options['shutdown_timeout_seconds'] *= 20
    initialize(*arguments, **options)
jax.distributed.initialize = initialize_patiently
"""


@pytest.fixture
def start_two(starter):
    """Starts the two processes of a run; nobody else gets the port until the test has ended."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as the coordinator does
        reserved.bind(('localhost', 0))
        address = f'--coordinator_address=localhost:{reserved.getsockname()[1]}'

        def start(workdir, before=('', ''), flags=((), ())):
            place = address, '--num_processes=2'
            return [
                starter.start(
                    workdir, *place, f'--process_id={i}', *flags[i], before=PATIENT + before[i]
                )
                for i in range(2)
            ]

        yield start


def from_record(step, action):
    """Statements with which a process acts on itself after the record of a step and later ones."""
    return f"""
import os, signal, time
from lcn_jax.training import metrics
add = metrics.Log.add
def add_and_act(log, record):
    add(log, record)
    if record['step'] >= {step}:
        {action}
metrics.Log.add = add_and_act
"""


@pytest.mark.slow
def test_two_processes_are_one_also_if_one_of_them_is_terminated(start_two, two_devices, tmp_path):
    """SIGTERM to one stops both at the same step; they resume, once more as two processes."""
    # JAX looks for signals once a second, in which the run would end.
    wait = from_record(20, 'time.sleep(3)')
    terminate = from_record(20, 'os.kill(os.getpid(), signal.SIGTERM); time.sleep(3)')
    for process in start_two(tmp_path, (wait, terminate)):
        assert 'stopped at step' in tiny_runs.finish(process, 75)
    assert len(tiny_runs.records(tmp_path)) < len(tiny_runs.records(two_devices))
    for process in start_two(tmp_path, flags=[[tiny_runs.ONE_SAVE]] * 2):
        tiny_runs.finish(process, 0)
    tiny_runs.assert_same(tmp_path, two_devices)


@pytest.mark.slow
def test_two_processes_divide_kernels_as_two_devices_do(starter, start_two, tmp_path):
    """Each writes its own part of a checkpoint, and both resume from it."""
    divide = '--config.shard_kernels', tiny_runs.ONE_SAVE
    starter.fork(tmp_path / 'one', *divide, devices=2)
    wait = from_record(20, 'time.sleep(3)')
    terminate = from_record(20, 'os.kill(os.getpid(), signal.SIGTERM); time.sleep(3)')
    for process in start_two(tmp_path / 'two', (wait, terminate), (divide, divide)):
        assert 'stopped at step' in tiny_runs.finish(process, 75)
    folder = max((tmp_path / 'two' / 'checkpoints').iterdir(), key=lambda path: int(path.name))
    parts = [folder / 'snapshot' / f'ocdbt.process_{i}' / 'd' for i in range(2)]
    assert all(any(part.iterdir()) for part in parts)
    for process in start_two(tmp_path / 'two', flags=(divide, divide)):
        tiny_runs.finish(process, 0)
    tiny_runs.assert_same(tmp_path / 'two', tmp_path / 'one')


@pytest.mark.slow
def test_processes_with_different_configs_are_refused_in_one_line(starter, start_two, tmp_path):
    for process in start_two(tmp_path, flags=(('--config.shard_kernels',), ())):
        error = tiny_runs.finish(process, 1).splitlines()[-1]
        assert error.startswith('error: the processes of the run have different values of')
        assert 'config.shard_kernels:' in error


@pytest.mark.slow
def test_processes_are_refused_a_workdir_that_another_run_owns(start_two, tmp_path):
    """The first of them asks for all."""
    with ownership.owned(str(tmp_path)):
        for process in start_two(tmp_path):
            error = tiny_runs.finish(process, 1).splitlines()[-1]
            assert error.startswith(f'error: {tmp_path} is in use by process {os.getpid()} on ')


# Once they have joined, a process is missed sooner.
SOON = """
initialize_slowly = jax.distributed.initialize
def initialize_soon(*arguments, **options):
    options['heartbeat_timeout_seconds'] //= 10
    initialize_slowly(*arguments, **options)
jax.distributed.initialize = initialize_soon
"""
STUCK = f"""{SOON}
import time
from lcn_jax.training import faults
should_stop, calls = faults.StopRequests.should_stop, []
def hang(requests):
    calls.append(True)
    if len(calls) < 5:
        return should_stop(requests)
    faults.STUCK_SECONDS = 1
    should_stop(requests)
    time.sleep(10**6)
faults.StopRequests.should_stop = hang
"""


@pytest.mark.slow
@pytest.mark.parametrize('number', ['SIGKILL', 'SIGSTOP'], ids=['killed', 'silent'])
def test_a_lost_process_ends_the_other(number, start_two, two_devices, tmp_path):
    lost = SOON + from_record(8, f'os.kill(os.getpid(), signal.{number})')
    other, process = start_two(tmp_path, (SOON, lost))
    output = other.output()
    assert other.returncode != 0, output
    assert tiny_runs.records(tmp_path)[-1]['step'] <= 8
    process.kill()
    process.output()


@pytest.mark.slow
def test_stuck_process_ends_and_then_the_other(start_two, two_devices, tmp_path):
    """Its heart beats, but it does nothing for STUCK_SECONDS, here 1."""
    other, stuck = start_two(tmp_path, (SOON, STUCK))
    output = stuck.output()
    assert stuck.returncode != 0
    assert 'Timeout' in output and 'in hang' in output  # what it was doing
    output = other.output()
    assert other.returncode != 0, output


@pytest.mark.slow
def test_processes_that_cannot_join_say_why(starter, tmp_path):
    output = starter.fork(tmp_path, '--num_processes=2', '--process_id=0', status=1)
    assert output.startswith('error: cannot join the processes of the run')
    assert '--coordinator_address' in output and 'Traceback' not in output
