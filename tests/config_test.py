"""Configs: their fields, kinds and rows, and those of earlier versions."""

import hashlib
import importlib
import json

import jax
import numpy as np
import pytest
import tiny_config
import tiny_runs
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.reports.rows import PAPER, ROWS, config_of
from experiments.reports.rows import PRESETS as PRESETS_OF_TABLE
from lcn_jax.errors import UsageError
from lcn_jax.sleep import rules
from lcn_jax.training import config as configs
from lcn_jax.training import parallel
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.kinds import PRESETS
from lcn_jax.training.network import Network

FILES = ('cifar10', 'cifar100', 'cifar10_small', 'digits', 'imagenet', 'tiny_imagenet')
# The configs that get_config of every file made of every kind at commit 81f826f: the fields in
# which each differs from what is common, and a hash of the paths and shapes of its parameters.
BEFORE = json.loads((tiny_runs.ROOT / 'tests/configs_81f826f.json').read_text())


def get_config(name):
    file, kind = name.split(':')
    return importlib.import_module(f'experiments.configs.{file}').get_config(kind)


def flat(config):
    return flatten_dict(config.to_dict(), sep='.')


def recorded(name):
    """As config.json of a run has it, but for the sections of JSON."""
    return BEFORE['common'] | BEFORE['configs'][name]['changes']


# ---- Fields. -------------------------------------------------------------------------------------


def test_defaults_are_in_their_ranges():
    assert flat(configs.default()) == {name: value for name, (value, _) in configs.FIELDS.items()}
    configs.check(configs.default())


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('learning_rate', -0.01, 'a number, 0 or more'),
        ('learning_rate', float('nan'), 'a number, 0 or more'),
        ('weight_decay', float('inf'), 'a number, 0 or more'),
        ('drop', -1.0, 'a number, 0 or more'),
        ('drops_at', (100.0,), 'a tuple of fractions of the training, each a number from 0 to 1'),
        ('momentum', 1.0, 'a number from 0 to 1, but not 1'),
        ('seed', -1, 'an integer from 0 to 4294967295'),
        ('seed', 2**32, 'an integer from 0 to 4294967295'),
        ('seed', 10**30, 'an integer from 0 to 4294967295'),
        ('epochs', True, 'an integer, 1 or more'),
        ('model.stage_sizes', (1.5,), 'a tuple of values, each an integer, 1 or more'),
        ('model.shared', '(', 'a regular expression'),
        ('mean', (127.5,), 'a tuple of values, each a number from 0 to 1'),
        ('std', (0.0,), 'a tuple of values, each a number, 0 or more, but not 0'),
        ('pools.kind', 'all', 'one of tiled, joined'),
        ('data_dir', '', 'a string, and not empty'),
    ],
)
def test_a_value_out_of_its_range_is_one_line(field, value, message):
    config = tiny_config.get_config('lc')
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UsageError) as error:
        configs.check(config)
    assert str(error.value).startswith(f'config.{field} is {value!r}; it must be {message}')


def test_the_largest_seed_is_one_of_its_own():
    """Larger ones, and negative ones, would repeat the random numbers of others."""
    data = [tuple(jax.random.key_data(jax.random.key(seed))) for seed in (0, 2**32 - 1, 2**32)]
    assert data[0] != data[1] and data[0] == data[2]
    config = tiny_config.get_config('lc')
    config.seed = 2**32 - 1
    configs.check(config)


def test_a_section_set_as_a_whole_is_one_line():
    config = tiny_config.get_config('lc')
    config.sleep = {'rule': 'mean'}
    with pytest.raises(UsageError, match=r'config\.sleep\.every is missing: .* set single fields'):
        configs.check(config)


@pytest.mark.parametrize('field', configs.RENAMED)
def test_a_field_that_has_another_name_now_is_refused_with_that_name(field):
    config = tiny_config.get_config('lc')
    section, _, name = field.rpartition('.')
    config[section][name] = 'tiled'  # as in a user's file: such configs are not locked
    with pytest.raises(UsageError, match=f'config.{field} is now config.{configs.RENAMED[field]}'):
        Experiment.create(config)


@pytest.mark.parametrize(
    ('values', 'refused', 'remedy'),
    [
        ({'evry': 2}, 'evry', 'lcn_jax/training/config.py has them all.'),
        ({'sleep': {'evry': 2}}, 'sleep.evry', 'did you mean config.sleep.every?'),
        ({'sleep': {'own': {'rate': 1}}}, 'sleep.own.rate', "config.sleep.rule is 'none'."),
        ({'sleep': {'rule': 'a:own', 'own': {'rate': 1}}}, None, ''),
        ({'sleep': {'rule': 'a:own', 'other': {'rate': 1}}}, 'sleep.other.rate', "is 'a:own'."),
        ({'penalty': {'name': 'a:own', 'own': {'power': 1}}}, None, ''),
        ({'model': {'units': 2}}, 'model.units', 'lcn_jax/training/config.py has them all.'),
        ({'model': {'name': 'a:own', 'depth': 2}}, None, ''),
    ],
)
def test_fields_that_nobody_reads_are_refused(values, refused, remedy):
    config = tiny_config.get_config('lc')
    config.update(values)
    if refused is None:
        configs.check(config)
        return
    with pytest.raises(UsageError) as error:
        configs.check(config)
    assert str(error.value).startswith(f'there is no field config.{refused}: ')
    assert str(error.value).endswith(remedy)


# ---- Earlier versions. ---------------------------------------------------------------------------


OF_SMOOTHNESS = {'circular': False, 'neighbours': 4, 'by_direction': False}
OF_ALL_TNN = ('features', 'kernel_sizes', 'strides', 'pooled')

# Later fields, and the values with which runs do what they did before.
SINCE = {'times_pool_size': True, 'init_from': '', 'freeze': '', 'report': '', 'profile': 0}
SINCE |= {'sleep.equalise_momentum': False, 'sleep.noise.patterns': 8, 'sleep.noise.rate': 0.5}
SINCE |= {'sleep.feedback': False, 'clip': 0.0, 'model.dropout': 0.0}
SINCE |= {'penalty.factors': (), 'penalty.schedule': 'constant'}
SINCE |= {f'penalty.smoothness.{name}': value for name, value in OF_SMOOTHNESS.items()}
SINCE |= {f'model.{name}': configs.FIELDS[f'model.{name}'][0] for name in OF_ALL_TNN}


@pytest.mark.parametrize('name', BEFORE['configs'])
def test_a_recorded_config_keeps_its_values(name):
    values = flat(configs.complete(unflatten_dict(recorded(name), sep='.')))
    assert {field: values.pop(field) for field in SINCE} == SINCE
    assert json.loads(json.dumps(values)) == {
        {'sleep.pools': 'pools.kind', 'sleep.border': 'pools.border'}.get(field, field): value
        for field, value in recorded(name).items()
    }


@pytest.mark.parametrize('file', FILES)
def test_a_recorded_config_describes_the_same_network(file):
    networks = {}
    for name, entry in BEFORE['configs'].items():
        if name.startswith(f'{file}:'):
            config = configs.complete(unflatten_dict(recorded(name), sep='.'))
            networks[config.connectivity, repr(config.model)] = config, entry['shapes']
    assert len(networks) >= 2
    for config, expected in networks.values():
        configs.check(config)
        params = jax.tree_util.tree_leaves_with_path(Network.create(config).variables['params'])
        shapes = sorted(
            f'{jax.tree_util.keystr(path, simple=True, separator="/")} {leaf.shape} {leaf.dtype}'
            for path, leaf in params
        )
        found = hashlib.sha256('\n'.join(shapes).encode()).hexdigest()
        assert found.startswith(expected)


# Digits gave the paper's kinds the settings that have kinds of their own now.
MOVED = {'digits:lc_mean': 'digits:lc_mean_tiled', 'digits:lc_hebbian': 'digits:lc_hebbian_tiled'}


@pytest.mark.parametrize('name', BEFORE['configs'])
def test_kinds_are_what_they_were_but_for_sleeps_on_digits(name):
    before = configs.complete(unflatten_dict(recorded(name), sep='.'))
    assert get_config(name).to_dict().keys() == before.to_dict().keys()  # the name is known
    if name not in ('digits:lc_exact', 'digits:lc_circuit'):
        assert flat(get_config(MOVED.get(name, name))) == flat(before)


def test_rows_are_known_still():
    assert ROWS.keys() >= set(BEFORE['rows'])
    for folder in ('cifar10_small', 'laboratory'):
        path = tiny_runs.ROOT / 'experiments/results' / folder / 'table.json'
        for rows in json.loads(path.read_text())['cells'].values():
            assert ROWS.keys() >= rows.keys()


# ---- Kinds. --------------------------------------------------------------------------------------


@pytest.mark.parametrize('file', [*FILES, 'cifar100_small', 'tiny_imagenet_small'])
@pytest.mark.parametrize('kind', configs.KINDS)
def test_a_kind_is_the_same_in_every_file(file, kind):
    of_kinds = {field for fields in configs.KINDS.values() for field in fields}
    own = flat(configs.apply_kind(configs.default(), kind))
    found = flat(get_config(f'{file}:{kind}'))
    repetitions = 'translations.repetitions'  # a size: any number of copies, where there are some
    assert (found[repetitions] > 1) == (own[repetitions] > 1)
    for field in of_kinds - {repetitions}:
        assert found[field] == own[field], field


def test_sleeps_of_the_paper_s_kinds_share_weights_and_nothing_else():
    for kind in configs.KINDS.keys() - PRESETS.keys():
        config = configs.apply_kind(configs.default(), kind)
        assert not config.sleep.share_moments and not config.sleep.full_step
        assert (config.pools.kind, config.model.init) == ('tiled', 'independent')


# ---- Rows. ---------------------------------------------------------------------------------------


def test_a_row_is_its_kind_then_what_the_file_says_of_it_then_what_is_given():
    file = {
        'get_config': tiny_config.get_config,
        'ROWS': {'lc_mean1': {'learning_rate': 0.25, 'momentum': 0.5, 'sleep.every': 7}},
    }
    own, other = (config_of(row, file, {'momentum': 0.75}) for row in ('lc_mean1', 'lc_mean10'))
    assert (own.learning_rate, own.momentum) == (0.25, 0.75)
    assert (own.sleep.every, other.sleep.every) == (1, 10)  # which is what makes them these rows
    changes = {'learning_rate': 0.25, 'sleep.every': 1}
    assert flat(own) == flat(other) | changes
    assert other.learning_rate == tiny_config.get_config('lc_mean').learning_rate


# The best on digits that were held out, and the rate by SGD: docs/laboratory.md, and
# experiments/results/feedback/README.md for feedback that sleeps.
CHOSEN_ON_DIGITS = {
    5e-3: 'low_rank2 low_rank4',
    1e-2: 'lc_mean10_joined_local lc_hebbian10_joined_local conv_none lc_none '
    'lc_mean10_joined_none lc_hebbian10_joined_none lc_alignment',
    2e-2: 'lc_local lc_mean1_joined_none lc_mean1_joined_alignment lc_mean10_joined_alignment '
    'lc_mean10_joined_direct lc_mean10_joined_alignment_asleep',
    4e-2: 'lc_deviation3 lc_deviation10 lc_deviation30 lc_mean1_joined_local conv_alignment '
    'lc_direct lc_mean1_joined_direct lc_readout lc_mean1_joined_alignment_asleep',
    5e-2: 'lc_sgd relax1 relax3 relax6 relax12 relax18 relax_never',
    8e-2: 'conv_direct',
    0.1: 's_fc_sgd s_fc_beta_lasso',
    16e-2: 'conv_readout',
}
OF_DATA = ('learning_rate', 'lasso', 'epochs', 'momentum', 'batch_size')


def test_rates_that_were_chosen_on_digits_are_those_of_digits_alone():
    digits = vars(importlib.import_module('experiments.configs.digits'))
    chosen = {row: rate for rate, rows in CHOSEN_ON_DIGITS.items() for row in rows.split()}
    for row, settings in ROWS.items():
        kind = digits['get_config'](settings.kind)
        assert config_of(row, digits, {}).learning_rate == chosen.get(row, kind.learning_rate), row
        assert config_of(row, digits, {'learning_rate': 0.25}).learning_rate == 0.25
        elsewhere = config_of(row, {'get_config': tiny_config.get_config}, {})
        kind = tiny_config.get_config(settings.kind)
        assert [elsewhere[name] for name in OF_DATA] == [kind[name] for name in OF_DATA], row


@pytest.mark.parametrize('file', ['cifar100_small', 'tiny_imagenet_small'])
def test_small_configs_differ_in_their_images_and_rates(file):
    small, cifar10 = (
        vars(importlib.import_module(f'experiments.configs.{name}'))
        for name in (file, 'cifar10_small')
    )
    of_images = {'dataset', 'image_size', 'learning_rate'}
    for row in PAPER | PRESETS_OF_TABLE:
        own, other = (flat(config_of(row, config, {})) for config in (small, cifar10))
        assert {field for field in own if own[field] != other[field]} <= of_images
        joined, every = own['pools.kind'] == 'joined', own['sleep.every']
        assert own['momentum'] == (0.97 if joined and every > 1 else 0.9)


# ---- Rules and penalties that fail. --------------------------------------------------------------


def forgetful(kernel, neurons, key, *, border):
    return {}['the kernel']


def careless(kernel, bias, neurons, *, border):
    if (kernel > 0).all():  # of an array that JAX traces
        return kernel.sum()


def picky(kernel, neurons, key, *, border):
    raise ValueError('not\nthese weights')


def fading(kernel, neurons, key, *, border, power):
    return kernel * (0 * kernel) ** power


def line(function, number):
    return f'({__file__}:{function.__code__.co_firstlineno + number})'


@pytest.mark.parametrize(
    ('changes', 'message', 'number'),
    [
        ({'sleep.rule': forgetful}, "config.sleep.forgetful: KeyError: 'the kernel'", 1),
        ({'sleep.rule': picky}, 'config.sleep.picky: not', 1),
        ({'penalty.name': careless}, 'config.penalty.careless: TracerBoolConversionError: ', 1),
    ],
    ids=['rule', 'bad input', 'penalty'],
)
def test_a_mistake_in_a_function_of_ones_own_is_one_line_with_its_place(changes, message, number):
    config = tiny_config.get_config('lc')
    ((field, function),) = changes.items()
    config.update_from_flattened_dict({field: f'{__name__}:{function.__name__}'})
    of = Experiment.create(config)
    with pytest.raises(UsageError) as error:
        of.sleep if field == 'sleep.rule' else of.penalty  # noqa: B018
    text = str(error.value)
    assert text.startswith(message) and text.endswith(line(function, number)) and '\n' not in text
    assert error.value.__cause__ is not None


@pytest.mark.parametrize(('power', 'named'), [(-1.0, True), (1.0, False)])
def test_a_rule_of_ones_own_that_makes_nan_is_named(power, named):
    config = tiny_config.get_config('lc')
    config.sleep.rule, config.sleep.fading = f'{__name__}:fading', {'power': power}
    of = Experiment.create(config)
    state, key = of.init(parallel.replicate(jax.random.key(0))), jax.random.key(1)
    if not named:
        assert not jax.device_get(of.sleep(state, key)).params['stem_conv']['kernel'].any()
        return
    with pytest.raises(UsageError, match=r'config_test:fading made .* in the sleep at step 0'):
        of.sleep(state, key)


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(rules.RULES, 'mean', forgetful)
    with pytest.raises(KeyError):
        Experiment.create(tiny_config.get_config('lc_mean')).sleep  # noqa: B018


def test_a_bad_option_of_a_rule_is_named_as_the_config_names_it():
    config = tiny_config.get_config('lc_exact')
    config.sleep.exact.gamma = -1.0
    with pytest.raises(UsageError, match=r'^config\.sleep\.exact: gamma must be a number, 0 or'):
        Experiment.create(config).sleep  # noqa: B018


def test_devices_may_divide_the_patterns_of_a_sleep():
    def after(split):
        config = tiny_config.get_config('lc_hebbian')
        config.sleep.hebbian.steps, config.sleep.hebbian.patterns_per_step = 5, 16
        config.sleep.hebbian.split_patterns = split
        of = Experiment.create(config)
        state = of.init(parallel.replicate(jax.random.key(0)))
        return jax.device_get(of.sleep(state, jax.random.key(1))).params['stem_conv']['kernel']

    np.testing.assert_allclose(after(True), after(False), atol=1e-5)
