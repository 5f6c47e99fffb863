"""What neurons do between rare sleeps besides learning, so that they drift apart less.

After each wake step, with the weights w of a neuron and those that the last sleep left, w_last,

    w = w - anchor (w - w_last)      a synaptic anchor, as in FedProx,
    w = w - usual                    the neuron leaves out what only it usually learns (SCAFFOLD).

`usual` is a running mean of how a neuron's step differs from that of its pool, of the steps between
two sleeps as they would have been without it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from lcn_jax.layer.each_local import map_local
from lcn_jax.layer.local_parameters import local_arrays
from lcn_jax.sleep.pools import Pools


def start(params: Any, grids: Mapping) -> dict[str, Any]:
    """`last` and `usual` before the first step."""
    last = local_arrays(params, grids)
    return {'last': last, 'usual': jax.tree.map(jnp.zeros_like, last)}


def awake(params: Any, kept: Mapping[str, Any], anchor: float) -> Any:
    """The parameters after what follows a wake step."""
    last, usual = (flatten_dict(kept[name]) for name in ('last', 'usual'))
    changed = flatten_dict(params)
    for path in last:
        own = changed[path]
        changed[path] = own - anchor * (own - last[path]) - usual[path]
    return unflatten_dict(changed)


def asleep(
    own: Any, slept: Any, kept: Mapping[str, Any], grids: Mapping, every: int, correction: float
) -> dict[str, Any]:
    """`last` and `usual` after a sleep; own, slept: the parameters before and after it."""
    usual = kept['usual']
    if correction:

        def learned(_, local, own, last, usual):
            moved = (own - last) / every + usual
            alone = moved - Pools.of(local, 'include').averaged(moved)
            return usual + correction * (alone - usual)

        usual = map_local(learned, grids, local_arrays(own, grids), kept['last'], usual)
    return {'last': local_arrays(slept, grids), 'usual': usual}
