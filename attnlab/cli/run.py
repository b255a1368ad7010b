"""`attnlab run lesson`: a lesson in the terminal, as a page, as a notebook, as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnlab.cli import common

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Run a lesson.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Run a lesson."""


@app.command()
def lesson(
    name: Annotated[
        str | None, typer.Argument(help="The lesson, or a lesson file; the first one without.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the lessons and stop.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes, no pauses.")] = False,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="A text of your own to work on.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="F", help="Write one self-contained page.")
    ] = None,
    notebook: Annotated[
        Path | None, typer.Option("--notebook", metavar="F", help="Write a Jupyter notebook.")
    ] = None,
    json_: Annotated[
        str | None, typer.Option("--json", metavar="F", help="Write claims; - is standard output.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of all random draws.")] = 0,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of Numba, BLAS and torch.")
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train the lesson's model anew where it has one.")
    ] = False,
) -> None:
    """Read and run a lesson; with no NAME, the first one.

    On a terminal it pauses at each prediction; piped, or with --quick, --html, --notebook or --json,
    it does not. Exit codes: 0 done, 1 a cell failed, 2 bad call, 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 gets ?, not an error
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    own = common.read_text(text) if text is not None else None
    outputs = {"--html": html, "--notebook": notebook, "--json": json_}
    common.check_writable(outputs)
    if threads is not None:
        _limit_threads(common.threads_or_all(threads))
    os.environ["MPLBACKEND"] = "Agg"

    from rich.console import Console

    from attnlab.lesson import script
    from attnlab.lesson.session import Session

    silent = json_ == "-"
    console = None if silent else Console(highlight=False)
    try:
        if list_:
            _list(script.available(), console, json_)
            return
        found = script.find(name)
    except script.LessonError as error:
        common.refuse(str(error))

    from attnlab.lesson import runner

    pauses = sys.stdin.isatty() and sys.stdout.isatty() and not quick
    pauses = pauses and not any(outputs.values())
    session = Session(
        quick=quick,
        seed=seed,
        text=own,
        train=train,
        console=console,
        ask=console.input if pauses and console is not None else None,
    )
    if console is not None:
        runner.announce(console, found, session)
    result = runner.run(found, session)
    if console is not None:
        runner.close(console, result)
    elif (failure := result.error) is not None:
        place = f"{failure.file}:{failure.line or '?'}"
        print(f"{place}: {failure.kind}: {failure.message}", file=sys.stderr)
    _write(result, html, notebook, json_, console)
    if result.interrupted:
        raise typer.Exit(130)
    if result.error is not None:
        raise typer.Exit(1)


def _limit_threads(threads: int) -> None:
    """Before Numba, torch and BLAS are imported, the environment is what they read."""
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
    if (numba := sys.modules.get("numba")) is not None:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if "numpy" in sys.modules:
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads)


def _list(lessons: list[Any], console: Console | None, json_: str | None) -> None:
    rows: list[dict[str, Any]] = []
    for number, item in enumerate(lessons, 1):
        tried, untried = item.claims()
        rows.append(
            {
                "number": number,
                "name": item.name,
                "title": item.title,
                "minutes": item.minutes,
                "claims": tried,
                "untried": untried,
            }
        )
    if json_ is not None:
        common.put(json_, json.dumps(rows, indent=2, ensure_ascii=False))
    if console is None:
        return
    from rich import box
    from rich.table import Table

    narrow = console.width < 64
    table = Table(box=box.SIMPLE_HEAD, pad_edge=not narrow, show_edge=not narrow)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("lesson", no_wrap=True)  # whole, to be copied
    table.add_column("title", overflow="fold")
    for column in ("claims",) if narrow else ("minutes", "claims"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        claims = str(row["claims"]) + (f" (+{row['untried']})" if row["untried"] else "")
        cells = [claims] if narrow else [str(row["minutes"]), claims]
        table.add_row(str(row["number"]), row["name"], row["title"], *cells)
    console.print(table)
    console.print("claims: re-created (+ listed with the reason why not)", style="dim")


def _write(
    result: Any,
    html: Path | None,
    notebook: Path | None,
    json_: str | None,
    console: Console | None,
) -> None:
    """Files are written for a run that ended early, too: they say so."""
    written = []
    if html is not None:
        from attnlab.lesson.html import page

        common.put(html, page(result))
        written.append(str(html))
    if notebook is not None:
        from attnlab.lesson.notebook import notebook as as_notebook

        common.put(notebook, json.dumps(as_notebook(result), indent=1, ensure_ascii=False) + "\n")
        written.append(str(notebook))
    if json_ is not None:
        common.put(
            json_, json.dumps(result.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
        )
        written += [json_] if json_ != "-" else []
    if console is not None:
        for path in written:
            console.print(f"written: {path}", soft_wrap=True)
