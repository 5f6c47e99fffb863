"""Scores the blocks of trained networks against recorded neurons, and networks against each other.

    python -m experiments.brain_score --workdir=runs/conv,runs/lc,runs/lc_hebbian \\
        --assembly=V4.npz --images=V4_images.zip --axes=neuroids,stimuli,repetitions

A score is the correlation of predicted with measured responses to held-out images (partial least
squares, 10 splits, median over neurons), as Brain-Score computes it, with a 95 % bootstrap interval
over neurons. Of every network the best block is chosen on one half of the images and scored on the
other, which gives less than all images do, for a regression learns less from half of them; the
differences between networks there, and their intervals, are over the same neurons. RDM is the
Spearman correlation of the dissimilarities of images with those in each repetition.

`lcn_jax/brain/assembly.py` says what the assembly file has to be like, and --axes the order of its
axes. Images are resized to what the network was trained on. Prints tables; writes brain_score.json
and brain_score.png. Three ResNet-20 of 32×32 pixels, 640 images and 50 neurons took 70 s on one
CPU core.
"""

import json
import pathlib
import time

import numpy as np
from absl import flags

from experiments.common import cli
from experiments.common.provenance import provenance
from experiments.reports import brain as brain_report
from lcn_jax.brain import assembly, features, stimuli
from lcn_jax.errors import UsageError, writing
from lcn_jax.training.metrics import plain

WORKDIR = flags.DEFINE_list('workdir', None, 'Folders that experiments.train wrote, with commas.')
CHECKPOINT = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")
DATA_DIR = flags.DEFINE_string('data_dir', None, "Instead of the runs' own config.data_dir.")
ASSEMBLY = flags.DEFINE_string('assembly', None, 'npz or NetCDF file of the responses.')
IMAGES = flags.DEFINE_string('images', None, 'Folder or zip of the images.')
AXES = flags.DEFINE_list('axes', list(assembly.AXES), 'Of `responses` in an npz file.')
GROUP = flags.DEFINE_string(
    'group', None, 'Name of the kinds of images that all splits have in equal proportion.'
)
OUT = flags.DEFINE_string('out', 'runs/brain_score', 'Folder for the JSON and the PNG.')
flags.mark_flags_as_required(['workdir', 'assembly', 'images'])


def named(workdirs: list[str]) -> dict[str, str]:
    """Workdirs by their last folder, or by their whole path if two have the same."""
    names = [pathlib.Path(workdir).name for workdir in workdirs]
    return dict(zip(names if len(set(names)) == len(names) else workdirs, workdirs))


def main(argv):
    del argv
    started = time.perf_counter()
    out = pathlib.Path(OUT.value)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    neurons = assembly.read(ASSEMBLY.value, tuple(AXES.value), GROUP.value)
    images = stimuli.shown(IMAGES.value, neurons)
    workdirs = named(WORKDIR.value)
    networks = {
        name: features.load(workdir, CHECKPOINT.value, DATA_DIR.value)
        for name, workdir in workdirs.items()
    }
    regions = {}
    try:
        for region in np.unique(neurons.regions):
            scorer = brain_report.Scorer(neurons.region(region), neurons.groups)
            regions[str(region)] = brain_report.compare(scorer, networks, images, region)
    except ValueError as e:  # too few images for so many splits, or too few features
        raise UsageError(str(e)) from e

    brain_report.plot(regions).savefig(out / 'brain_score.png', dpi=130)
    report = {
        'assembly': pathlib.Path(ASSEMBLY.value).name,
        'workdirs': workdirs,
        **provenance(),
        'seconds': round(time.perf_counter() - started, 1),
        'regions': regions,
    }
    (out / 'brain_score.json').write_text(json.dumps(plain(report), indent=1) + '\n')
    print(f'{out} is written')


if __name__ == '__main__':
    cli.run(main)
