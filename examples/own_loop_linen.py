"""A training loop of your own, in Flax Linen and optax, with sleeps in joined pools.

    python examples/own_loop_linen.py

Digits are prepared in runs/data on first use. docs/own_loop.md explains the sleep.
"""

import flax.linen as nn
import jax
import numpy as np
import optax

import lcn_jax
from lcn_jax.data.sources import Source


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):  # (N, 16, 16, 1)
        for features, strides in ((8, 1), (8, 1), (8, 1), (16, 2), (16, 1)):
            x = lcn_jax.LocalConv(features, (3, 3), strides, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(10)(x.mean((1, 2)))


def main(epochs=24, data_dir='runs/data', batch=60, sleep_every=10):
    data, test = (Source('digits', data_dir).split(name).read() for name in ('train', 'test'))
    mean, std = data.images.mean(), data.images.std()
    images, labels = np.float32((data.images - mean) / std), data.labels
    model, steps = Net(), epochs * (len(data) // batch)
    rate = optax.piecewise_constant_schedule(1e-2, {steps // 2: 0.25, steps * 3 // 4: 0.25})
    optimizer = optax.adamw(rate, weight_decay=1e-2)
    grids = lcn_jax.grids(model, images.shape[1:], pools='joined')
    rule = lcn_jax.Rule(lcn_jax.mean)

    @jax.jit
    def wake(variables, opt_state, images, labels):
        def loss(params):
            new = variables | {'params': params}
            logits, stats = model.apply(new, images, train=True, mutable=['batch_stats'])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), stats

        grads, stats = jax.grad(loss, has_aux=True)(variables['params'])
        updates, opt_state = optimizer.update(grads, opt_state, variables['params'])
        return {'params': optax.apply_updates(variables['params'], updates), **stats}, opt_state

    @jax.jit
    def sleep(params, opt_state, last, key):
        shared = lcn_jax.share(params, grids, rule, key)
        params = lcn_jax.full_step(shared, params, last, grids)
        return params, lcn_jax.share_moments(opt_state, params, grids)

    key, order = jax.random.key(0), np.random.default_rng(0)
    variables = jax.jit(model.init)(key, images[:1])
    last = lcn_jax.alike(variables['params'], grids)  # one initial kernel for all positions
    variables, opt_state = variables | {'params': last}, optimizer.init(last)
    for step in range(1, steps + 1):
        chosen = order.choice(len(data), batch, replace=False)
        variables, opt_state = wake(variables, opt_state, images[chosen], labels[chosen])
        if step % sleep_every == 0:
            key, own = jax.random.split(key)
            last, opt_state = sleep(variables['params'], opt_state, last, own)
            variables['params'] = last
    logits = jax.jit(model.apply)(variables, np.float32((test.images - mean) / std))
    return float((logits.argmax(1) == test.labels).mean())


if __name__ == '__main__':
    print(f'test accuracy {main():.1%}')
