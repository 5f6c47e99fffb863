"""Kernels divided among devices: the same numbers as on one, from checkpoints of each other."""

import dataclasses
import functools
import signal

import chex
import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
import pytest
import tiny_runs

from lcn_jax.data.batches import Pixels
from lcn_jax.errors import UsageError
from lcn_jax.layer.backends import divided
from lcn_jax.layer.linen import LocalConv
from lcn_jax.layer.local_parameters import by_path, local_arrays
from lcn_jax.training import checkpoint, parallel, sharding, wake
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.metrics import Sums
from lcn_jax.training.state import SHARED, TrainState

AXIS = parallel.AXIS


def on_devices(program, in_axes, devices):
    return jax.pmap(program, AXIS, in_axes=in_axes, devices=jax.devices()[:devices])


# ---- The layer. ----------------------------------------------------------------------------------

MASK = np.random.default_rng(0).integers(0, 2, (5, 5, 3, 3, 2, 4))
LAYERS = {
    'rows and a rest': ((5, 6), (3, 3), {}),
    'strided': ((5, 6), (3, 2), {'strides': 2, 'padding': 1}),
    'dilated, in groups': ((7, 6), (3, 2), {'kernel_dilation': 2, 'feature_group_count': 2}),
    'dilated input': ((4, 3), (3, 2), {'input_dilation': 2}),
    'circular': ((6, 6), (3, 3), {'padding': 'CIRCULAR'}),
    'one dimension': ((9,), (3,), {'padding': 'CAUSAL'}),
    'three dimensions': ((3, 4, 3), (2, 2, 2), {}),
    'fewer positions than devices': ((3, 3), (3, 3), {'padding': 'VALID'}),
    'mask': ((5, 5), (3, 3), {'mask': MASK}),
}


@pytest.mark.slow
@pytest.mark.parametrize('size, kernel_size, options', LAYERS.values(), ids=LAYERS)
def test_the_layer_and_its_gradients_are_those_of_one_device(size, kernel_size, options):
    devices, examples, channels = 4, 3, 2
    layer = LocalConv(4, kernel_size, local_bias=True, **options)
    random = np.random.default_rng(1)
    x = random.standard_normal((devices, examples, *size, channels)).astype(np.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(1), x[0])['params']
    params = jax.tree.map(lambda leaf: np.float32(0.3 * random.standard_normal(leaf.shape)), shapes)
    grid = layer.grid(x[0])
    shape = (devices, examples, *grid.output_size, 4)
    weights = random.standard_normal(shape).astype(np.float32)

    def loss(kernel, x, weights, layer):
        y = layer.apply({'params': {**params, 'kernel': kernel}}, x)
        return (y**2 * weights).sum()

    def gradients(layer):
        return jax.grad(functools.partial(loss, layer=layer), (0, 1))

    x_of_all, weights_of_all = (a.reshape(-1, *a.shape[2:]) for a in (x, weights))
    expected = jax.device_get(jax.jit(gradients(layer))(params['kernel'], x_of_all, weights_of_all))
    parts = divided.parts(params['kernel'], grid, devices)
    of_parts = on_devices(gradients(layer.clone(shard_axis=AXIS)), (0, 0, 0), devices)
    dparts, dx = jax.device_get(of_parts(parts, x, weights))
    dkernel = divided.whole(dparts, params['kernel'].shape)
    scale = np.abs(expected[0]).max()
    np.testing.assert_allclose(dkernel / scale, expected[0] / scale, atol=1e-6)
    np.testing.assert_allclose(dx.reshape(x_of_all.shape), expected[1], atol=1e-5 * scale)


@pytest.mark.parametrize('shape', [(2, 5, 7, 3, 2, 1, 4), (5, 3, 2, 4)])
def test_parts_are_the_positions_in_a_row(shape):
    dimensions = {7: 2, 4: 1}[len(shape)]
    before = shape[: len(shape) - 2 * dimensions - 2]
    grid = LocalConv(1, (3, 3)[:dimensions]).grid(np.zeros((1, *(5, 7)[:dimensions], 1)))
    kernel = np.arange(np.prod(shape)).reshape(shape)
    rows = kernel.reshape(*before, -1, *shape[len(before) + dimensions :])
    count = rows.shape[len(before)]
    for devices in (1, 3, 4, 40):
        parts = divided.parts(kernel, grid, devices)
        size = -(-count // devices)
        assert parts.shape == (devices, *before, size, *rows.shape[len(before) + 1 :])
        for device, part in enumerate(parts):
            positions = range(device * size, min((device + 1) * size, count))
            own = np.take(rows, positions, len(before))
            kept = own.shape[len(before)]
            np.testing.assert_array_equal(np.take(part, range(kept), len(before)), own)
            assert not np.take(part, range(kept, size), len(before)).any()
        np.testing.assert_array_equal(divided.whole(parts, shape), kernel)


# ---- Training. -----------------------------------------------------------------------------------

STEPS, EXAMPLES, BATCH = 30, 48, 16


def get_config(rule, **changes):
    config = tiny_runs.get_config('resident')
    config.update_from_flattened_dict(
        {
            'connectivity': 'lc',
            'sleep.rule': rule,
            'sleep.full_step': False,
            'sleep.circuit.patterns_per_weight': 1,
            'model.sync_batch_norm': True,
            'model.stage_sizes': (1,),
            'batch_size': BATCH,
            'shard_kernels': True,
            **changes,
        }
    )
    return config


def train(experiment, start, devices):
    """The state after 30 steps with sleeps, with whole kernels, and the sum of the losses."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (EXAMPLES, 8, 8, 1), np.uint8)
    labels = random.integers(0, 10, EXAMPLES).astype(np.int32)
    pixels = Pixels(images, labels, np.float32([0.5]), np.float32([0.3]))
    key = jax.random.key(1)

    def own(start, number):
        return sharding.own(start, experiment.owners)

    train_state = on_devices(own, (None, 0), devices)(start, np.arange(devices))
    sums = jax.tree.map(lambda leaf: np.stack([leaf] * devices), Sums.zero())
    step = functools.partial(wake.step, learner=experiment.learner(total_steps=100))
    step = on_devices(step, (0, 0, None, None, None), devices)
    asleep = on_devices(
        experiment.sleep_step(experiment.network.grids_on_devices), (0, None), devices
    )
    for number in range(1, STEPS + 1):
        train_state, sums = step(train_state, sums, pixels, np.arange(EXAMPLES), key)
        if number % 10 == 0:
            train_state = asleep(train_state, key)
    train_state, sums = jax.device_get((train_state, sums))
    return whole(train_state, experiment.shapes), sums.loss[0] / STEPS


def whole(state, shapes):
    """The state of the first device, with whole kernels."""

    def of_leaf(leaf, like):
        return divided.whole(leaf, like.shape) if leaf.shape[1:] != like.shape else leaf[0]

    return jax.tree.map(of_leaf, state, shapes)


WAKE = {
    'AdamW': ('mean', {'sleep.full_step': True, 'sleep.share_moments': True}),
    # Where the gradient is 0 but for rounding, AdamW makes a full step of it, which differs from
    # device to device after some tens of steps.
    'SGD': (
        'exact',
        {'model.norm': 'local', 'pools.border': 'exclude'}
        | {'optimizer': 'sgd', 'learning_rate': 1e-2},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize('rule, changes', WAKE.values(), ids=WAKE)
def test_divided_kernels_train_and_sleep_as_whole_ones_do(rule, changes):
    of_whole, of_parts = (
        Experiment.create(get_config(rule, **changes, shard_kernels=divides))
        for divides in (False, True)
    )
    start = jax.device_get(jax.jit(of_whole.initial_state)(jax.random.key(1)))
    expected, loss = train(of_whole, start, 1)
    assert expected.step == STEPS
    for devices in (1, 8):
        trained, loss_of_divided = train(of_parts, start, devices)
        np.testing.assert_allclose(loss_of_divided, loss, rtol=1e-5)
        chex.assert_trees_all_close(trained.params, expected.params, atol=1e-5, rtol=0)
        chex.assert_trees_all_close(trained.batch_stats, expected.batch_stats, atol=1e-5)
        chex.assert_trees_all_close(trained.opt_state, expected.opt_state, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    'rule, changes',
    [
        ('mean', {'sleep.full_step': True, 'sleep.share_moments': True}),
        ('exact', {'pools.border': 'exclude', 'model.norm': 'local', 'sleep.share_moments': True}),
        ('hebbian', {'pools.kind': 'joined'}),
        ('circuit', {'sleep.circuit.learning_rate': 1e-2}),
    ],
)
def test_divided_kernels_sleep_as_whole_ones_do(rule, changes):
    """After any learning: parameters, moments and kernels of the last sleep are random."""
    experiment = Experiment.create(get_config(rule, **changes))
    random, network = np.random.default_rng(0), experiment.network
    state = jax.tree.map(
        lambda like: (3 * random.standard_normal(like.shape)).astype(like.dtype), experiment.shapes
    )
    key = jax.random.key(1)
    expected = jax.device_get(jax.jit(experiment.sleep_step(network.grids))(state, key))
    asleep = on_devices(experiment.sleep_step(network.grids_on_devices), (0, None), 8)
    of_devices = jax.device_get(asleep(experiment.place(state), key))
    # Devices add in another order. Numbers go up to 12, whose last digit in float32 is 1e-6.
    chex.assert_trees_all_close(
        whole(of_devices, experiment.shapes), expected, atol=1e-5, rtol=1e-6
    )
    before, after = (local_arrays(of.params, network.grids) for of in (state, expected))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert min(jax.tree.leaves(moved)) > 0.1


class Encoder(nn.Module):
    """A convolution under the name that a local layer of the network has, too."""

    @nn.compact
    def __call__(self, x):
        return nn.Conv(2, (3, 3), name='conv')(x)


class Encoded(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images, train):
        x = nn.relu(Encoder(name='encoder')(images))
        x = nn.relu(LocalConv(2, (3, 3), shard_axis=AXIS, name='conv')(x))
        return nn.Dense(self.num_classes, name='logits')(x.mean((1, 2)))


def encoded(config, num_classes):
    return Encoded(num_classes)


def test_a_shared_kernel_is_whole_beside_a_local_one_of_the_same_name():
    changes = {'model.name': f'{__name__}:encoded', 'sleep.full_step': True}
    experiment = Experiment.create(get_config('mean', **changes))
    shapes, owners = experiment.shapes, experiment.owners
    adam = owners.opt_state[0]
    for tree in (owners.params, adam.mu, adam.nu):
        flat = flax.traverse_util.flatten_dict(tree, sep='/')
        assert flat.pop('conv/kernel').shard_axis == AXIS
        assert len(flat) == 5 and set(flat.values()) == {SHARED}
    assert list(by_path(owners.last_sleep)) == [('conv', 'kernel')]
    on_devices = sharding.shapes(shapes, owners)
    for state in (on_devices.params, on_devices.opt_state[0].mu):
        assert state['encoder']['conv']['kernel'].shape == (8, 3, 3, 1, 2)
        assert state['conv']['kernel'].shape == (8, 8, 3, 3, 2, 2)  # 8 of 64 positions

    whole = jax.device_get(jax.jit(experiment.initial_state)(jax.random.key(0)))
    placed = experiment.place(whole)
    shared = np.asarray(placed.params['encoder']['conv']['kernel'])
    assert (shared == whole.params['encoder']['conv']['kernel']).all()
    stored = experiment.snapshot(placed).params
    np.testing.assert_array_equal(stored['encoder']['conv']['kernel'], shared[0])
    parts = divided.whole(stored['conv']['kernel'], (8, 8, 3, 3, 2, 2))
    np.testing.assert_array_equal(parts, whole.params['conv']['kernel'])


# ---- Runs. ---------------------------------------------------------------------------------------

DIVIDE = '--config.shard_kernels'
KILL = 'os.kill(os.getpid(), signal.SIGKILL)'


@pytest.fixture(scope='module')
def starter(tmp_path_factory):
    return tiny_runs.Starter('resident', str(tmp_path_factory.mktemp('data')))


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(starter, tmp_path):
    """Before a record, and in a save of parts; all processes have four devices."""
    starter.fork(tmp_path / 'uninterrupted', DIVIDE, tiny_runs.ONE_SAVE, devices=4)
    for kill in (
        tiny_runs.record(4, KILL),
        tiny_runs.at(r"[^']*/35\.orbax[^/']*/", KILL, 4),
    ):
        killed = -signal.SIGKILL
        starter.fork(tmp_path / 'killed', DIVIDE, devices=4, before=kill, status=killed)
    starter.fork(tmp_path / 'killed', DIVIDE, tiny_runs.ONE_SAVE, devices=4)
    tiny_runs.assert_same(tmp_path / 'killed', tmp_path / 'uninterrupted')


@pytest.mark.parametrize('is_divided', [True, False])
def test_a_checkpoint_knows_what_is_divided_where_shapes_do_not_tell(is_divided, tmp_path):
    """8 copies of 8×8 positions: the parts of 8 devices have the shape of the whole."""
    whole = np.arange(8**3, dtype=np.float32).reshape(8, 8, 8, 1, 1, 1, 1)
    parts = divided.parts(whole, LocalConv(1, (1, 1)).grid(np.zeros((1, 8, 8, 1))), 8)
    assert parts.shape == whole.shape and (parts != whole).any()
    on_devices = parallel.place(lambda number: parts[number : number + 1])
    kernel = parallel.over_all(on_devices) if is_divided else whole
    state = TrainState(np.int32(1), {'layer': {'kernel': kernel}}, {}, (), {})
    shapes = jax.eval_shape(lambda: dataclasses.replace(state, params={'layer': {'kernel': whole}}))
    with checkpoint.Checkpoints(str(tmp_path)) as checkpoints:
        checkpoints.save(1, checkpoint.Snapshot.of(state), 0.5)
    with checkpoint.Checkpoints(str(tmp_path), read_only=True) as checkpoints:
        found = checkpoints.restore(1, shapes).state.params['layer']['kernel']
    np.testing.assert_array_equal(found, whole)


@pytest.mark.slow
def test_a_checkpoint_is_read_on_other_devices_divided_or_not(starter, tmp_path):
    """Each run continues the one before; with synchronised statistics they are all one run."""
    sync = '--config.model.sync_batch_norm'
    starter.fork(tmp_path / 'whole', sync, tiny_runs.ONE_SAVE, devices=1)
    runs = [(4, True), (2, True), (1, False), (8, True)]
    for number, (devices, divides) in enumerate(runs):
        last = number == len(runs) - 1
        stop = '' if last else tiny_runs.record(5, 'os.kill(os.getpid(), signal.SIGTERM)')
        flags, status = (f'{DIVIDE}={divides}', sync), 0 if last else 75
        starter.fork(tmp_path / 'divided', *flags, devices=devices, before=stop, status=status)
    expected, state = (tiny_runs.snapshot(tmp_path / run).state for run in ('whole', 'divided'))
    assert state.step == expected.step == 100
    chex.assert_trees_all_close(state.params, expected.params, atol=1e-4, rtol=0)


# ---- What cannot work. ---------------------------------------------------------------------------


def test_a_convolutional_network_has_nothing_to_divide():
    with pytest.raises(UsageError, match='shard_kernels=True acts on local kernels'):
        Experiment.create(get_config('none', connectivity='conv'))


class Undivided(nn.Module):
    """A model of one's own that does not look at config.shard_kernels."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train):
        x = LocalConv(2, (3, 3), name='first')(images)
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


def undivided(config, num_classes):
    return Undivided(num_classes)


def test_a_model_that_does_not_divide_its_layers_is_refused():
    config = get_config('none', **{'model.name': f'{__name__}:undivided'})
    message = "layers with shard_axis='batch', which first of .*undivided does not have"
    with pytest.raises(UsageError, match=message) as error:
        Experiment.create(config)
    assert '\n' not in str(error.value)


# ---- Memory. -------------------------------------------------------------------------------------


def planned(program, *arguments):
    """Of the arguments on a device, and of all that is there at once."""
    memory = program.lower(*arguments).compile().memory_analysis()
    return memory.argument_size_in_bytes, memory.temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.optimised
def test_a_sleep_gathers_one_layer_at_a_time():
    """Four layers take the room of one."""

    def temporary(**changes):
        changes = {'model.width': 32, 'model.stage_sizes': (2,)} | changes
        experiment = Experiment.create(get_config('mean', **changes))
        kernels = jax.tree.leaves(local_arrays(experiment.shapes.params, experiment.network.grids))
        assert len({kernel.size for kernel in kernels}) == 1
        asleep = experiment.sleep_step(experiment.network.grids_on_devices)
        program = parallel.per_device(asleep, (0, None), donate=[0])
        shapes = sharding.shapes(experiment.shapes, experiment.owners)
        bytes_at_once = planned(program, shapes, jax.random.key(0))[1]
        return len(kernels), bytes_at_once / (4 * kernels[0].size)

    one, of_one = temporary(**{'model.n_first_conv': 4, 'sleep.share_moments': False})
    four, of_four = temporary(**{'model.n_first_conv': 1, 'sleep.share_moments': False})
    assert (one, four) == (1, 4)
    assert of_four < 1.1 * of_one < 2
    with_moments = temporary(**{'model.n_first_conv': 1, 'sleep.share_moments': True})
    assert with_moments[1] < 6  # of 4 kernels and 8 moments
