"""The network of a config: the model, and what is local in it. Nothing is computed."""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import flax.errors
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections

from lcn_jax import plugins
from lcn_jax.data.sources import Source
from lcn_jax.errors import UsageError
from lcn_jax.layer import local_parameters
from lcn_jax.layer.grids import grids, variables_and_grids
from lcn_jax.layer.linen import LocalConv
from lcn_jax.layer.low_rank import LowRankConv
from lcn_jax.networks.all_tnn import AllTNN
from lcn_jax.networks.resnet import ResNet
from lcn_jax.training import freezing, parallel


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A model of images (H, W, C) = `image_shape`.

    If `divided`, the devices divide its local kernels in programs over `parallel.AXIS`; everywhere
    else they are whole. `pools` is 'tiled' or 'joined': all positions of a layer are one pool.
    `frozen` names what does not learn (`freezing.py`).
    """

    model: nn.Module
    image_shape: tuple[int, int, int]
    pools: str = 'tiled'
    divided: bool = False
    frozen: str = ''

    @classmethod
    def create(cls, config: ml_collections.ConfigDict) -> 'Network':
        """The network of a config whose values have been checked.

        Raises:
          UsageError: no layer is locally connected where some should be, or one where none should,
            a pattern of names matches none, or a model of the user's own is not as docs/models.md
            says.
        """
        dataset = Source(config.dataset, config.data_dir).spec
        network = cls(
            make_model(config, dataset.num_classes),
            (config.image_size, config.image_size, dataset.image_shape[2]),
            config.pools.kind,
            config.shard_kernels,
            config.freeze,
        )
        if config.model.name not in NETWORKS:
            _check_own_model(network, config.model.name, dataset.num_classes)
        _check_connectivity(network, config)
        freezing.check(config.freeze, network.variables['params'])
        if config.freeze and config.sleep.rule != 'none' and not network.plastic:
            raise UsageError(
                f'config.freeze={config.freeze} leaves nothing that a sleep could change: set '
                'config.sleep.rule=none.'
            )
        if config.shard_kernels:
            _check_divided(network, config.model.name)
        return network

    @cached_property
    def _variables_and_grids(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return variables_and_grids(self.model, self.image_shape, train=False)

    @property
    def variables(self) -> Mapping[str, Any]:
        """The initial variables with whole kernels, a `jax.ShapeDtypeStruct` for every array."""
        return self._variables_and_grids[0]

    @cached_property
    def grids(self) -> Mapping[str, Any]:
        """The `LocalParameter` of everything that is local, at its path in the params."""
        return local_parameters.in_pools(self._variables_and_grids[1], self.pools)

    @cached_property
    def plastic(self) -> Mapping[str, Any]:
        """Those of `grids` that learn and sleep."""
        return freezing.plastic(self.frozen, self.grids)

    def on_devices(self, grids: Mapping[str, Any]) -> Mapping[str, Any]:
        """`grids`, or part of it, inside programs over `parallel.AXIS`."""
        return local_parameters.divided_over(parallel.AXIS if self.divided else None, grids)

    @cached_property
    def grids_on_devices(self) -> Mapping[str, Any]:
        """`grids` inside programs over `parallel.AXIS`."""
        return self.on_devices(self.grids)

    @cached_property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables['params']))


def make_model(config: ml_collections.ConfigDict, num_classes: int) -> nn.Module:
    """The model of a config, without parameters.

    A model of the user's own, `config.model.name = 'module:function'`, is what
    `function(config, num_classes)` returns; docs/models.md says what it must be able to do.
    """
    name = config.model.name
    if name not in NETWORKS:
        function = plugins.load(name, 'model', NETWORKS)
        plugins.check_options(function, 2, {}, f'model {name!r}')
        return function(config, num_classes)
    if config.connectivity == 'low_rank':
        local_conv = partial(LowRankConv, rank=config.model.rank)
    else:
        shard_axis = parallel.AXIS if config.shard_kernels else None
        local_conv = partial(LocalConv, shard_axis=shard_axis)
    return NETWORKS[name](
        config.model,
        num_classes=num_classes,
        local=config.connectivity != 'conv',
        norm=config.model.norm,
        dtype=jnp.dtype(config.model.dtype),
        batch_axis=parallel.AXIS if config.model.sync_batch_norm else None,
        local_conv=local_conv,
    )


def _resnet(fields: ml_collections.ConfigDict, **arguments: Any) -> nn.Module:
    return ResNet(
        stage_sizes=tuple(fields.stage_sizes),
        width=fields.width,
        stem=fields.stem,
        n_first_conv=fields.n_first_conv,
        shared=fields.shared,
        **arguments,
    )


def _all_tnn(fields: ml_collections.ConfigDict, **arguments: Any) -> nn.Module:
    return AllTNN(
        features=tuple(fields.features),
        kernel_sizes=tuple(fields.kernel_sizes),
        strides=tuple(fields.strides),
        pooled=tuple(fields.pooled),
        dropout=fields.dropout,
        **arguments,
    )


# The project's own, by name.
NETWORKS = {'resnet': _resnet, 'all_tnn': _all_tnn}


def _check_own_model(network: Network, name: str, num_classes: int) -> None:
    """UsageError if a model of the user's own is not as docs/models.md says."""
    model = network.model

    def refuse(reason):
        raise UsageError(f'the model of {name} {reason}: see docs/models.md.')

    if not isinstance(model, nn.Module):
        refuse(f'is a {type(model).__name__}, not a Flax Linen module')
    arguments = inspect.signature(model.__call__).parameters
    if not any(a.name == 'train' or a.kind == a.VAR_KEYWORD for a in arguments.values()):
        refuse('does not take train, which says whether it is called for training')
    others = sorted(network.variables.keys() - {'params', 'batch_stats'})
    if others:
        refuse(f'has variables in {others}, but only params and batch_stats are kept')
    images = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
    try:
        logits = jax.eval_shape(partial(model.apply, train=False), network.variables, images)
    except flax.errors.InvalidRngError:
        refuse('draws random numbers when it is called with train=False')
    if getattr(logits, 'shape', None) != (1, num_classes):
        found = jax.tree.map(jnp.shape, logits)
        refuse(f'returns {found} for one image, not logits of shape (1, {num_classes})')


def _check_connectivity(network: Network, config: ml_collections.ConfigDict) -> None:
    """UsageError if layers are local and should not be or none is, or a pattern matches none."""
    if config.connectivity == 'conv':
        for path in local_parameters.by_path(network.grids):
            raise UsageError(
                f'{local_parameters.name_of(path)} of {config.model.name} is local, but '
                'config.connectivity=conv: set config.connectivity=lc, or use nn.Conv there.'
            )
        return
    params = network.variables['params']
    low_rank = config.connectivity == 'low_rank'
    mixes = any(path[-1] == 'rows' for path in flax.traverse_util.flatten_dict(params))
    if not (mixes if low_rank else network.grids):
        remedy = (
            'lower config.model.n_first_conv, change config.model.shared,'
            if config.model.name == 'resnet'
            else f'use {"LowRankConv" if low_rank else "LocalConv"} in {config.model.name},'
        )
        raise UsageError(
            f'no layer of the network is locally connected: {remedy} or set '
            'config.connectivity=conv.'
        )
    if config.model.name != 'resnet' or not config.model.shared:
        return
    convolutions = [name for name in params if jnp.ndim(params[name].get('kernel', 0)) >= 4]
    if not any(re.fullmatch(config.model.shared, name) for name in convolutions):
        raise UsageError(
            f'config.model.shared={config.model.shared} does not match the whole name of any of '
            f'the convolutions {", ".join(convolutions)}.'
        )


def _check_divided(network: Network, name: str) -> None:
    """UsageError if a local layer of the model does not divide its neurons."""

    def note(call, args, kwargs, context):
        module = context.module
        is_local = callable(getattr(module, 'grid', None))
        if is_local and getattr(module, 'shard_axis', None) != parallel.AXIS:
            raise UsageError(
                f'config.shard_kernels needs local layers with shard_axis={parallel.AXIS!r}, which '
                f'{"/".join(module.path)} of {name} does not have: see docs/models.md, or set '
                'config.shard_kernels=False.'
            )
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        grids(network.model, network.image_shape, train=False)
    for path, local in local_parameters.by_path(network.grids).items():
        if local.ensemble != tuple(range(len(local.ensemble))):
            raise UsageError(
                f'config.shard_kernels needs the axes of ensembles in front, but those of '
                f'{local_parameters.name_of(path)} are {local.ensemble}: make the ensemble along '
                'axis 0, or set config.shard_kernels=False.'
            )
