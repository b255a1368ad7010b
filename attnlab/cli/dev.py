"""`attnlab dev`: for authors of exhibits."""

from __future__ import annotations

from typing import Annotated

import typer

from attnlab.cli import common

app = typer.Typer(help="For authors: check exhibits, lay out new ones.", no_args_is_help=True)


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Exhibits; all by default.")] = None,
    compile_: Annotated[
        bool,
        typer.Option("--compile", help="Also measure compile time with an empty cache (slow)."),
    ] = False,
    json_: common.Json = False,
) -> None:
    """Check that exhibits are whole: paths, agreement, vectors, skeleton, lesson, card, sources.

    Exit code 1 where something is wanting.
    """
    from attnlab import registry
    from attnlab.dev import check as lint

    chosen = [registry.find(name) for name in names or registry.names()]
    out = common.console()
    findings = []
    for exhibit in chosen:
        rows = list(lint.examine(exhibit))
        if compile_:
            rows.append(lint.compile_seconds(exhibit))
        findings += rows
        if not json_:
            marks = "  ".join(
                f"{row.check} {row.note or 'ok'}" if row.ok else f"[bold]{row.check} FAILS[/bold]"
                for row in rows
            )
            out.print(f"[bold]{exhibit.name}[/bold]  {marks}")
            for row in rows:
                for complaint in row.complaints:
                    out.print(f"    {row.check}: {complaint}", markup=False)
    failed = [row for row in findings if not row.ok]
    if json_:
        common.emit([{**row.__dict__, "ok": row.ok} for row in findings])
    else:
        out.print(
            f"{len(findings) - len(failed)} checks hold, {len(failed)} fail, over {len(chosen)} exhibits"
        )
    raise typer.Exit(1 if failed else 0)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The exhibit's name: lower case, underscores.")],
    family: Annotated[
        str,
        typer.Option(
            "--family",
            "-f",
            help="Its wing: dense, editing, sparse, linear, mixer, ranking, training, explanation, llm.",
        ),
    ],
) -> None:
    """Lay out a new exhibit: card, four paths, exercise, lesson and test, ready to be filled in."""
    from attnlab.dev.new import lay_out

    for path in lay_out(name, family):
        typer.echo(f"wrote {path}")
    typer.echo(
        f"Next: fill in the card, then reference.py; `attnlab dev check {name}` says what is wanting."
    )
