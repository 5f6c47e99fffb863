"""Training steps of the same networks in PyTorch: what one would take instead.

The locally connected layer is the usual one there, `unfold` and a product at every position, whose
weights `lcn_jax.interop` converts. PyTorch is imported by whoever imports this file.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from lcn_jax.networks import resnet
from lcn_jax.training.experiment import Experiment

NAMES = ('torch conv', 'torch conv channels-last', 'torch lc')


class Local(nn.Module):
    """(N, C, H, W) -> (N, O, Ho, Wo) of square images; `size` is that of the input."""

    def __init__(self, channels, features, kernel_size, stride, padding, size):
        super().__init__()
        self.window = dict(kernel_size=kernel_size, stride=stride, padding=padding)
        self.positions = (size + 2 * padding - kernel_size) // stride + 1
        seen = channels * kernel_size**2
        weight = torch.randn(self.positions**2, features, seen) * (2 / seen) ** 0.5
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        y = torch.einsum('nkl,lok->nol', F.unfold(x, **self.window), self.weight)
        return y.unflatten(-1, (self.positions, self.positions))


class ResNet(nn.Module):
    """The network of a `lcn_jax.resnet.ResNet` with a stem for small images.

    Its layers have the same names. `size` and `channels` are those of the square images.
    """

    def __init__(self, model: resnet.ResNet, size: int, channels: int):
        super().__init__()
        self.parts = nn.ModuleDict()

        def add(name, norm, channels, features, kernel_size, stride):
            padding = (kernel_size - 1) // 2
            fields = channels, features, kernel_size, stride, padding
            made = Local(*fields, size) if model.local else nn.Conv2d(*fields, bias=False)
            self.parts[name], self.parts[norm] = made, nn.BatchNorm2d(features)

        add('stem_conv', 'stem_norm', channels, model.width, *resnet.STEMS[model.stem])
        self.blocks, channels = [], model.width
        for stage, blocks in enumerate(model.stage_sizes, 1):
            features = model.width * 2 ** (stage - 1)
            for block in range(1, blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                name = f'stage{stage}_block{block}'
                self.blocks.append(name)
                add(f'{name}_conv1', f'{name}_norm1', channels, features, 3, stride)
                if stride > 1 or channels != features:
                    shortcut = f'{name}_shortcut'
                    add(shortcut, f'{shortcut}_norm', channels, features, 1, stride)
                size, channels = (size - 1) // stride + 1, features
                add(f'{name}_conv2', f'{name}_norm2', channels, features, 3, 1)
        self.parts['logits'] = nn.Linear(channels, model.num_classes)

    def forward(self, x):
        def apply(name, norm, x):
            return self.parts[norm](self.parts[name](x))

        x = F.relu(apply('stem_conv', 'stem_norm', x))
        for name in self.blocks:
            y = F.relu(apply(f'{name}_conv1', f'{name}_norm1', x))
            y = apply(f'{name}_conv2', f'{name}_norm2', y)
            shortcut = f'{name}_shortcut'
            if shortcut in self.parts:
                x = apply(shortcut, f'{shortcut}_norm', x)
            x = F.relu(x + y)
        return self.parts['logits'](x.mean((2, 3)))


def step(experiment: Experiment, images: np.ndarray, labels: np.ndarray, layout) -> Callable:
    """A training step on a batch: images (N, H, W, C), labels (N,); it returns the loss.

    layout: `torch.contiguous_format` or `torch.channels_last`, of images and kernels.
    """
    _, size, _, channels = images.shape
    network = ResNet(cast(resnet.ResNet, experiment.network.model), size, channels).to(
        memory_format=layout
    )
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=experiment.config.learning_rate,
        weight_decay=experiment.config.weight_decay,
        fused=True,
    )
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    y = torch.from_numpy(labels).long()
    dtype = getattr(torch, experiment.config.model.dtype)

    def call() -> float:
        optimizer.zero_grad()
        with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return call


def steps(
    conv: Experiment, lc: Experiment, images: np.ndarray, labels: np.ndarray
) -> dict[str, Callable]:
    """The steps of both networks on CPU, by the names of NAMES."""
    layouts = torch.contiguous_format, torch.channels_last, torch.contiguous_format
    return {
        name: step(experiment, images, labels, layout)
        for name, experiment, layout in zip(NAMES, (conv, conv, lc), layouts)
    }
