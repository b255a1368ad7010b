"""`attnlab cache`: what the lab keeps on disk."""

from __future__ import annotations

import typer

from attnlab.cli import common

app = typer.Typer(help="Compiled kernels and saved runs on disk.", no_args_is_help=True)


@app.command()
def show(json_: common.Json = False) -> None:
    """Show where the caches lie and how large they are."""
    from attnlab import doctor

    rows = doctor.caches()
    if json_:
        common.emit(rows)
        return
    for row in rows:
        typer.echo(f"{row['bytes'] / 2**20:8.1f} MiB  {row['path']}")


@app.command()
def clear(json_: common.Json = False) -> None:
    """Delete compiled kernels, unfinished benchmark runs and training checkpoints."""
    from attnlab import doctor

    freed = doctor.clear_caches()
    if json_:
        common.emit({"freed_bytes": freed})
    else:
        typer.echo(f"freed {freed / 2**20:.1f} MiB")
