"""The All-TNN with its published shape: 150 pixels, six local layers, 108 million parameters.

    python -m experiments.describe --config=all_tnn:lc
    python -m experiments.prepare --dataset=ecoset --data_dir=DIR --source=ecoset
    python -m experiments.train --config=all_tnn:lc --config.dataset=ecoset \\
        --config.data_dir=DIR --config.penalty.weight=10 --workdir=runs/all_tnn

Shape, Adam, clipping, L2 and batch size are those of its published code. That leaves norm, dropout,
epochs and the weight of the penalty, the paper's α, to the user: choose them for your data.
`:lc_mean_joined` is the same network with sleep. For other image sizes, change the shape as
`all_tnn_small` does.
"""

from lcn_jax.training import config as configs


def get_config(kind: str = 'lc'):
    config = configs.apply_kind(configs.default(), kind)
    config.dataset, config.image_size = 'imagenet2012', 150  # which can be described without data
    config.mean = config.std = (0.5, 0.5, 0.5)  # pixels from -1 to 1
    config.model.name, config.model.norm = 'all_tnn', 'layer'
    config.model.dropout = 0.2
    config.batch_size, config.epochs = 512, 600
    config.optimizer, config.learning_rate, config.drops_at = 'adam', 1e-3, ()
    config.weight_decay, config.clip = 2e-6, 500.0
    if config.connectivity == 'lc':
        config.penalty.name, config.penalty.weight = 'smoothness', 10.0
        config.penalty.smoothness.circular = config.penalty.smoothness.by_direction = True
    return config
