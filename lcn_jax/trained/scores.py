"""How well a network classifies the images of a dataset."""

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """What `Trained.evaluate` returns.

    metrics: mean loss (nats), top-1 and top-5 accuracy (fractions), under the names that records
    have. confusion: (K, K) int32, images of class i (rows) that were taken for class j.
    class_names: of the K classes.
    """

    metrics: Mapping[str, float]
    confusion: np.ndarray
    class_names: tuple[str, ...]

    @property
    def per_class(self) -> dict[str, float]:
        """The fraction of the images of each class that were recognised; NaN without images."""
        images = self.confusion.sum(1)
        with np.errstate(invalid='ignore'):
            fractions = self.confusion.diagonal() / images
        return dict(zip(self.class_names, fractions.tolist()))
