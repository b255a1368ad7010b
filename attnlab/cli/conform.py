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
    from attnlab.contract import BACKENDS, InputError, suggest

    if backend is not None and backend not in BACKENDS:
        common.refuse(
            f"--backend: {backend!r} is none of {', '.join(BACKENDS)}{suggest(backend, BACKENDS)}"
        )
    rows: list[tuple[str, vectors.Held]] = []
    bad = []
    # NAME.* names a pair twice
    pairs = [file.with_suffix(".npz") if file.suffix == ".json" else file for file in files]
    for file in dict.fromkeys(pairs):
        try:
            for row in vectors.run(file, exhibit, backend):
                rows.append((str(file), row))  # kept, should a later case be refused
        except (vectors.VectorError, InputError) as error:
            # a path refuses what the file's arrays are (a wrong dtype, say): the file is at fault
            said = str(error) if isinstance(error, vectors.VectorError) else f"{file}: {error}"
            bad.append(said)
            typer.echo(f"Error: {said}", err=True)
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
            + (f", {common.counted(len(bad), 'bad file')}" if bad else "")
        )
        if backend is None and (why := vectors.not_run(dict.fromkeys(pairs), exhibit)):
            out.print(why)
    raise typer.Exit(2 if bad else 1 if failed else 0)


def _table(rows: list) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("case", "path", "output"):
        table.add_column(name, overflow="fold")
    for name in ("error", "tolerance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    many = len({file for file, _ in rows}) > 1
    for file, row in rows:
        case = f"{Path(file).stem}: {row.case}" if many else row.case
        verdict = escape(row.detail) or "ok" if row.ok else "[bold]DIFFERS[/bold]"
        table.add_row(
            escape(case),
            row.backend,
            row.name,
            f"{row.error:.1e}",
            f"{row.tolerance:.1e}",
            verdict,
        )
    if not rows:
        return
    out = common.console()
    out.print(table)
    for _, row in rows:
        if not row.ok:
            out.print(f"{row.case} {row.backend} {row.name}: {row.detail}", markup=False)
