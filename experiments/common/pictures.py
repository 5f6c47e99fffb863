"""A picture as the result of a binary."""

import io

from matplotlib.figure import Figure

from lcn_jax.files import Path, locate, make_folder, write_bytes


def write(figure: Figure, out: Path) -> None:
    """Writes a PNG, with the folders above it, and says so; UsageError if it cannot be written."""
    make_folder(locate(out).parent)
    save(figure, out)
    print(f'{out} is written')


def save(figure: Figure, path: Path) -> None:
    """Replaces the PNG at `path` as a whole; UsageError if it cannot be written."""
    png = io.BytesIO()
    figure.savefig(png, format='png', dpi=150)
    write_bytes(path, png.getvalue())
