"""Locally connected networks in Flax NNX: the layer, and the sleep of a model made of such layers.

    state = share(nnx.state(model, nnx.Param), grids(model), rule, key)
    nnx.update(model, state)

Also inside `nnx.jit`.
"""

from lcn_jax.layer.nnx import LocalConv as LocalConv
from lcn_jax.layer.nnx import grids as grids
from lcn_jax.sleep.sharing import share as share
