"""`attnlab explain image`: which pixels a decision comes from, and the areas attended to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnlab.cli import common

if TYPE_CHECKING:
    import numpy as np

    from attnlab.models.images import ImageModel


def image(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Images of any common format.")
    ] = None,
    digits: Annotated[
        list[int] | None,
        typer.Option(
            "--digits", metavar="N", help="Number N of scikit-learn's digits; repeatable."
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", metavar="digits|FOLDER", help="The network that decides."),
    ] = "digits",
    invert: Annotated[
        bool, typer.Option("--invert", help="Exchange black and white: ink on paper.")
    ] = False,
    patch: Annotated[int, typer.Option("--patch", help="Side of a patch, odd.")] = 5,
    unpool: Annotated[
        str, typer.Option("--unpool", help="write (as published) or add: what shared maxima get.")
    ] = "write",
    stabiliser: Annotated[
        str, typer.Option("--stabiliser", help="add (as published) or sign: the epsilon rule.")
    ] = "add",
    backend: Annotated[
        str, typer.Option("--backend", "-b", help="numpy, numba, cuda or torch.")
    ] = "numba",
    html: Annotated[
        Path | None, typer.Option("--html", metavar="F", help="One self-contained page.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="F.png", help="A picture of all maps.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Layer-wise relevance and the Salient Relevance map beside an image.

    The image is resized to the network's input. Exit codes: 0 done, 2 bad call.
    """
    if not files and not digits:
        common.refuse("give an image FILE, or --digits N")
    common.check_writable({"--html": html, "--plot": plot})
    if plot is not None and plot.suffix.lower() != ".png":
        common.refuse(f"--plot: {plot} must end in .png")
    os.environ.setdefault("MPLBACKEND", "Agg")

    from attnlab.explain import image as science

    network = _load(model)
    found = [_read(path, network, invert) for path in files or ()]
    found += _digits(digits or [], network)
    explained = [
        science.explain_image(
            network, pixels, source=source, label=label, patch=patch, backend=backend,  # type: ignore[arg-type]
            unpool=unpool, stabiliser=stabiliser,
        )
        for source, label, pixels in found
    ]  # fmt: skip
    if json_:
        documents = [one.as_dict() for one in explained]
        common.emit({"model": model, "images": documents})
    else:
        _show(explained)
    out = common.console(stderr=json_)
    if plot is not None:
        science.save_picture(plot, explained)
    if html is not None:
        html.write_text(science.page(explained), encoding="utf-8")
    for path in (plot, html):
        if path is not None:
            out.print(f"written: {path}", soft_wrap=True, markup=False)


def _load(name: str) -> ImageModel:
    from attnlab.models.images import ModelFileError, load

    try:
        return load(None if name == "digits" else Path(name))
    except ModelFileError as error:
        common.refuse(f"--model: {error}")


def _read(path: Path, model: ImageModel, invert: bool) -> tuple[str, str, np.ndarray]:
    """(source, no label, pixels) of a file."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    from attnlab.models.images import fitted

    if not path.exists():
        common.refuse(f"no file {path}")
    try:
        with Image.open(path) as opened:
            deep = opened.mode.startswith(("I", "F"))
            plane = opened if deep else opened.convert("L" if model.channels == 1 else "RGB")
            pixels = np.asarray(plane, np.float32)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        common.refuse(f"{path} is no image that can be read")
    except (OSError, SyntaxError, ValueError) as error:
        common.refuse(f"cannot read {path} ({error})")
    pixels = pixels / (max(float(pixels.max()), 1.0) if deep else 255.0)
    made = fitted(pixels, model)
    return path.name, "", 1 - made if invert else made


def _digits(numbers: list[int], model: ImageModel) -> list[tuple[str, str, np.ndarray]]:
    if not numbers:
        return []
    from attnlab.datasets.files import DatasetMissing
    from attnlab.datasets.images import digits
    from attnlab.models.images import fitted

    try:
        found = digits()
    except DatasetMissing as error:
        common.refuse(f"--digits: {error}")
    for n in numbers:
        if not 0 <= n < len(found.labels):
            common.refuse(f"--digits: {n} is outside 0..{len(found.labels) - 1}")
    return [
        (f"digit {n}", str(found.labels[n]), fitted(found.images[n, 0], model)) for n in numbers
    ]


def _show(explained: list[Any]) -> None:
    from rich.table import Table

    from attnlab import draw
    from attnlab.explain.image import panels, summary

    out = common.console()
    for one in explained:
        out.print(one.source, style="bold", markup=False)
        side = one.image.shape[-1]
        maps = [(title, draw.heat(heat, title=title)) for title, heat in panels(one)]
        # as many maps beside one another as fit at one or two columns a pixel
        room = side + 4
        beside = max(1, min(len(maps), out.width // room))
        for first in range(0, len(maps), beside):
            grid = Table.grid(padding=(0, 2))
            row = maps[first : first + beside]
            width = (out.width - 2 * (len(row) - 1)) // max(beside, 1)
            for _ in row:
                grid.add_column(width=min(width, 2 * side))
            grid.add_row(*(picture for _, picture in row))
            out.print(grid)
        for line in summary(one):
            out.print(line, markup=False)
