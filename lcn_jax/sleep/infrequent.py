"""What sleeps need besides a sharing rule: shared or equalised moments, and full steps.

    shared = share(params, grids, rule, key)
    params = last = full_step(shared, params, last, grids)
    opt_state = share_moments(opt_state, params, grids)

docs/method.md says why.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lcn_jax.layer.each_local import map_local
from lcn_jax.layer.local_parameters import SHARED, local_arrays, owners
from lcn_jax.sleep.pools import Pools, in_pool
from lcn_jax.sleep.sharing import Rule, share

TINY = 1e-30  # avoids 0 / 0 if nothing has moved


def share_moments(opt_state: Any, params: Any, grids: Mapping, border: str = 'include') -> Any:
    """The state of an optimizer with its moments of local parameters averaged within pools.

    Then the members of a pool that get the same gradient take the same step. The moments are all
    arrays of `opt_state` that have the path and the shape of a local parameter, such as those of
    `optax.adamw` or of `nnx.state(nnx.Optimizer(...))`; everything else stays as it is.
    """

    def average(_, local, moment):
        return Pools.of(local, border).averaged(moment)

    moments, structure = jax.tree.flatten(opt_state)
    before = params  # one moment of a layer after the other, so that devices gather one at a time
    of_moments = jax.tree.leaves(owners(opt_state, params, grids))
    for i, (moment, local) in enumerate(zip(moments, of_moments)):
        if local is not SHARED:
            moments[i] = before = map_local(average, {'': local}, {'': moment}, after=before)['']
    return jax.tree.unflatten(structure, moments)


def equalise_momentum(opt_state: Any, grids: Mapping, rule: Rule, key: jax.Array) -> Any:
    """The state of an optimizer whose momentum of local parameters has changed as they do.

    Unlike `share_moments`, which takes the means of pools at once, this makes momenta alike by the
    `rule` itself: with the key of the weights' sleep, by the same patterns. Momenta are the `mu` of
    `optax.adamw` and the `trace` of `optax.trace`. The second moments of AdamW stay each neuron's
    own: a Hebbian rule could make them negative.
    """
    for name in ('mu', 'trace'):
        momentum = optax.tree_utils.tree_get(opt_state, name)
        if momentum is not None:
            shared = share(momentum, grids, rule, key)
            opt_state = optax.tree_utils.tree_set(opt_state, **{name: shared})
    return opt_state


def full_step(shared: Any, own: Any, last: Any, grids: Mapping, border: str = 'include') -> Any:
    """Rescales a pool's common change since the last sleep to the size of its members' changes.

    Between two sleeps a neuron moves mostly on the noise of its own gradients. The average takes
    the noise away, and with it most of the step that the optimizer meant to take. With m(w), the
    means of pools,

        w = w_shared + (rms(w_own - w_last) / rms(c) - 1) c,     c = m(w_own) - m(w_last).

    Root mean squares are over the neurons of a layer that are in pools; the others keep what the
    rule gives them.

    Args:
      shared, own: parameters after and before the sleep.
      last: parameters at the end of the sleep before, at first the initial ones; it may have the
        local ones only.
    """

    def rescaled(_, local, shared, own, last):
        pooled = in_pool(local, border)
        moved = jnp.where(pooled, own - last, 0)
        common = jnp.where(pooled, Pools.of(local, border).averaged(moved), 0)
        ratio = jnp.linalg.norm(moved) / jnp.maximum(jnp.linalg.norm(common), TINY)
        return shared + (ratio - 1) * common

    return map_local(rescaled, grids, shared, own, last, after=local_arrays(shared, grids))
