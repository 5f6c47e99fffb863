"""The commands of an installation, run from a folder without a repository."""

import configparser
import os
import subprocess
import sys

import pytest
import tiny_runs

from experiments.common import config_files

CONFIGS = str(tiny_runs.ROOT / 'experiments/configs')


def entry_points() -> dict[str, str]:
    parser = configparser.ConfigParser()
    parser.read(tiny_runs.ROOT / 'setup.cfg')
    lines = parser['options.entry_points']['console_scripts'].strip().splitlines()
    return dict(line.split(' = ') for line in lines)


def test_every_command_is_a_binary():
    for name, target in entry_points().items():
        binary = tiny_runs.ROOT / f'experiments/{name.removeprefix("lcn-").replace("-", "_")}.py'
        assert 'cli.run(main)' in binary.read_text()
        assert target == 'lcn_jax.commands:main'


@pytest.mark.parametrize(
    'given, expected',
    [
        (['--config=digits:lc'], [f'--config={CONFIGS}/digits.py:lc']),
        (['-config=digits'], [f'-config={CONFIGS}/digits.py']),
        (['--config', 'digits:lc', 'x'], ['--config', f'{CONFIGS}/digits.py:lc', 'x']),
        (['--config=my/digits.py:lc', '--workdir=digits'], None),
        (['--config=other:lc', '--config.dataset=digits', '--config='], None),
    ],
)
def test_configs_are_found_by_name(given, expected):
    assert config_files.found(['train', *given]) == ['train', *(expected or given)]


@pytest.mark.slow
def test_commands_run_from_what_is_installed(tmp_path):
    """With a model of the user's own in the current folder, and no `experiments` beside it."""
    pytest.importorskip('setuptools')
    installed, folder = tmp_path / 'site', tmp_path / 'folder'
    build = [sys.executable, 'setup.py', '-q', 'build', f'--build-base={tmp_path}/build']
    subprocess.run([*build, f'--build-lib={installed}'], cwd=tiny_runs.ROOT, check=True)
    assert not (installed / 'experiments').exists()
    folder.mkdir()
    (folder / 'own.py').write_text(
        'import flax.linen as nn\n'
        'import lcn_jax\n'
        'class Net(nn.Module):\n'
        '    @nn.compact\n'
        '    def __call__(self, x, train):\n'
        '        x = lcn_jax.LocalConv(3, 2, name="mine")(x)\n'
        '        return nn.Dense(10)(x.mean((1, 2)))\n'
        'def net(config, classes):\n'
        '    return Net()\n'
    )

    def run(command, *flags):
        program = (
            f'import sys; sys.argv[0] = {command!r}; from lcn_jax.commands import main; main()'
        )
        return subprocess.run(
            [sys.executable, '-c', program, *flags],
            cwd=folder,
            env=os.environ | {'PYTHONPATH': str(installed), 'JAX_PLATFORMS': 'cpu'},
            capture_output=True,
            text=True,
        )

    done = run('lcn-describe', '--config=digits:lc', '--config.model.name=own:net')
    assert done.returncode == 0, done.stderr
    assert 'mine' in done.stdout
    done = run('lcn-train', '--help')
    assert 'Trains one network.' in done.stdout and '--workdir' in done.stdout
    assert run('lcn-train', '--config=digits').stderr.startswith('error: ')
