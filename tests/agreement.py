"""Agreement of arrays that are sums in different orders."""

import jax
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
