"""All-TNNs and local layers of Keras 2, in a process of the Python that has it.

    PYTHON keras_process.py

reads lines of JSON, each with the name of one of FUNCTIONS and its arguments, and answers each with
a line. The file needs nothing of the project, because that Python does not have JAX.
"""

import gc
import json
import math
import os
import platform
import resource
import sys
from importlib import metadata

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

try:
    import numpy as np
    import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]
    from tensorflow import keras  # pyright: ignore[reportMissingModuleSource]

    LocallyConnected2D = keras.layers.LocallyConnected2D
except (ImportError, AttributeError):  # no TensorFlow, or Keras 3
    sys.exit(1)
tf.get_logger().setLevel('ERROR')  # it warns of programs that are compiled anew


class Sparse(LocallyConnected2D):
    """Implementation 3, with the list of its weights from NumPy.

    Keras makes the same list one weight after the other, which takes minutes for a layer of the
    published network.
    """

    def build(self, input_shape):
        _, *shape = input_shape
        down, right = self.strides
        numbers = np.arange(math.prod(shape)).reshape(shape)
        windows = np.lib.stride_tricks.sliding_window_view(numbers, self.kernel_size, (0, 1))
        windows = np.moveaxis(windows[::down, ::right], 2, -1)
        self.output_row, self.output_col = windows.shape[:2]
        outputs = self.output_row, self.output_col, self.filters, 1, 1, 1
        each = np.arange(math.prod(outputs)).reshape(outputs)
        pairs = np.broadcast_arrays(each, windows[:, :, None])
        self.kernel_idxs = np.stack([indices.ravel() for indices in pairs], 1)
        self.kernel_shape = each.size, numbers.size
        self.kernel = self.add_weight(
            'kernel', (len(self.kernel_idxs),), regularizer=self.kernel_regularizer
        )
        if self.use_bias:
            self.bias = self.add_weight('bias', outputs[:3], initializer='zeros')
        self.built = True


def local(features, kernel_size, stride, implementation, **options):
    """A local layer of Keras."""
    made = Sparse if implementation == 3 else LocallyConnected2D
    return made(features, kernel_size, strides=stride, implementation=implementation, **options)


programs = {}  # what `call` calls, by name


def versions():
    """Those of the JSON file."""
    return {
        'tensorflow': tf.__version__,
        'keras': metadata.version('keras'),
        'python': platform.python_version(),
    }


def smoothness(layer):
    """The published penalty of a layer of implementation 1: (1 - cosine) / 2 on a circular sheet.

    The mean over the pairs of a neuron and its right neighbour, and that of the lower ones.
    """
    height, width, features = layer.bias.shape
    rows = max(a for a in range(1, math.isqrt(features) + 1) if features % a == 0)
    columns = features // rows
    of_neurons = tf.transpose(layer.kernel, (0, 2, 1))
    of_neurons = tf.concat(
        [tf.reshape(of_neurons, (height, width, features, -1)), layer.bias[..., None]], -1
    )
    sheet = tf.reshape(of_neurons, (height, width, rows, columns, -1))
    sheet = tf.transpose(sheet, (0, 2, 1, 3, 4))
    sheet = tf.reshape(sheet, (height * rows, width * columns, -1))
    sheet = tf.math.l2_normalize(sheet, -1)
    right = tf.concat([sheet[:, 1:], sheet[:, :1]], 1)
    lower = tf.concat([sheet[1:], sheet[:1]], 0)
    cosines = [tf.reduce_mean(tf.reduce_sum(sheet * other, -1)) for other in (right, lower)]
    return (1 - tf.add_n(cosines) / 2) / 2


def step(name, implementation, weight, batch_size, size, classes, shape, dropout, l2, clip, rate):
    """A training step of an All-TNN on one batch.

    weight: of the penalty, 0 for none. size: of the images. shape: features, kernel size, stride
    and 'is there a pool' of each layer. l2, clip: as those of Keras.
    """
    layers = []
    inputs = x = keras.Input((size, size, 3))
    for features, kernel_size, stride, pooled in shape:
        regularizer = keras.regularizers.L2(l2)
        layers.append(
            local(features, kernel_size, stride, implementation, kernel_regularizer=regularizer)
        )
        x = keras.layers.LayerNormalization()(keras.layers.ReLU()(layers[-1](x)))
        x = keras.layers.Dropout(dropout)(x)
        x = keras.layers.MaxPool2D()(x) if pooled else x
    x = keras.layers.Dropout(dropout)(keras.layers.Flatten()(x))
    model = keras.Model(inputs, keras.layers.Dense(classes)(x))
    if weight:
        model.add_loss(lambda: weight * tf.add_n([smoothness(layer) for layer in layers]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate, epsilon=1e-7, clipnorm=clip), loss)
    images = tf.random.normal((batch_size, size, size, 3))
    labels = tf.random.uniform((batch_size,), maxval=classes, dtype=tf.int32)
    programs[name] = lambda: model.train_on_batch(images, labels)
    return model.count_params()


def layer(name, implementation, batch_size, input_shape, output_shape, kernel_size, stride, first):
    """A local layer forward and backward; no gradient of its input, if it is the `first`.

    input_shape, output_shape: (H, W, C).
    """
    made = local(output_shape[-1], kernel_size, stride, implementation, use_bias=False)
    made.build((None, *input_shape))
    x, dy = (tf.random.normal((batch_size, *shape)) for shape in (input_shape, output_shape))

    @tf.function
    def gradients(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = made(x)
        return y, tape.gradient(y, made.trainable_weights + ([] if first else [x]), dy)

    def run():
        y, _ = gradients(x, dy)
        return float(y[(0,) * 4])

    programs[name] = run
    return made.count_params()


def call(name):
    return float(programs[name]())


def forget():
    """Frees the memory of all programs; returns the most that the process has had, in bytes."""
    programs.clear()
    keras.backend.clear_session()
    gc.collect()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


FUNCTIONS = {f.__name__: f for f in (versions, step, layer, call, forget)}

if __name__ == '__main__':
    answers, sys.stdout = sys.stdout, sys.stderr  # what TensorFlow prints is no answer
    for line in sys.stdin:
        function, arguments = json.loads(line)
        print(json.dumps(FUNCTIONS[function](**arguments)), file=answers, flush=True)
