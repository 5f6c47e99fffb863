"""What is local in a model: `grids`, for Flax Linen."""

import dataclasses
import inspect
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from lcn_jax.layer.local_parameters import LocalParameter, in_pools

# An array of these sizes is put beside a local parameter when a layer initialises it. If nn.vmap
# then stacks 6 copies along axis 1, a mark (10⁹+7, 10⁹+8) becomes (10⁹+7, 6, 10⁹+8): axis 1 is that
# of the ensemble. The shape of the kernel alone would not tell, if the layer has 6 rows.
MARK = 'axes of {}'
SIZES_OF_MARKS = range(10**9 + 7, 10**9 + 15)


def grids(model: nn.Module, *inputs: Any, pools: str = 'tiled', **kwargs: Any) -> dict:
    """The `LocalParameter` of everything that is local in a model, at its path in the params.

    That is every locally connected kernel, and every parameter with one value per neuron, such as a
    local bias.

    Nothing is computed. The variables contain no grids, so they can be saved and differentiated
    unchanged.

    Args:
      model: with layers that have a method `grid(x)` and a parameter `kernel`, as LocalConv has, or
        a method `value_grids(x)`, which returns for each parameter with one value per neuron, by
        name, the grid of the layer.
      inputs: what the model is called with: arrays or `jax.ShapeDtypeStruct`s; or tuples, the shape
        of one example: (H, W, C) for images.
      pools: 'tiled', the paper's, or 'joined': all positions of a layer are one pool.
      kwargs: passed on; `train=False` is, if the model takes `train`.

    Returns:
      A tree as `model.init` has it in 'params'; {} if no layer is locally connected.
    """
    return in_pools(variables_and_grids(model, *inputs, **kwargs)[1], pools)


def variables_and_grids(model: nn.Module, *inputs: Any, **kwargs: Any) -> tuple[dict, dict]:
    """The initial variables, as `jax.ShapeDtypeStruct`s, and the grids; arguments as in `grids`."""
    found: dict[tuple[str, ...], LocalParameter] = {}

    def note(call, args, call_kwargs, context):
        module = context.module
        result = call(*args, **call_kwargs)
        if context.method_name != '__call__':
            return result
        local = {}
        if callable(getattr(module, 'grid', None)):
            local['kernel'] = LocalParameter(module.grid(*args, **call_kwargs))
        if callable(getattr(module, 'value_grids', None)):
            for name, grid in module.value_grids(*args, **call_kwargs).items():
                local[name] = LocalParameter(grid, per_neuron=True)
        for name, parameter in local.items():
            if module.has_variable('params', name):
                found[(*module.path, name)] = parameter
                rank = jnp.ndim(nn.unbox(module.get_variable('params', name)))
                mark = jnp.zeros(tuple(SIZES_OF_MARKS[:rank]), bool)
                module.put_variable('params', MARK.format(name), mark)
        return result

    if 'train' in inspect.signature(model.__call__).parameters:
        kwargs = {'train': False} | kwargs
    examples = [
        jax.ShapeDtypeStruct((1, *value), jnp.float32) if isinstance(value, tuple) else value
        for value in inputs
    ]
    with nn.intercept_methods(note):
        variables = jax.eval_shape(
            lambda key, *examples: model.init(key, *examples, **kwargs),
            jax.random.key(0),
            *examples,
        )
    if not found:
        return variables, {}
    params: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(variables['params'])
    for path, local in found.items():
        mark = params.pop((*path[:-1], MARK.format(path[-1])))
        ensemble = (axis for axis, size in enumerate(mark.shape) if size not in SIZES_OF_MARKS)
        found[path] = dataclasses.replace(local, ensemble=tuple(ensemble))
    variables = {**variables, 'params': flax.traverse_util.unflatten_dict(params)}
    return variables, flax.traverse_util.unflatten_dict(found)
