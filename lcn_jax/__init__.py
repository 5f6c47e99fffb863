"""Locally connected networks in JAX: fast layers, and a sleep that makes their weights alike.

The names below are imported from their modules when they are first used: importing the package
alone does not import JAX, so that processes which only decode images start quickly.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcn_jax.convert import to_local as to_local
    from lcn_jax.convert import to_shared as to_shared
    from lcn_jax.grid import Grid as Grid
    from lcn_jax.local import LocalConv as LocalConv
    from lcn_jax.local import conv_local as conv_local
    from lcn_jax.local import grids as grids
    from lcn_jax.local import tile_kernel as tile_kernel
    from lcn_jax.resnet import ResNet as ResNet
    from lcn_jax.sleep import RULES as RULES
    from lcn_jax.sleep import exact as exact
    from lcn_jax.sleep import hebbian as hebbian
    from lcn_jax.sleep import mean as mean
    from lcn_jax.sleep import resolve as resolve
    from lcn_jax.sleep import share as share
    from lcn_jax.training.experiment import Experiment as Experiment
    from lcn_jax.training.train import train_and_evaluate as train_and_evaluate

# The rule `circuit` is RULES['circuit'], for lcn_jax.circuit is a module.
_MODULES = {
    'RULES': 'sleep',
    'Experiment': 'training.experiment',
    'Grid': 'grid',
    'LocalConv': 'local',
    'ResNet': 'resnet',
    'conv_local': 'local',
    'exact': 'sleep',
    'grids': 'local',
    'hebbian': 'sleep',
    'mean': 'sleep',
    'resolve': 'sleep',
    'share': 'sleep',
    'tile_kernel': 'local',
    'to_local': 'convert',
    'to_shared': 'convert',
    'train_and_evaluate': 'training.train',
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
