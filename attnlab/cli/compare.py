"""`attnlab compare`: every path on the same inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnlab.cli import common


def compare(
    name: Annotated[str, typer.Argument(help="An exhibit; `attnlab list` names all.")],
    operation: Annotated[
        str | None, typer.Option("--operation", "-o", help="An operation; the headline by default.")
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Size of the inputs.")] = 256,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Real queries, keys and values: the small language model reads this file.",
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option("--layer", min=0, help="The model's layer that --text looks into; 0 without."),
    ] = None,
    backend: common.BackendName = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float32 or float64.")] = "float32",
    seed: common.Seed = 0,
    threads: common.Threads = None,
    json_: common.Json = False,
) -> None:
    """Run all paths of one operation on the same inputs: error against float64, and time."""
    if dtype not in ("float32", "float64"):
        common.refuse(f"--dtype must be float32 or float64, but is {dtype!r}")
    if layer is not None and text is None:
        common.refuse("--layer is a layer of the model that reads --text FILE: give that, too")
    layer = layer or 0
    count = common.threads_or_all(threads)
    from attnlab.bench import agreement
    from attnlab.bench.machine import pin_threads
    from attnlab.registry import find

    exhibit = find(name)
    op = exhibit.operation(operation)
    if backend is not None:
        exhibit.function(op.name, backend)  # refuses at once, by name
    pinned = pin_threads(count)
    kwargs = agreement.inputs(
        op, n, seed=seed, dtype=dtype, text=text, layer=layer, **op.bench_sizes
    )
    with pinned:
        results = agreement.run(op, kwargs, [backend] if backend else None)
    if json_:
        common.emit(
            {
                "exhibit": name,
                "operation": op.name,
                "n": n,
                "dtype": dtype,
                "seed": seed,
                "threads": count,
                "inputs": str(text) if text else "random",
                "paths": [r.__dict__ for r in results],
            }
        )
        return
    from rich.table import Table

    out = common.console()
    source = f"the language model reading {text}, layer {layer}" if text else f"random, seed {seed}"
    out.print(f"{exhibit.title}: {op.name}, n = {n}, {dtype}; inputs: {source}", markup=False)
    spread = out.width >= 64
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("path", no_wrap=True)
    table.add_column("output", overflow="fold")
    for column in ("max|Δ|", "median ms", *(["p20–p80"] if spread else []), "first ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in results:
        if row.reason:
            table.add_row(row.backend, "not run")
            continue
        low, high = (_ms(s) for s in row.spread or (None, None))
        times = [_ms(row.seconds), *([f"{low}–{high}"] if spread else []), _ms(row.first)]
        for output, error in row.errors.items():
            table.add_row(row.backend if times[0] else "", output, f"{error:.1e}", *times)
            times = [""] * len(times)
    out.print(table)
    out.print("max|Δ|: largest difference to the reference in float64")
    for row in results:
        if row.reason:
            out.print(f"{row.backend}: {row.reason}", markup=False)


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1e3:.3g}" if seconds < 0.9995 else f"{seconds * 1e3:.0f}"
