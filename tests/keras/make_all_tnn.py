"""Writes all_tnn_*.h5 and all_tnn.npz beside this one: small All-TNNs trained by Keras 2.

    pip install tensorflow-cpu==2.15.1    # in an environment of its own
    python tests/keras/make_all_tnn.py

all_tnn_LN.h5 has the weights of a network with LayerNorm, all_tnn_BN.h5 a whole model with
BatchNorm. all_tnn.npz: what goes in, x, and what comes out, NORM/layer1 and so on, NORM/logits.
"""

import os
import pathlib

os.environ['CUDA_VISIBLE_DEVICES'] = ''

import numpy as np
from tensorflow import keras

HERE = pathlib.Path(__file__).parent
LAYERS = [(4, 3, 2), (9, 2, 1), (6, 2, 1)]  # features, kernel size, stride
POOLED = (1, 3)
NORMS = {'LN': keras.layers.LayerNormalization, 'BN': keras.layers.BatchNormalization}


def network(norm):
    inputs = x = keras.Input((20, 20, 3))
    outputs = {}
    for number, (features, kernel_size, stride) in enumerate(LAYERS, 1):
        local = keras.layers.LocallyConnected2D(
            features, kernel_size, strides=stride, name=f'sheet_{number - 1}'
        )
        x = keras.layers.ReLU()(local(x))
        x = outputs[f'layer{number}'] = NORMS[norm](name=f'{norm}_{number - 1}')(x)
        x = keras.layers.Dropout(0.2)(x)
        x = keras.layers.MaxPool2D()(x) if number in POOLED else x
    x = keras.layers.Dropout(0.2)(keras.layers.Flatten()(x))
    logits = outputs['logits'] = keras.layers.Dense(10, name='ReadoutDense')(x)
    return keras.Model(inputs, logits), keras.Model(inputs, outputs)


keras.utils.set_random_seed(0)
rng = np.random.RandomState(0)
images, labels = rng.rand(64, 20, 20, 3).astype(np.float32) * 2 - 1, rng.randint(10, size=64)
arrays = {'x': images[:4]}
for norm in NORMS:
    model, layers = network(norm)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02, epsilon=1e-7, clipnorm=500), loss)
    model.fit(images, labels, batch_size=16, epochs=5)
    arrays |= {f'{norm}/{name}': y for name, y in layers.predict(images[:4]).items()}
    path = HERE / f'all_tnn_{norm}.h5'
    model.save(path, include_optimizer=False) if norm == 'BN' else model.save_weights(path)
np.savez_compressed(HERE / 'all_tnn.npz', **arrays)
