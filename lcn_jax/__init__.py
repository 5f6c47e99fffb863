"""Locally connected networks in JAX: fast layers, and a sleep that makes their weights alike.

The names below are imported from their modules when they are first used: importing the package
alone does not import JAX, so that processes which only decode images start quickly.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcn_jax.convert.shared import alike as alike
    from lcn_jax.convert.shared import to_local as to_local
    from lcn_jax.convert.shared import to_shared as to_shared
    from lcn_jax.layer.functional import conv_local as conv_local
    from lcn_jax.layer.grid import Grid as Grid
    from lcn_jax.layer.grids import grids as grids
    from lcn_jax.layer.linen import LocalConv as LocalConv
    from lcn_jax.layer.local_parameters import LocalParameter as LocalParameter
    from lcn_jax.layer.parameters import tile_kernel as tile_kernel
    from lcn_jax.networks.resnet import ResNet as ResNet
    from lcn_jax.sleep.infrequent import full_step as full_step
    from lcn_jax.sleep.infrequent import share_moments as share_moments
    from lcn_jax.sleep.rules import RULES as RULES
    from lcn_jax.sleep.rules import exact as exact
    from lcn_jax.sleep.rules import hebbian as hebbian
    from lcn_jax.sleep.rules import mean as mean
    from lcn_jax.sleep.sharing import Rule as Rule
    from lcn_jax.sleep.sharing import resolve as resolve
    from lcn_jax.sleep.sharing import share as share
    from lcn_jax.trained.load import Trained as Trained
    from lcn_jax.trained.load import load as load
    from lcn_jax.training.experiment import Experiment as Experiment
    from lcn_jax.training.train import train_and_evaluate as train_and_evaluate

_MODULES = {
    'RULES': 'sleep.rules',
    'Experiment': 'training.experiment',
    'Grid': 'layer.grid',
    'LocalConv': 'layer.linen',
    'LocalParameter': 'layer.local_parameters',
    'ResNet': 'networks.resnet',
    'Rule': 'sleep.sharing',
    'Trained': 'trained.load',
    'alike': 'convert.shared',
    'conv_local': 'layer.functional',
    'exact': 'sleep.rules',
    'full_step': 'sleep.infrequent',
    'grids': 'layer.grids',
    'hebbian': 'sleep.rules',
    'load': 'trained.load',
    'mean': 'sleep.rules',
    'resolve': 'sleep.sharing',
    'share': 'sleep.sharing',
    'share_moments': 'sleep.infrequent',
    'tile_kernel': 'layer.parameters',
    'to_local': 'convert.shared',
    'to_shared': 'convert.shared',
    'train_and_evaluate': 'training.train',
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
