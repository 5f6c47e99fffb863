"""Runs that start from another run's weights, freeze modules, or are trained longer."""

import re
import shutil

import flax.traverse_util
import jax
import numpy as np
import pytest
import tiny_runs
from PIL import Image

import lcn_jax
from experiments.common import overview
from experiments.configs import images
from lcn_jax.data.prepare import prepare
from lcn_jax.errors import UsageError
from lcn_jax.training import checkpoint, start, train
from lcn_jax.training import config as configs


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp('data')


@pytest.fixture(scope='module')
def make(data_dir):
    """Configs of a stem and a block, which sleep at step 7 of 10, in two epochs."""

    def make(**changes):
        config = tiny_runs.one_epoch(data_dir)
        of_all = {'model.stage_sizes': (1,), 'train_images': 120, 'epochs': 2}
        of_all |= {'sleep.rule': 'mean', 'sleep.share_moments': True}
        config.update_from_flattened_dict(of_all | changes)
        return config

    return make


@pytest.fixture(scope='module')
def birds(tmp_path_factory):
    """A folder with the dataset `birds`, of 8×8 pixels, in `data`."""
    home = tmp_path_factory.mktemp('birds')
    random = np.random.default_rng(0)
    for split, count in {'train': 60, 'test': 4}.items():
        for kind in ('robin', 'wren'):
            folder = home / 'birds' / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                image = random.integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(image).save(folder / f'{number}.png')
    prepare('birds', str(home / 'data'), str(home / 'birds'), None)
    return home


CONV = {'connectivity': 'conv', 'sleep.rule': 'none', 'sleep.full_step': False}


@pytest.fixture(scope='module')
def conv(make, tmp_path_factory):
    """The workdir of a convolutional network of another width in its block."""
    folder = tmp_path_factory.mktemp('conv')
    tiny_runs.train(make(**CONV), folder)
    return folder


def variables(workdir, which='latest'):
    state = tiny_runs.snapshot(workdir, which).state
    return flax.traverse_util.flatten_dict(state.variables, sep='/')


@pytest.mark.slow
@pytest.mark.parametrize('divided', [False, True])
def test_a_frozen_module_stays_bit_for_bit_and_its_moments_take_no_memory(
    make, conv, tmp_path, divided
):
    frozen = 'stem_.*|stage1_block1_conv2/kernel'
    config = make(init_from=f'{conv}@latest', freeze=frozen, seed=1, shard_kernels=divided)
    tiny_runs.train(config, tmp_path)
    own, theirs = variables(tmp_path), variables(conv)
    kept = [name for name in own if 'stem_' in name or name.endswith('block1_conv2/kernel')]
    assert len(kept) == 6  # kernels, and the scale, bias, mean and variance of the stem's norm
    for name in kept:
        np.testing.assert_array_equal(own[name], np.broadcast_to(theirs[name], own[name].shape))
    for name in own.keys() - set(kept):
        assert (own[name] != theirs[name]).any(), name
    slept = own['params/stage1_block1_conv1/kernel']
    assert np.ptp(slept, axis=(0, 1)).max() > 0
    experiment = tiny_runs.experiment(config)
    moments = [leaf.shape for leaf in jax.tree.leaves(experiment.shapes.opt_state)]
    assert moments.count((8, 8, 3, 3, 2, 2)) == 2  # of conv1; conv2 has none
    assert list(experiment.shapes.last_sleep) == ['stage1_block1_conv1']


@pytest.mark.slow
def test_modules_of_other_shapes_start_fresh_and_the_run_says_so(make, conv, tmp_path):
    config = make(init_from=str(conv), **{'model.width': 3})
    with pytest.raises(UsageError, match='no module there'):
        tiny_runs.experiment(config) and start.inherited(tiny_runs.experiment(config))
    config = make(init_from=str(conv), **{'model.stage_sizes': (1, 1)})
    experiment = tiny_runs.experiment(config)
    taken, fresh = start.inherited(experiment)
    assert set(taken) == {
        'stem_conv', 'stem_norm', 'stage1_block1_conv1', 'stage1_block1_norm1',
        'stage1_block1_conv2', 'stage1_block1_norm2',
    }  # fmt: skip
    assert 'logits' in fresh and 'stage2_block1_conv1' in fresh
    assert f'weights   of {conv}: stem_conv' in overview.summary(experiment, str(tmp_path)).replace(
        ', '.join(taken), 'stem_conv'
    )
    fresh = jax.device_get(jax.jit(experiment.initial_state)(jax.random.key(0)))
    state = start.inherit(fresh, experiment)
    theirs = variables(conv)['params/stem_conv/kernel']
    np.testing.assert_array_equal(
        state.params['stem_conv']['kernel'], np.broadcast_to(theirs, (8, 8, 3, 3, 1, 2))
    )
    np.testing.assert_array_equal(
        state.last_sleep['stem_conv']['kernel'], state.params['stem_conv']['kernel']
    )
    np.testing.assert_array_equal(
        state.params['logits']['kernel'], fresh.params['logits']['kernel']
    )


@pytest.mark.slow
def test_a_run_may_start_from_a_network_in_a_file(make, conv, tmp_path):
    path = tmp_path / 'conv.npz'
    lcn_jax.load(conv).save(path)
    experiment = tiny_runs.experiment(make(init_from=str(path)))
    assert start.inherited(experiment)[1] == []
    fresh = jax.device_get(jax.jit(experiment.initial_state)(jax.random.key(0)))
    own = start.inherit(fresh, experiment).params['stem_conv']['kernel']
    theirs = variables(conv)['params/stem_conv/kernel'].astype(np.float16)
    np.testing.assert_array_equal(own, np.broadcast_to(theirs, own.shape))


@pytest.mark.parametrize(
    'text, expected',
    [
        ('runs/a', ('runs/a', 'latest')),
        ('runs/a@best', ('runs/a', 'best')),
        ('runs/a@120', ('runs/a', '120')),
        ('runs/me@home', ('runs/me@home', 'latest')),
    ],
)
def test_a_checkpoint_may_be_named(text, expected):
    assert start.named(text) == expected


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'freeze': 'stem'}, 'modules are logits, .*stem_conv'),
        ({'freeze': '.*'}, 'leaves no parameter that learns'),
        ({'freeze': '.*conv.*'}, 'set config.sleep.rule=none'),
        ({'freeze': '('}, 'must be a regular expression'),
    ],
)
def test_patterns_that_make_no_sense_are_refused(make, changes, message):
    with pytest.raises(UsageError, match=message):
        lcn_jax.Experiment.create(make(**changes))


@pytest.mark.slow
def test_a_finished_run_can_be_trained_longer(make, conv, tmp_path):
    shutil.copytree(conv, tmp_path / 'run')
    before = tiny_runs.records(tmp_path / 'run')
    config = make(**CONV, epochs=4)
    text = overview.summary(lcn_jax.Experiment.create(config), str(tmp_path / 'run'))
    # Of 20 steps the rate drops at 10 and 15, of 10 at 5 and 7; both by a factor of 4.
    rate = config.learning_rate
    assert f'2 epochs ended with {rate / 16:g}; it goes on with {rate:g}' in text
    tiny_runs.train(config, tmp_path / 'run')
    records = tiny_runs.records(tmp_path / 'run')
    assert records[: len(before)] == before and records[-1]['step'] == 20
    # A run that is not finished keeps its epochs, and so does one that a table has recorded.
    config.epochs = 5
    with checkpoint.Checkpoints(str(tmp_path / 'run')) as checkpoints:
        checkpoints._manager.delete(20)
    with pytest.raises(UsageError, match='epochs is 4 there, 5 here'):
        train.train_and_evaluate(config, str(tmp_path / 'run'))
    with pytest.raises(UsageError, match='epochs is 4 there, 5 here'):
        checkpoint.check_same(str(tmp_path / 'run'), config)


@pytest.mark.slow
def test_the_script_in_the_docs_does_everything_with_public_names(make, birds, monkeypatch, capsys):
    page = (tiny_runs.ROOT / 'docs/after_training.md').read_text()
    script = re.search(r'```python\n(.*?)```', page, re.DOTALL)[1]
    assert len([line for line in script.splitlines() if line]) <= 25
    assert set(re.findall(r'lcn_jax\.(\w+)', script)) <= set(lcn_jax.__all__)
    monkeypatch.chdir(birds)
    tiny_runs.train(make(), birds / 'runs/digits')
    names = {}
    exec(compile(script, 'after_training.md', 'exec'), names)
    assert names['tuned'].class_names == ('robin', 'wren')
    for name, same in {'stem_conv': True, 'stage1_block1_conv1': False}.items():
        assert (names['run'].kernel(name) == names['tuned'].kernel(name)).all() == same
    kernel = names['slept'].kernel('stage1_block1_conv1')
    np.testing.assert_allclose(kernel[0, 0], kernel[3, 3], atol=1e-6)  # 3 apart: one pool
    assert "'test_top1'" in capsys.readouterr().out


@pytest.mark.parametrize('kind', configs.KINDS)
def test_the_config_for_own_images_is_one_of_all_kinds(birds, kind):
    config = images.get_config(kind)
    config.dataset, config.data_dir, config.image_size = 'birds', str(birds / 'data'), 8
    experiment = lcn_jax.Experiment.create(config)
    assert experiment.schedule.steps_per_epoch == 120 * config.translations.repetitions // 48
