"""A network with the interface of Brain-Score, from files of activations or from a run.

Runs in Brain-Score's environment: with numpy below 2, and without JAX unless it reads a run.

A network has a `version`, a checksum of its weights or files: Brain-Score caches activations on
disk under the name of the model, and would otherwise use those of earlier weights.
"""

import hashlib
import os
import shutil
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from brainscore_vision.model_helpers.activations.core import ActivationsExtractorHelper
from brainscore_vision.model_helpers.brain_transformation import ModelCommitment

DEPTHS = {'V1': 0.25, 'V2': 0.5, 'V4': 0.75, 'IT': 1.0}  # fractions of the way through the blocks
BATCH_SIZE = 64


class StoredFeatures:
    """Activations in the npz files in a folder, written by experiments.features.

    layers: their names. Images are identified by the SHA-256 of their files, not by their names.
    """

    def __init__(self, folder: Path, missing: Path):
        self._missing = missing
        paths = sorted(folder.glob('*.npz'))
        arrays = [array for path in paths for array in zipfile.ZipFile(path).infolist()]
        self.version = checksum([array.CRC for array in arrays])
        self._files = [np.load(path) for path in paths]
        digests = [name for file in self._files for name in file['digest'].tolist()]
        self._rows = {name: row for row, name in enumerate(digests)}
        self._arrays = {}
        names = self._files[0].files if self._files else ['pooled']  # until there are files
        self.layers = [name for name in names if name != 'digest']

    def check(self, paths: Sequence[str], require_variance: bool = False) -> list[int]:
        """Rows of images; RuntimeError if some are missing, which are copied to one folder."""
        if require_variance:
            raise RuntimeError(
                'this benchmark shifts images from trial to trial, and files have the features of '
                'unshifted images: it needs a run, and JAX in this environment.'
            )
        digests = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]
        missing = {name: path for name, path in zip(digests, paths) if name not in self._rows}
        if missing:
            self._missing.mkdir(parents=True, exist_ok=True)
            for name, path in missing.items():
                shutil.copy(path, self._missing / (name + Path(path).suffix))
            raise RuntimeError(
                f'the features of {len(missing)} images are missing; the images have been copied '
                f'to {self._missing}: run experiments.features on them.'
            )
        return [self._rows[name] for name in digests]

    def preprocess(self, paths: Sequence[str]) -> Sequence[str]:
        return paths

    def activations(self, paths: Sequence[str], layers: Sequence[str]) -> OrderedDict:
        """{layer: (N, C, H, W) or (N, C) float32} for image files."""
        rows = self.check(paths)
        for layer in layers:
            if layer not in self.layers:
                raise RuntimeError(
                    f'the files of features have {", ".join(self.layers)} but no {layer}: run '
                    f'experiments.features with {layer} in --layers.'
                )
            if layer not in self._arrays:  # too slow to read for every batch
                self._arrays[layer] = np.concatenate([file[layer] for file in self._files])
        return OrderedDict((layer, self._arrays[layer][rows]) for layer in layers)


class LiveNetwork:
    """The latest checkpoint of a run."""

    def __init__(self, workdir: Path):
        import jax

        from lcn_jax.brain import features
        from lcn_jax.data.builders import encoded
        from lcn_jax.trained.load import load

        self._features, self._decode = features, encoded.decode
        self._network = network = load(str(workdir))
        self.layers = list(network.layers)
        weights = jax.tree.leaves((network.variables, *network.mean_std))
        self.version = checksum([zlib.crc32(np.asarray(leaf).tobytes()) for leaf in weights])

    def check(self, paths: Sequence[str], require_variance: bool = False) -> None:
        """Nothing can be missing."""

    def preprocess(self, paths: Sequence[str]) -> np.ndarray:
        """Image files -> (N, C, H, W) uint8, the axes that Brain-Score shifts between trials."""
        images = [self._decode(Path(path).read_bytes(), path) for path in paths]
        return self._features.resized(images, self._network.image_shape).transpose(0, 3, 1, 2)

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> OrderedDict:
        """{layer: (N, C, H, W) or (N, C) float32}."""
        images = images.transpose(0, 2, 3, 1)
        return OrderedDict(self._features.extract(self._network, images, layers, BATCH_SIZE))


class ActivationsModel:
    """The model that Brain-Score calls with images and names of layers."""

    def __init__(self, identifier: str, network: StoredFeatures | LiveNetwork):
        self._network = network
        self._extractor = ActivationsExtractorHelper(
            get_activations=network.activations,
            preprocessing=network.preprocess,
            identifier=f'{identifier}-{network.version}',
            batch_size=BATCH_SIZE,
        )
        self._extractor.insert_attrs(self)

    @property
    def identifier(self) -> str:
        return self._extractor.identifier

    @identifier.setter
    def identifier(self, name: str) -> None:  # Brain-Score sets it while it chooses layers
        self._extractor.identifier = name

    def __call__(self, stimuli, layers, require_variance=False, **kwargs):
        """stimuli: a StimulusSet or paths of image files."""
        # All at once: the extractor would stop at the first batch with missing images.
        if hasattr(stimuli, 'get_stimulus'):
            paths = [stimuli.get_stimulus(name) for name in stimuli['stimulus_id']]
        else:
            paths = stimuli
        self._network.check([str(path) for path in paths], require_variance)
        return self._extractor(stimuli, layers=layers, require_variance=require_variance, **kwargs)


def commitment(identifier: str) -> ModelCommitment:
    """The model in LCN_BRAIN_SCORE_DIR/identifier: a run, or a folder of feature files."""
    if 'LCN_BRAIN_SCORE_DIR' not in os.environ:
        raise RuntimeError('LCN_BRAIN_SCORE_DIR must name the folder of the networks to score.')
    root = Path(os.environ['LCN_BRAIN_SCORE_DIR'])
    folder = root / identifier
    if (folder / 'config.json').exists():
        network = LiveNetwork(folder)
    else:
        network = StoredFeatures(folder, root / 'missing_images')
    # Regions get a block by depth, or the first layer if there are no blocks.
    around = ('stem', 'pooled', 'logits')
    blocks = [layer for layer in network.layers if layer not in around] or network.layers[:1]
    regions = {region: blocks[round(depth * (len(blocks) - 1))] for region, depth in DEPTHS.items()}
    return ModelCommitment(
        identifier=identifier,
        activations_model=ActivationsModel(identifier, network),
        layers=network.layers,
        behavioral_readout_layer='pooled',
        region_layer_map=regions,
        visual_degrees=8,
    )


def checksum(numbers: Sequence[int]) -> str:
    """Eight hexadecimal digits."""
    return f'{zlib.crc32(repr(numbers).encode()):08x}'
