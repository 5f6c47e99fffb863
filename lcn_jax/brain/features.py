"""What the layers of a trained network respond to images."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lcn_jax.data import sources
from lcn_jax.data.batches import Pixels, normalise
from lcn_jax.resnet import ResNet
from lcn_jax.training import checkpoint, state, train, wake

MODES = {1: 'L', 3: 'RGB'}  # Pillow's names


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network and what its images have to be like.

    variables: 'params' and 'batch_stats'; image_shape: (H, W, C); mean, std: (C,) float32 of the
    training pixels scaled to [0, 1]; step: of training.
    """

    model: ResNet
    variables: Any
    image_shape: tuple[int, int, int]
    mean: np.ndarray
    std: np.ndarray
    step: int


def load(workdir: str, which: str = 'latest', data_dir: str | None = None) -> Network:
    """The network of a run, at the checkpoint 'latest', 'best' or that of a step.

    Where the config does not give mean and std, they come from the training images in `data_dir`,
    or in the run's own.

    Raises:
      UsageError: there is no run or no such checkpoint, or the training images are needed and not
        there.
    """
    config = checkpoint.read_config(workdir)
    model, image_shape = train.make_model(config), train.image_shape(config)
    optimizer = wake.optimizer(config, total_steps=1)  # only its shapes matter
    create = functools.partial(
        state.create, model=model, optimizer=optimizer, image_shape=image_shape
    )
    shapes = jax.eval_shape(create, jax.random.key(0))
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        step = checkpoints.find(which)
        trained = checkpoints.restore(step, shapes).state
    mean, std = config.mean, config.std
    if not mean:
        mean, std = _pixel_statistics(config.dataset, data_dir or config.data_dir)
    return Network(
        model=model,
        variables=jax.device_put({'params': trained.params, 'batch_stats': trained.batch_stats}),
        image_shape=image_shape,
        mean=np.array(mean, np.float32),
        std=np.array(std, np.float32),
        step=step,
    )


@functools.lru_cache(maxsize=8)
def _pixel_statistics(dataset: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    return sources.pixel_statistics(dataset, data_dir, sources.load(dataset, data_dir)['train'])


def blocks(model: ResNet) -> tuple[str, ...]:
    """The names of the residual blocks, from the input on."""
    return tuple(
        f'stage{stage}_block{block}'
        for stage, count in enumerate(model.stage_sizes, 1)
        for block in range(1, count + 1)
    )


def main_layers(model: ResNet) -> tuple[str, ...]:
    """The blocks, and what comes after them."""
    return (*blocks(model), 'pooled', 'logits')


def resized(images: Sequence[np.ndarray], shape: tuple[int, int, int]) -> np.ndarray:
    """Each image whole, scaled to (H, W) and in colour or grey, as the C of `shape` says.

    Args:
      images: uint8, each (h, w), (h, w, 1) or (h, w, 3), of any sizes.

    Returns:
      (N, H, W, C) uint8, bilinearly interpolated without aliasing.

    Raises:
      ValueError: an image has another shape or dtype.
    """
    return np.stack([_resized(image, shape) for image in images])


def _resized(image, shape):
    from PIL import Image

    if (
        image.dtype != np.uint8
        or image.ndim not in (2, 3)
        or image.shape[2:] not in ((), (1,), (3,))
    ):
        raise ValueError(
            f'an image is {image.dtype} {image.shape}; it must be uint8 of shape (H, W), (H, W, 1) '
            'or (H, W, 3).'
        )
    height, width, channels = shape
    grey = image.shape[2:] == (1,)
    picture = Image.fromarray(image[..., 0] if grey else image).convert(MODES[channels])
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(shape)


def extract(
    network: Network, images: Sequence[np.ndarray], layers: Sequence[str], batch_size: int = 64
) -> dict[str, np.ndarray]:
    """The responses of some layers, all held in memory.

    Layers are the `blocks`, 'stem' (what the first block gets), 'pooled' (what the last layer
    gets), 'logits', and every other module by its name.

    Args:
      images: as `resized` takes them.

    Returns:
      float32 (N, C, H, W), or (N, C) for layers without positions, under the layers' names.

    Raises:
      ValueError: an image is no image, or there is no such layer; the message lists those there
        are.
    """
    pixels = resized(images, network.image_shape)
    batch_size = min(batch_size, len(pixels))
    parts = []
    for start in range(0, len(pixels), batch_size):
        batch = pixels[start : start + batch_size]
        missing = batch_size - len(batch)  # filled up, so that all batches run the same program
        batch = np.pad(batch, [(0, missing)] + [(0, 0)] * 3)
        part = _responses(
            network.variables,
            Pixels(batch, None, network.mean, network.std),
            model=network.model,
            layers=tuple(layers),
        )
        parts.append({name: np.asarray(x)[: batch_size - missing] for name, x in part.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in layers}


@functools.partial(jax.jit, static_argnames=('model', 'layers'))
def _responses(variables, pixels, *, model, layers):
    outputs, layout = _outputs(model, variables, normalise(pixels.images, pixels))
    unknown = [name for name in layers if name not in outputs]
    if unknown:
        raise ValueError(f'unknown layer {unknown[0]!r}; known: {", ".join(outputs)}.')
    order = [layout.index(axis) for axis in 'NCHW']

    def channels_first(x):
        return (x.transpose(order) if x.ndim == 4 else x).astype(np.float32)

    return {name: channels_first(outputs[name]) for name in layers}


def _outputs(model: ResNet, variables, images: jax.Array) -> tuple[dict[str, jax.Array], str]:
    """The outputs of all layers, in the model's own layout and precision, and that layout."""
    inputs, outputs, layouts = {}, {}, set()

    def keep(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name == '__call__' and context.module.path:
            name = '/'.join(context.module.path)
            inputs[name], outputs[name] = args[0], output
            if hasattr(context.module, 'layout'):  # convolutions, all in one
                layouts.add(context.module.layout)
        return output

    with nn.intercept_methods(keep):
        model.apply(variables, images, train=False)
    # Blocks are no modules: their ends are put together from those of the modules around them.
    outputs['stem'] = inputs['stage1_block1_conv1']
    for block in blocks(model):
        shortcut = outputs.get(f'{block}_shortcut_norm', inputs[f'{block}_conv1'])
        outputs[block] = nn.relu(shortcut + outputs[f'{block}_norm2'])
    outputs['pooled'] = inputs['logits']
    (layout,) = layouts
    return outputs, layout
