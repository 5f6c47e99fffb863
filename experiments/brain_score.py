"""Scores the blocks of trained networks against recorded neurons, and compares the networks.

    python -m experiments.brain_score --workdir=runs/conv,runs/lc,runs/lc_hebbian \\
        --assembly=V4.npz --images=V4_images.zip --axes=neuroids,stimuli,repetitions

Prints tables and writes brain_score.json, .md and .png. docs/brain_score.md describes the files and
the scores. Runs whose configs differ only in the seed are one network. Three ResNet-20 for 32×32
pixels, 640 images and 50 neurons took 70 s on one CPU core.

A layer that cannot be scored is marked with the reason, and so is a run without any other layer.
If a run cannot be loaded, the others are scored, and the exit status is 1.
"""

import os
import pathlib
import time

from absl import flags

from experiments.common import cli, pictures
from experiments.common.provenance import provenance
from experiments.reports import brain as brain_report
from experiments.reports import brain_networks, brain_picture
from lcn_jax.brain import assembly, stimuli
from lcn_jax.errors import UsageError
from lcn_jax.files import make_folder, to_json, write_text
from lcn_jax.trained.load import Trained, load
from lcn_jax.training import metrics

WORKDIR = flags.DEFINE_list('workdir', None, 'Folders of runs, separated by commas.', required=True)
CHECKPOINT = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")
DATA_DIR = flags.DEFINE_string('data_dir', None, "Replaces the runs' own config.data_dir.")
ASSEMBLY = flags.DEFINE_string(
    'assembly', None, 'npz or NetCDF file with the responses.', required=True
)
IMAGES = flags.DEFINE_string('images', None, 'Folder or zip file with the images.', required=True)
AXES = flags.DEFINE_list(
    'axes', list(assembly.AXES), 'Order of the axes of `responses` in an npz file.'
)
GROUP = flags.DEFINE_string(
    'group', None, 'Array or coordinate with the categories of the images, to stratify splits by.'
)
OUT = flags.DEFINE_string('out', 'runs/brain_score', 'Folder for what is written.')


def named(workdirs: list[str]) -> dict[str, str]:
    """The workdirs by their last folders, or by their whole paths if two of these are equal."""
    names = [pathlib.Path(workdir).name for workdir in workdirs]
    return dict(zip(names if len(set(names)) == len(names) else workdirs, workdirs))


def accuracies(workdirs: dict[str, str], runs: dict[str, Trained]) -> dict[str, float]:
    """The test accuracies of the runs that recorded one at the step of their checkpoint."""
    return {
        name: record['test_top1']
        for name, run in runs.items()
        for record in metrics.read(os.path.join(workdirs[name], 'metrics.jsonl'))
        if record['step'] == run.step and 'test_top1' in record
    }


def described(runs: dict[str, dict]) -> str:
    """Why the runs are not scored, in one line."""
    return ' '.join(f'{name}: {run["error"]}' for name, run in runs.items())


def main(argv):
    del argv
    started = time.perf_counter()
    out = make_folder(OUT.value)
    neurons = assembly.read(ASSEMBLY.value, tuple(AXES.value), GROUP.value)
    images = stimuli.shown(IMAGES.value, neurons)
    workdirs = named(WORKDIR.value)
    runs, broken = {}, {}
    for name, workdir in workdirs.items():
        try:
            runs[name] = load(workdir, CHECKPOINT.value, DATA_DIR.value)
        except UsageError as e:
            broken[name] = {'error': str(e)}
    if not runs:
        raise UsageError(described(broken))
    regions = brain_report.compare_regions(neurons, runs, images)
    for region in regions.values():
        region.get('runs', {}).update(broken)
    if not any(region.get('networks') for region in regions.values()):
        first = next(iter(regions.values()))
        raise UsageError(f'nothing can be scored: {first.get("error") or described(first["runs"])}')

    report = {
        'assembly': pathlib.Path(ASSEMBLY.value).name,
        'workdirs': workdirs,
        **provenance(),
        'seconds': round(time.perf_counter() - started, 1),
        'test_top1': accuracies(workdirs, runs),
        'regions': regions,
    }
    text = brain_networks.markdown(report)
    print(text)
    pictures.save(brain_picture.plot(regions), out / 'brain_score.png')
    write_text(out / 'brain_score.md', text)
    write_text(out / 'brain_score.json', to_json(report, indent=1))
    print(f'{out} is written')
    if broken:
        raise UsageError(f'some runs cannot be loaded and are not in {out}: {described(broken)}')


if __name__ == '__main__':
    cli.run(main)
