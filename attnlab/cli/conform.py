"""`attnlab conform`: test vectors against the paths."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnlab.cli import common


def conform(
    files: Annotated[list[Path], typer.Argument(help="NAME.npz files, NAME.json beside each.")],
    exhibit: Annotated[
        str | None,
        typer.Option("--exhibit", help="The exhibit they belong to; the file's name by default."),
    ] = None,
    backend: common.BackendName = None,
    json_: common.Json = False,
) -> None:
    """Hold test vectors against the paths: every output's error beside its tolerance.

    Exit codes: 0 all hold, 1 some differ, 2 a bad file or a path that cannot run.
    """
    from attnlab import vectors

    rows, bad = [], []
    for file in files:
        try:
            rows += [(str(file), row) for row in vectors.run(file, exhibit, backend)]
        except vectors.VectorError as error:
            bad.append(str(error))
            typer.echo(f"Error: {error}", err=True)
    failed = [row for _, row in rows if not row.ok]
    if json_:
        common.emit(
            {
                "held": len(rows) - len(failed),
                "differ": len(failed),
                "bad_files": bad,
                "rows": [{"file": file, **row.__dict__} for file, row in rows],
            }
        )
    else:
        _table(rows)
        out = common.console()
        out.print(
            f"{len(rows) - len(failed)} hold, {len(failed)} differ"
            + (f", {len(bad)} bad files" if bad else "")
        )
        if backend is None and (why := vectors.not_run(files, exhibit)):
            out.print(why)
    raise typer.Exit(2 if bad else 1 if failed else 0)


def _table(rows: list) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("case", "path", "output"):
        table.add_column(name, overflow="fold")
    for name in ("error", "tolerance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for _, row in rows:
        verdict = "ok" if row.ok else f"[bold]DIFFERS[/bold] {row.detail}"
        if row.ok and row.detail:
            verdict = row.detail
        table.add_row(
            row.case, row.backend, row.name, f"{row.error:.1e}", f"{row.tolerance:.1e}", verdict
        )
    if rows:
        common.console().print(table)
