"""Writes the activations of a trained network's layers for images, for use outside of JAX.

    python -m experiments.features --workdir=runs/imagenet --images=stimuli --out=stimuli.npz

`lcn_jax/brain/exchange.py` describes the npz file, which `lcn_jax/integrations/brain_score` reads.
Images that cannot be decoded are left out of it. They are then named, and the exit status is 1.
"""

from absl import flags

from experiments.common import cli, trained
from lcn_jax.brain import exchange, stimuli
from lcn_jax.errors import UsageError
from lcn_jax.files import locate, make_folder

IMAGES = flags.DEFINE_string('images', None, 'Folder or zip of images.', required=True)
LAYERS = flags.DEFINE_list(
    'layers', None, 'Names of layers; by default the blocks and all layers after them.'
)
OUT = flags.DEFINE_string('out', None, 'The npz file to write.', required=True)


def main(argv):
    del argv
    if not OUT.value.endswith('.npz'):
        raise UsageError(f'--out={OUT.value} must end in .npz.')
    network = trained.load()
    layers = LAYERS.value or network.layers
    files = stimuli.read(IMAGES.value)
    make_folder(locate(OUT.value).parent)
    left_out = exchange.write(OUT.value, network, files, layers)
    print(f'{OUT.value} has {len(layers)} layers of {len(files) - len(left_out)} images')
    if left_out:
        raise UsageError(f'some images are not in {OUT.value}: {" ".join(left_out.values())}')


if __name__ == '__main__':
    cli.run(main)
