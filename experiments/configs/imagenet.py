"""ImageNet with the half-width ResNet-18.

    python -m experiments.prepare --dataset=imagenet2012 --data_dir=DIR --source=FOLDER_OF_THE_TARS
    python -m experiments.train --config=experiments/configs/imagenet.py:lc_hebbian \\
        --config.data_dir=DIR --workdir=runs/imagenet

Random-resized crops and flips to train, the centre crop of the official validation images to test.
Set `--config.workers` to the number of CPU cores that may decode images. The kinds with locally
connected layers have half a billion parameters; `--config.model.n_first_conv=1` keeps the first
convolution, with the most positions, shared.
"""

from lcn_jax.training import config as configs


def get_config(kind: str = 'lc_hebbian'):
    config = configs.apply_kind(configs.default(), kind)
    config.dataset = 'imagenet2012'
    config.image_size = 224
    config.flip = True
    config.mean = (0.485, 0.456, 0.406)
    config.std = (0.229, 0.224, 0.225)
    config.translations.padding = 16 if kind == 'lc_translations' else 0
    config.model.stage_sizes = (2, 2, 2, 2)
    config.model.width = 32
    config.model.stem = 'imagenet'
    config.model.dtype = 'bfloat16'
    config.batch_size = 256
    config.epochs = 200
    config.learning_rate = 1e-3 if kind == 'conv' else 5e-4
    config.weight_decay = 1e-2
    # Half of the default: with it, 128 patterns a step for the 2,304 weights of a neuron of stage 4
    # are so few that a sleep would leave 60 % of the deviations; now 7 %.
    config.sleep.hebbian.learning_rate = 0.05
    return config
