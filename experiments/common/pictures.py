"""A picture as the result of a binary."""

from matplotlib.figure import Figure

from lcn_jax.files import Path, locate, make_folder, writing


def write(figure: Figure, out: Path) -> None:
    """Writes a PNG, with the folders above it, and says so; UsageError if it cannot be written."""
    make_folder(locate(out).parent)
    with writing(out):
        figure.savefig(out, dpi=130)
    print(f'{out} is written')
