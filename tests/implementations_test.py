"""Which implementation a layer gets, where no native kernel was built."""

import jax
import jax.numpy as jnp
import pytest

from lcn_jax.layer.backends import native
from lcn_jax.layer.backends.bilinear import default_implementation
from lcn_jax.layer.functional import conv_local

# The faster one of each layer, as `experiments.benchmark` measured them. In between, at 3×3 16→32,
# 'patches' is a little faster, but it takes more memory.
FASTER = [
    ((3, 3, 3, 16), 'direct'),
    ((3, 3, 16, 16), 'direct'),
    ((3, 3, 32, 64), 'patches'),
    ((3, 3, 64, 64), 'patches'),
    ((1, 1, 16, 32), 'patches'),
    ((20, 4, 8), 'direct'),
]


@pytest.mark.parametrize(('weights', 'faster'), FASTER)
def test_a_layer_gets_the_faster_implementation_for_its_shape(weights, faster, monkeypatch):
    monkeypatch.setattr(native, 'computes', lambda dtype: False)
    *kernel_size, channels, _ = weights
    x = jnp.zeros((2, *kernel_size, channels))
    kernel = jnp.zeros((1,) * len(kernel_size) + weights)
    (layer,) = [
        eqn
        for eqn in jax.make_jaxpr(lambda x, k: conv_local(x, k, padding='VALID'))(x, kernel).eqns
        if 'implementation' in eqn.params
    ]
    assert default_implementation(weights) == layer.params['implementation'] == faster


def test_the_native_kernel_is_for_all_shapes(monkeypatch):
    monkeypatch.setattr(native, 'computes', lambda dtype: dtype == jnp.float32)
    assert {default_implementation(weights) for weights, _ in FASTER} == {'native'}
    assert default_implementation((3, 3, 16, 16), jnp.float64) == 'direct'
