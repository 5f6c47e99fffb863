"""Writes the files beside this one: what locally connected layers of Keras 2 compute.

    pip install tensorflow-cpu tf-keras    # in an environment of its own
    python tests/keras/make_recordings.py

layers.npz: LocallyConnected1D and 2D with random weights, for both data formats, the three
implementations and both paddings. Layer NAME has NAME/config (JSON), NAME/weights/0 and 1, and
NAME/x and NAME/y, what goes in and comes out.
model.h5: a model of two such layers and a dense one, trained for some steps, as Keras saves it.
model.npz: what goes in and comes out of it, x and y.
"""

import itertools
import json
import os
import pathlib

os.environ['CUDA_VISIBLE_DEVICES'] = ''

import numpy as np
import tf_keras as keras

HERE = pathlib.Path(__file__).parent
TAKEN = (
    'filters', 'kernel_size', 'strides', 'padding', 'data_format', 'use_bias', 'implementation',
)  # fmt: skip
LAYERS = {
    '1d': (keras.layers.LocallyConnected1D, (11,), dict(kernel_size=4, strides=3)),
    '2d': (keras.layers.LocallyConnected2D, (6, 5), dict(kernel_size=(4, 3), strides=(1, 2))),
}


def layers():
    rng = np.random.RandomState(0)
    options = itertools.product(
        LAYERS, ('valid', 'same'), ('channels_last', 'channels_first'), (1, 2, 3)
    )
    arrays = {}
    for kind, padding, data_format, implementation in options:
        if padding == 'same' and implementation == 1:
            continue  # Keras does not have it
        make, size, geometry = LAYERS[kind]
        shape = (*size, 2) if data_format == 'channels_last' else (2, *size)
        layer = make(
            3,
            **geometry,
            padding=padding,
            data_format=data_format,
            implementation=implementation,
            activation='linear',
        )
        layer.build((None, *shape))
        layer.set_weights([rng.randn(*w.shape).astype(np.float32) for w in layer.get_weights()])
        x = rng.randn(2, *shape).astype(np.float32)
        name = f'{kind} {padding} {data_format} {implementation}'
        config = {key: value for key, value in layer.get_config().items() if key in TAKEN}
        arrays |= {f'{name}/config': np.array(json.dumps(config))}
        arrays |= {f'{name}/weights/{i}': value for i, value in enumerate(layer.get_weights())}
        arrays |= {f'{name}/x': x, f'{name}/y': layer(x).numpy()}
    return arrays


def model():
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.layers.LocallyConnected2D(
                6, 3, activation='relu', input_shape=(9, 8, 2), name='first'
            ),
            keras.layers.LocallyConnected2D(
                4, 3, strides=2, activation='relu', padding='same', implementation=3, name='second'
            ),
            keras.layers.Flatten(),
            keras.layers.Dense(5, name='logits'),
        ]
    )
    network.compile(
        keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    rng = np.random.RandomState(0)
    x, labels = rng.randn(64, 9, 8, 2).astype(np.float32), rng.randint(5, size=64)
    network.fit(x, labels, batch_size=16, epochs=5)
    return network, x[:4]


network, x = model()
network.save(HERE / 'model.h5', include_optimizer=False)
np.savez_compressed(HERE / 'model.npz', x=x, y=network.predict(x))
np.savez_compressed(HERE / 'layers.npz', **layers())
