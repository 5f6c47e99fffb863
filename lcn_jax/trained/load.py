"""`load`: a run's workdir, a file or a name -> the network that was trained."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lcn_jax.data import sources
from lcn_jax.data.sources import Source
from lcn_jax.errors import UsageError
from lcn_jax.files import Path
from lcn_jax.layer.local_parameters import arrays_by_path, name_of
from lcn_jax.trained import activations
from lcn_jax.trained.scores import Scores
from lcn_jax.training import config as configs
from lcn_jax.training import inputs, measures, network_file, sharding, train
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.network import Network
from lcn_jax.training.restore import restore

BATCH_SIZE = 64  # images that go to the device at once


def load(workdir: Path, checkpoint: str | int = 'latest', data_dir: str | None = None) -> 'Trained':
    """The network of a run at a checkpoint, or of a file, or one that comes with the package.

    Kernels are whole, also if devices divided them in training. The data is read when it is first
    needed: for `class_names`, `evaluate`, and the mean and std of the pixels, if the config has
    none.

    Args:
      workdir: of a run; or the path of a file, NAME.npz, that `Trained.save` wrote; or the name of
        a network that comes with the package, such as 'digits/lc_hebbian_joined'.
      checkpoint: of a run: 'latest', 'best' or the number of a step.
      data_dir: replaces config.data_dir.

    Raises:
      UsageError: there is no such run, file, name or checkpoint.
    """
    config, experiment, step, state = restore(os.fspath(workdir), str(checkpoint), data_dir)
    return Trained(config, experiment.network, jax.device_put(state.variables), step)


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network; made by `load`.

    config: of the run. variables: 'params' and 'batch_stats', with whole kernels. step: number of
    training steps. `dataclasses.replace(trained, variables=...)` is the same with other weights.
    """

    config: ConfigDict
    network: Network
    variables: Mapping[str, Any]
    step: int = 0

    @property
    def model(self) -> nn.Module:
        """The Flax module: `model.apply(variables, images, train=False)`, images normalised."""
        return self.network.model

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images in training."""
        return self.network.image_shape

    @property
    def grids(self) -> Mapping[str, Any]:
        """What is local, with the run's pools: for `lcn_jax.share`; {} for a convolution."""
        return self.network.grids

    @property
    def source(self) -> Source:
        """The dataset."""
        return Source(self.config.dataset, self.config.data_dir)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the logits; UsageError if the dataset is not there."""
        return self.source.class_names

    @cached_property
    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """(C,) float32 each, of the training pixels in [0, 1]: what `normalise` uses."""
        return sources.normalisation(self.config, self.source)

    def normalise(self, images: Any) -> np.ndarray:
        """Images as the network was trained on them: (N, H, W, C) float32.

        images: (N, H, W, C), or one (H, W, C); uint8, or floats in [0, 1]. ValueError for others.
        """
        images = _several(images)
        channels = self.image_shape[2]
        if images.ndim != 4 or images.shape[-1] != channels:
            raise ValueError(
                f'images have shape {images.shape}; they must be (N, H, W, {channels}).'
            )
        if images.dtype == np.uint8:
            images = images / np.float32(255)
        elif not (
            np.issubdtype(images.dtype, np.floating) and ((images >= 0) & (images <= 1)).all()
        ):
            raise ValueError(
                f'images are {images.dtype} from {images.min()} to {images.max()}; they must be '
                'uint8, or floats in [0, 1].'
            )
        mean, std = self.mean_std
        return (images.astype(np.float32) - mean) / std

    def logits(self, images: Any) -> np.ndarray:
        """(N, classes) float32 of images as `normalise` takes them.

        They may have any size that the network takes; a locally connected layer takes one.
        ValueError for another.
        """
        return self.activations(images, ['logits'])['logits']

    def predict(self, images: Any) -> np.ndarray:
        """(N,) int: the class of the largest logit, a number in `class_names`."""
        return self.logits(images).argmax(1)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """What the model sows, except 'stem', in the order of computation; and 'logits'."""
        return activations.main_layers(self.model, self.variables, self.image_shape)

    def activations(
        self, images: Any, layers: Sequence[str] | None = None, batch_size: int = BATCH_SIZE
    ) -> dict[str, np.ndarray]:
        """The activations of some layers, by default `layers`; all held in memory.

        Layers are the activations that the model sows, 'logits' (its output), and the outputs of
        all modules, named by their paths ('stage2_block1_conv1', or 'encoder/conv' if modules are
        nested). If a module is called several times, this is its last output.

        Returns:
          float32 by layer: (N, H, W, C), or (N, ...) for layers without rows and columns.

        Raises:
          ValueError: the images are not as in `logits`; or a UsageError with all layers, if there
            is no such layer.
        """
        found = list(self.batches(images, layers, batch_size))
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    def batches(
        self, images: Any, layers: Sequence[str] | None = None, batch_size: int = BATCH_SIZE
    ) -> Iterator[dict[str, np.ndarray]]:
        """As `activations`, but a batch after the other, of which only one is held in memory."""
        names = tuple(self.layers if layers is None else layers)
        images = _several(images)
        count = len(images)
        batch_size = max(1, min(batch_size, count))
        for start in range(0, max(1, count), batch_size):
            batch = self.normalise(images[start : start + batch_size])
            # Padded, so that all batches run the same program.
            padded = np.pad(batch, [(0, batch_size - len(batch))] + [(0, 0)] * 3)
            try:
                of_batch = activations.activations(
                    self.variables, jnp.asarray(padded), model=self.model, layers=names
                )
            except flax.errors.ScopeParamShapeError:
                raise ValueError(
                    f'the network does not take images {batch.shape[1:]}; it was trained on '
                    f'{self.image_shape}.'
                ) from None
            found = jax.device_get(of_batch)
            yield {name: found[name][: len(batch)] for name in names}

    def kernel(self, layer: str) -> np.ndarray:
        """The kernel of a layer, named by its path: (*output, *kernel, C // groups, O) if local.

        That is (Ho, Wo, kh, kw, C // groups, O) for images. A shared one is (*kernel, C // groups,
        O), of a dense layer (inputs, outputs). ValueError, which lists all, if there is none.
        """
        kernels = {
            name_of(path[:-1]): array
            for path, array in arrays_by_path(self.variables['params']).items()
            if path[-1] == 'kernel'
        }
        if layer not in kernels:
            raise ValueError(f'no layer {layer!r} has a kernel; known: {", ".join(kernels)}.')
        return np.asarray(kernels[layer])

    def save(self, path: Path) -> None:
        """Writes the network to a file, NAME.npz, with weights in float16; `load` reads it.

        The config goes with it, and the mean and std of the pixels: a network for a dataset that
        the project knows can be used where the data is not. UsageError if it cannot be written.
        """
        if not os.fspath(path).endswith('.npz'):
            raise UsageError(f'the name of the file, {os.fspath(path)}, must end in .npz.')
        config = self.config.copy_and_resolve_references()
        config.mean, config.std = (tuple(values.tolist()) for values in self.mean_std)
        config.data_dir, config.shard_kernels = configs.default().data_dir, False
        network_file.write(path, config, self.step, jax.device_get(self.variables))

    def evaluate(self, dataset: str | None = None, data_dir: str | None = None) -> Scores:
        """Accuracy on the images that the run was evaluated on, or on those of another dataset.

        Of another one it is its test split, or else its validation split, normalised as the images
        of the training. All devices take part. UsageError if the dataset is not there, or has other
        classes or channels than the network.
        """
        config = self.config.copy_and_resolve_references()
        config.data_dir = data_dir or config.data_dir
        if dataset is not None:
            config.dataset, config.validation, config.train_images = dataset, 0, 0
            config.mean, config.std = (tuple(values.tolist()) for values in self.mean_std)
        source = Source(config.dataset, config.data_dir)
        channels, taken = source.spec.image_shape[2], self.image_shape[2]
        if channels != taken:
            raise UsageError(
                f'{dataset} has images of {channels} channels; the network has {taken}.'
            )
        experiment = Experiment.create(config)
        if not same_shapes(experiment.shapes.params, self.variables['params']):
            raise UsageError(
                f'{dataset} has {source.spec.num_classes} classes, and the network was trained on '
                'another number.'
            )
        variables = sharding.place(jax.device_get(self.variables), experiment.owners.variables)
        images = inputs.make(config, train.keys(config.seed)[1])
        sums, confusion = measures.total(experiment.confusion, variables, images)
        return Scores(measures.evaluated(sums, config), confusion, source.class_names)


def same_shapes(tree: Any, other: Any) -> bool:
    """Whether two trees have the same arrays, but for their values."""
    return jax.tree.map(np.shape, tree) == jax.tree.map(np.shape, other)


def _several(images: Any) -> np.ndarray:
    """Images (N, H, W, C), of which one may come as (H, W, C)."""
    images = np.asarray(images)
    return images[None] if images.ndim == 3 else images
