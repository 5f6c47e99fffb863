"""Sharing: a rule with its options, and `share`, which applies one to a whole model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lcn_jax import plugins
from lcn_jax.layer.each_local import map_local, parts
from lcn_jax.layer.local_parameters import LocalParameter, by_path
from lcn_jax.sleep.patterns import Field
from lcn_jax.sleep.pools import Neurons
from lcn_jax.sleep.rules import RULES, TwoPart


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """A sharing rule with its options set: a function `(kernel, neurons, key) -> kernel`.

    function: of `rules.py`, or one's own with the same arguments.
    border: 'include' or 'exclude' the neurons that see the padding; the function gets it.
    options: the function's other keyword arguments.
    """

    function: Callable[..., jax.Array]
    border: str = 'include'
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, kernel: jax.Array, neurons: Neurons, key: jax.Array | None) -> jax.Array:
        return self.function(kernel, neurons, key, border=self.border, **self.options)

    def for_layers(
        self, fields: Sequence[Field], key: jax.Array
    ) -> list[Callable[[jax.Array, LocalParameter], jax.Array]]:
        """For layers with these fields, functions `(kernel, local) -> kernel`.

        Each has a key of its own, `key` folded with the number of the layer. For a rule in two
        parts each shape of a neuron's weights has one instead, folded with the number of the shape
        in ascending order, so that layers of one shape see the same patterns.
        """
        if not isinstance(self.function, TwoPart):
            keys = [jax.random.fold_in(key, number) for number in range(len(fields))]
            return [lambda kernel, local, key=key: self(kernel, local, key) for key in keys]
        shapes = sorted({field.shape for field in fields})
        keys = {shape: jax.random.fold_in(key, number) for number, shape in enumerate(shapes)}
        second_parts = {
            field: self.function.for_field(
                field, keys[field.shape], border=self.border, **self.options
            )
            for field in dict.fromkeys(fields)
        }
        return [second_parts[field] for field in fields]


def resolve(name: str, options: Mapping[str, Any]) -> Rule:
    """The rule `name` of RULES, or 'package.module:function' for one's own, with its options set.

    `options` must have 'border'.

    Raises:
      ValueError: there is no such rule, or it does not take these options.
    """
    function = RULES[name] if name in RULES else plugins.load(name, 'sharing rule', RULES)
    called, arguments = (function.for_field, 2) if isinstance(function, TwoPart) else (function, 3)
    plugins.check_options(called, arguments, options, f'sharing rule {name!r}')
    others = dict(options)
    return Rule(function, others.pop('border'), others)


def share(params: Any, grids: Mapping, rule: Rule, key: jax.Array) -> Any:
    """Applies `rule` to all that is local in `params`; all else is returned as it is.

    `grids` (`lcn_jax.grids`) says what is local: kernels, and parameters with one value per neuron,
    such as biases, which the rule gets as kernels of one tap and one channel. Axes in front of
    (*output, *kernel, C // groups, O) are those of an ensemble or of replicas: the rule is applied
    to each copy by itself, with one key, so replicas stay equal. If devices divide the kernels,
    each gathers one layer after the other.

    Raises:
      ValueError: grids is empty, or does not fit params; the rule is not a `Rule`, or it returns
        something other than a kernel of the same shape and dtype.
    """
    local = by_path(grids)
    if not local:
        raise ValueError('grids is empty: the network has no locally connected layers to share.')
    if not isinstance(rule, Rule):
        raise ValueError(
            f'the rule must be a Rule, such as lcn_jax.resolve(...) or Rule(your_function), got '
            f'{type(rule).__name__}.'
        )
    fields = [Field.of(kernel, local[path]) for path, kernel in parts(params, grids).items()]
    of_layer = rule.for_layers(fields, key)

    def asleep(number, local, kernel):
        shared = of_layer[number](kernel, local)
        if (jnp.shape(shared), jnp.result_type(shared)) != (kernel.shape, kernel.dtype):
            raise ValueError(
                f'the sharing rule turned a kernel {kernel.shape} of {kernel.dtype} into one '
                f'{jnp.shape(shared)} of {jnp.result_type(shared)}; it must keep shape and dtype.'
            )
        return shared

    return map_local(asleep, grids, params)
