"""Trains the networks that come with the package, and writes their cards, in minutes.

    python -m experiments.pretrain --out=lcn_jax/pretrained

writes OUT/digits/NAME.npz, which `lcn_jax.load('digits/NAME')` reads, and OUT/digits/NAME.json, its
card: how good the network in the file is on the test images, and how it was trained.
"""

import os
import tempfile

from absl import flags

from experiments.common import cli
from experiments.common.provenance import provenance
from experiments.configs import digits
from lcn_jax.files import local_folder, to_json, write_text
from lcn_jax.trained.load import load
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.progress import Progress
from lcn_jax.training.train import train_and_evaluate

OUT = flags.DEFINE_string('out', None, 'Folder of the networks.', required=True)

# The kind of each network, and fields of its config.
NETWORKS = {
    'conv': ('conv', {}),
    'lc': ('lc', {}),
    'lc_mean1_joined': ('lc_mean_joined', {'sleep.every': 1}),
    'lc_mean_joined': ('lc_mean_joined', {}),
    'lc_hebbian_joined': ('lc_hebbian_joined', {}),
}


def main(argv):
    del argv
    folder = local_folder('--out', OUT.value) / 'digits'
    for name, (kind, fields) in NETWORKS.items():
        config = digits.get_config(kind)
        config.update_from_flattened_dict(fields)
        card = pretrain(config, str(folder / name))
        options = ''.join(f' --config.{field}={value}' for field, value in fields.items())
        card['command'] = (
            f'python -m experiments.train --config=digits:{kind}{options} --workdir=runs/{name}'
        )
        write_text(folder / f'{name}.json', to_json(card, indent=1))


def pretrain(config, path: str) -> dict:
    """Trains a network and saves it to PATH.npz; returns its card, but for the command."""
    experiment = Experiment.create(config)
    with tempfile.TemporaryDirectory() as workdir:
        train_and_evaluate(config, workdir, Progress(os.path.basename(path)), experiment)
        load(workdir).save(f'{path}.npz')
    return {
        **load(f'{path}.npz', data_dir=config.data_dir).evaluate().metrics,
        'parameters': experiment.network.parameters,
        'bytes': os.path.getsize(f'{path}.npz'),
        **provenance(),
    }


if __name__ == '__main__':
    cli.run(main)
