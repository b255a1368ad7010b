"""`attnlab doctor`: what this machine has, what is missing and how to get it."""

from __future__ import annotations

import typer

from attnlab.cli import common


def doctor(json_: common.Json = False) -> None:
    """Check the installation: versions, threads, GPU, caches, data.

    Exit code 1 where something that a lesson needs is missing.
    """
    from attnlab import doctor as checks

    report = checks.examine()
    if json_:
        common.emit(report)
    else:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("what", no_wrap=True)
        table.add_column("state", no_wrap=True)
        table.add_column("detail", overflow="fold")
        for row in report["checks"]:
            table.add_row(row["what"], row["state"], row["detail"])
        out = common.console()
        out.print(table)
        for row in report["checks"]:
            if row["remedy"]:
                out.print(f"{row['what']}: {row['remedy']}", markup=False)
    raise typer.Exit(1 if any(row["state"] == "missing" for row in report["checks"]) else 0)
