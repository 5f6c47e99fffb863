"""A training loop of your own, in Flax NNX and optax, with sleeps in joined pools.

    python examples/own_loop_nnx.py

Digits are prepared in runs/data on first use. docs/own_loop.md explains the sleep.
"""

import jax
import numpy as np
import optax
from flax import nnx

import lcn_jax.nnx
from lcn_jax.data.sources import Source


class Net(nnx.Module):
    def __init__(self, rngs):
        sizes = ((1, 8, 1, 16), (8, 8, 1, 16), (8, 8, 1, 16), (8, 16, 2, 16), (16, 16, 1, 8))
        self.convs = nnx.List(
            lcn_jax.nnx.LocalConv(c, o, (3, 3), s, input_size=n, use_bias=False, rngs=rngs)
            for c, o, s, n in sizes
        )
        self.norms = nnx.List(nnx.BatchNorm(o, momentum=0.9, rngs=rngs) for _, o, _, _ in sizes)
        self.logits = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):  # (N, 16, 16, 1)
        for conv, norm in zip(self.convs, self.norms):
            x = nnx.relu(norm(conv(x)))
        return self.logits(x.mean((1, 2)))


@nnx.jit
def wake(model, optimizer, images, labels):
    def loss(model):
        losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
        return losses.mean()

    optimizer.update(model, nnx.grad(loss)(model))


@nnx.jit
def sleep(model, optimizer, last, key):
    grids, rule = lcn_jax.nnx.grids(model, pools='joined'), lcn_jax.Rule(lcn_jax.mean)
    own = nnx.state(model, nnx.Param)
    slept = lcn_jax.full_step(lcn_jax.share(own, grids, rule, key), own, last, grids)
    nnx.update(model, slept)
    nnx.update(optimizer, lcn_jax.share_moments(nnx.state(optimizer), slept, grids))
    return slept


def main(epochs=24, data_dir='runs/data', batch=60, sleep_every=10):
    data, test = (Source('digits', data_dir).split(name).read() for name in ('train', 'test'))
    mean, std = data.images.mean(), data.images.std()
    images, labels = np.float32((data.images - mean) / std), data.labels
    model, steps = Net(nnx.Rngs(0)), epochs * (len(data) // batch)
    last = lcn_jax.alike(nnx.state(model, nnx.Param), lcn_jax.nnx.grids(model))
    nnx.update(model, last)  # one initial kernel for all positions
    rate = optax.piecewise_constant_schedule(1e-2, {steps // 2: 0.25, steps * 3 // 4: 0.25})
    optimizer = nnx.Optimizer(model, optax.adamw(rate, weight_decay=1e-2), wrt=nnx.Param)
    key, order = jax.random.key(0), np.random.default_rng(0)
    for step in range(1, steps + 1):
        chosen = order.choice(len(data), batch, replace=False)
        wake(model, optimizer, images[chosen], labels[chosen])
        if step % sleep_every == 0:
            key, own = jax.random.split(key)
            last = sleep(model, optimizer, last, own)
    model.eval()
    logits = nnx.jit(lambda model, x: model(x))(model, np.float32((test.images - mean) / std))
    return float((logits.argmax(1) == test.labels).mean())


if __name__ == '__main__':
    print(f'test accuracy {main():.1%}')
