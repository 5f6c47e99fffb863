"""Agreement of arrays that are sums in different orders."""

import jax
import jax.numpy as jnp
import numpy as np


def assert_same(actual, expected, tolerance=1e-5):
    """Of arrays or trees of them: errors are relative to the largest entry of each array."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, got), want in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected)):
        assert got.shape == want.shape, path
        got, want = (np.asarray(array, np.float64) for array in (got, want))
        scale = max(np.abs(want).max(initial=0), 1e-30)
        np.testing.assert_allclose(
            got / scale, want / scale, rtol=0, atol=tolerance, err_msg=str(path)
        )


def transformed(layer, gradients, x, kernel):
    """The results of all transformations within one device, of (x, kernel) -> y and gradients."""
    xs, kernels = jnp.stack([x, 2 * x]), jnp.stack([kernel, 1 - kernel])
    tangents = jnp.cos(x), jnp.cos(kernel)
    results = {
        'value': layer(x, kernel),
        'grad': gradients(x, kernel),
        'jvp': jax.jvp(layer, (x, kernel), tangents),
        'forward over reverse': jax.jvp(gradients, (x, kernel), tangents)[1],
        'transpose': jax.linear_transpose(lambda x: layer(x, kernel), x)(layer(x, kernel)),
        'remat': jax.grad(jax.checkpoint(lambda k: jnp.sin(layer(x, k)).sum()))(kernel),
    }
    for name, over in {'x': (0, None), 'kernel': (None, 0), 'both': (0, 0)}.items():
        arguments = [xs if over[0] == 0 else x, kernels if over[1] == 0 else kernel]
        results[f'vmap over {name}'] = (
            jax.vmap(layer, over, 1)(*arguments), jax.vmap(gradients, over)(*arguments)
        )  # fmt: skip
    return results
