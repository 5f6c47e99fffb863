"""Maps of what the neurons of a trained network do, on the sheets of its layers.

    python -m experiments.maps --workdir=runs/all_tnn --kind=orientation,selectivity

For every layer with rows and columns, or those of --layers, it writes maps.npz and a picture of
each map into --out (WORKDIR/maps; NAME/maps for a network in NAME.npz). The kinds, defined in
`lcn_jax/trained/maps.py`, are

  orientation   the preferred orientation of gratings, and the strength of the preference
  selectivity   the preferred class of the images that the run was evaluated on, and its d'
  entropy       of the mean responses to the classes
  energy        the mean absolute activity for these images
  wiring        the length of each neuron's connections, times their weights
  smoothness    for the maps of orientation and selectivity that are asked for: their radial power,
                how many neighbours prefer the same class, and how far a neuron must look to see
                every class or one of eight orientations

maps.npz has LAYER/MAP, (H, W, O), and LAYER/MAP/power, LAYER/MAP/cluster_size for the smoothness.
Memory does not depend on the number of images, but for the images themselves.
"""

import numpy as np
from absl import flags

from experiments.common import cli, pictures, trained
from experiments.measure import responses
from experiments.reports import sheets
from lcn_jax.errors import UsageError
from lcn_jax.files import local_folder, make_folder, write_arrays
from lcn_jax.layer.local_parameters import by_path, kernels, name_of
from lcn_jax.learning.penalties import sheet
from lcn_jax.trained import maps
from lcn_jax.trained.load import Trained

KINDS = ('orientation', 'selectivity', 'entropy', 'energy', 'wiring', 'smoothness')
OF_IMAGES = {
    'selectivity': ('preferred', 'selectivity'),
    'entropy': ('entropy',),
    'energy': ('energy',),
}
KIND = flags.DEFINE_list('kind', None, f'Any of {", ".join(KINDS)}.', required=True)
LAYERS = flags.DEFINE_list('layers', [], 'Activations; by default all with rows and columns.')
OUT = flags.DEFINE_string('out', None, 'Folder to write to, instead of WORKDIR/maps.')
WAVELENGTHS = flags.DEFINE_list('wavelengths', ['4', '8'], 'Of the gratings, in pixels.')
ANGLES = flags.DEFINE_integer('angles', 8, 'How many, of the gratings.', lower_bound=2)
PHASES = flags.DEFINE_integer('phases', 8, 'How many, of each grating.', lower_bound=1)


def main(argv):
    del argv
    kinds = _kinds()
    beside = f'{trained.WORKDIR.value.removesuffix(".npz")}/maps'
    out = local_folder('--out', OUT.value or beside)
    wavelengths = _wavelengths()
    network = trained.load()
    layers = LAYERS.value or responses.layers_with_rows(network)
    found = {}
    if 'orientation' in kinds:
        by_layer = responses.orientations(network, layers, wavelengths, ANGLES.value, PHASES.value)
        for layer, of_layer in by_layer.items():
            found |= {f'{layer}/{name}': of_layer[name] for name in ('preference', 'strength')}
    if OF_IMAGES.keys() & set(kinds):
        for layer, moments in responses.moments(network, layers).items():
            of_images = maps.tuning(moments) | {'energy': maps.energy(moments)}
            names = [name for kind in kinds for name in OF_IMAGES.get(kind, ())]
            found |= {f'{layer}/{name}': of_images[name] for name in names}
    if 'wiring' in kinds:
        found |= wirings(network)
    arrays = found | (smoothness(found) if 'smoothness' in kinds else {})
    make_folder(out)
    write_arrays(out / 'maps.npz', arrays)
    print(f'{out / "maps.npz"} is written')
    for name, figure in figures(found, arrays).items():
        pictures.write(figure, out / f'{name}.png')


def wirings(network: Trained) -> dict[str, np.ndarray]:
    """'LAYER/wiring', (H, W, O), of the locally connected layers, by the names of their modules."""
    found = {}
    for path, local in by_path(kernels(network.grids)).items():
        layer = name_of(path[:-1])
        try:
            found[f'{layer}/wiring'] = maps.wiring(network.kernel(layer), local.grid)
        except ValueError as error:
            raise UsageError(f'{layer}: {error}') from None
    if not found:
        raise UsageError('the network has no local layers: leave wiring out of --kind.')
    return found


def smoothness(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """'LAYER/MAP/power' (frequencies,) and 'LAYER/MAP/cluster_size' (rows, columns), and prints."""
    arrays = {}
    for title, values in found.items():
        layer, _, name = title.rpartition('/')
        on_sheet = kinds = sheet(values)
        if name == 'preference':
            on_sheet = sheet(found[f'{layer}/strength']) * np.exp(2j * on_sheet)
            kinds = maps.eighths(kinds)
        elif name != 'preferred':
            continue
        powered = sheet(found[f'{layer}/selectivity']) if name == 'preferred' else on_sheet
        near, by_chance = maps.alike(kinds)
        sizes = arrays[f'{title}/cluster_size'] = maps.cluster_size(kinds)
        arrays[f'{title}/power'] = maps.radial_power(powered)
        seen = sizes[~np.isnan(sizes)]
        mean = f'{seen.mean():.1f} neurons' if len(seen) else 'more than half of the sheet'
        print(
            f'{title}: {near:.1%} of neighbours alike, {by_chance:.1%} of any two; cluster {mean}'
        )
    return arrays


def figures(found: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> dict:
    """A figure for each map, of all layers, by its name."""
    by_name: dict[str, dict[str, np.ndarray]] = {}
    for title, values in found.items():
        layer, _, name = title.rpartition('/')
        by_name.setdefault(name, {})[layer] = values
    drawn = {
        name: sheets.draw(of, name, by_name['strength'] if name == 'preference' else None)
        for name, of in by_name.items()
    }
    powers = {title[:-6]: values for title, values in arrays.items() if title.endswith('/power')}
    return drawn | ({'smoothness': sheets.draw_smoothness(powers)} if powers else {})


def _kinds() -> list[str]:
    unknown = [kind for kind in KIND.value if kind not in KINDS]
    if unknown or not KIND.value:
        raise UsageError(f'--kind={",".join(KIND.value)}: known are {", ".join(KINDS)}.')
    if 'smoothness' in KIND.value and not {'orientation', 'selectivity'} & set(KIND.value):
        raise UsageError('--kind=smoothness is that of maps: add orientation or selectivity.')
    return KIND.value


def _wavelengths() -> list[float]:
    try:
        found = [float(text) for text in WAVELENGTHS.value]
    except ValueError:
        found = []
    if not found or min(found) <= 0:
        raise UsageError(f'--wavelengths={",".join(WAVELENGTHS.value)} must be numbers above 0.')
    return found


if __name__ == '__main__':
    cli.run(main)
