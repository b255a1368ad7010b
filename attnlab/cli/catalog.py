"""`attnlab list` and `attnlab show`: what there is, and everything about one exhibit."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attnlab.cli import common


def list_(
    family: Annotated[str | None, typer.Option("--family", "-f", help="Only one family.")] = None,
    json_: common.Json = False,
) -> None:
    """List the exhibits."""
    from attnlab import catalog, registry

    rows = [catalog.summary(exhibit) for exhibit in registry.exhibits(family)]
    if json_:
        common.emit(rows)
        return
    from rich.table import Table

    out = common.console()
    # names stay whole, to be copied; a narrow terminal has fewer columns (`show` has them all)
    columns = 5 if out.width >= 72 else 3 if out.width >= 56 else 2
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    for column in ("title", "family", "paths", "lesson")[: columns - 1]:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = [row["name"], row["title"], row["family"], " ".join(row["backends"])]
        cells.append("yes" if row["lesson"] else "-")
        table.add_row(*cells[:columns])
    out.print(table)
    out.print(
        f"\n{common.counted(len(rows), 'exhibit')}. `attnlab show NAME` tells about one, `attnlab run lesson NAME` teaches it."
    )


def show(
    name: Annotated[str, typer.Argument(help="An exhibit; `attnlab list` names all.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--source", "-s", help="Print the code of a path: numpy, numba, cuda or torch."
        ),
    ] = None,
    bibtex: Annotated[
        bool, typer.Option("--bibtex", help="Print the paper's BibTeX entry.")
    ] = False,
    json_: common.Json = False,
) -> None:
    """Show an exhibit: its card, equations, cost, and the code of each path."""
    from attnlab import catalog
    from attnlab.registry import find

    exhibit = find(name)
    if bibtex:
        entry = exhibit.paper.bibtex(exhibit.name)
        if json_:
            common.emit({"name": name, "bibtex": entry})
        else:
            typer.echo(entry)
    elif source is not None:
        code = catalog.source(exhibit, source)
        if json_:
            common.emit({"name": name, "backend": source, "source": code})
        else:
            _print_code(code)
    elif json_:
        common.emit(catalog.card(exhibit))
    else:
        _print_card(exhibit, catalog.card(exhibit))


def _print_code(code: str) -> None:
    from rich.syntax import Syntax

    out = common.console()
    if out.is_terminal:
        out.print(
            Syntax(code, "python", theme="ansi_dark", word_wrap=True, background_color="default")
        )
    else:
        typer.echo(code, nl=False)


def _print_card(exhibit: Any, card: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    out = common.console()
    out.print(f"[bold]{escape(card['title'])}[/bold]  ({card['name']}, {card['family']})")
    out.print(escape(card["paper"]))
    if exhibit.paper.arxiv or exhibit.paper.code:
        links = [
            f"arXiv {exhibit.paper.arxiv}" if exhibit.paper.arxiv else "",
            f"code {exhibit.paper.code}" if exhibit.paper.code else "",
        ]
        out.print(escape("; ".join(filter(None, links))))
    out.print(Padding(escape(card["idea"]), (1, 0)))
    for op in card["operations"]:
        head = " (headline)" if op["headline"] and len(card["operations"]) > 1 else ""
        out.print(f"[bold]{op['name']}[/bold]{head}: {escape(op['about'])}")
        for equation in op["equations"]:
            out.print(Padding(escape(equation), (0, 0, 0, 4)))
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        narrow = out.width < 60
        for _ in range(2 if narrow else 4):
            table.add_column(overflow="fold")  # a narrow terminal loses no letter
        for kind, rows in (("in", op["inputs"]), ("option", op["options"]), ("out", op["outputs"])):
            for row in rows:
                cells = [row["name"], escape(row["what"]), escape(row["about"])]
                table.add_row(kind, *([" ".join(cells)] if narrow else cells))
                kind = ""
        out.print(Padding(table, (0, 0, 0, 4)))
        facts = [f"paths {' '.join(op['backends'])}"]
        if op["cost"]:
            facts.append(
                f"time {op['cost']['time']} (exponent {op['cost']['exponent']:g} in {op['cost']['grows']})"
            )
            if op["cost"]["memory"]:
                facts.append(f"memory {op['cost']['memory']}")
        facts.append(
            f"gradients {', '.join(op['gradient'])}"
            if op["gradient"]
            else f"no gradient: {op['no_gradient']}"
        )
        out.print(Padding(escape("; ".join(facts)), (0, 0, 1, 4)))
    out.print(f"Attention map: {escape(card['attention_map'])}")
    for note in exhibit.notes:
        out.print(f"Note: {escape(note)}")
    if exhibit.exercise:
        out.print(
            f"Exercise: difficulty {exhibit.exercise.difficulty} of 5, about {exhibit.exercise.minutes} minutes."
        )
    lesson = f"`attnlab run lesson {card['name']}`" if card["lesson"] else "none yet"
    out.print(
        f"Lesson: {lesson}. Code: `attnlab show {card['name']} --source {card['backends'][0]}`."
    )
