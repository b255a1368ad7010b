"""What the commands share: option types, the console, JSON output, threads."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Self

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the random inputs.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of every backend.")]
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend", "-b", help="numpy, numba, cuda or torch; all that can run by default."
    ),
]


def console(**options: Any) -> Console:
    """A console for results: plain text when piped, no colour when NO_COLOR is set."""
    from rich.console import Console

    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 gets ?, not an error
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    return Console(highlight=False, **options)


class Bar:
    """A progress bar of rich's columns on standard error; a command's own says what a step is."""

    def __init__(self, total: int, *columns: Any, fields: Mapping[str, Any], **options: Any):
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(*columns, console=Console(stderr=True), **options)
        self.task = self.bar.add_task("", total=total, **fields)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()


def emit(document: Any) -> None:
    """Print one JSON document; NaN and infinity become null."""
    typer.echo(dumps(document, indent=2))


def dumps(document: Any, indent: int = 1) -> str:
    """A JSON document as text; NaN and infinity become null."""
    return json.dumps(_finite(document), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def refuse(message: str) -> NoReturn:
    """One line on standard error, exit code 2."""
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(2)


def check_writable(outputs: Mapping[str, str | Path | None]) -> None:
    """Before anything is computed: can the results be written? Files by flag; - is standard output."""
    for flag, where in outputs.items():
        if where is None or str(where) == "-":
            continue
        path = Path(where)
        folder = path.resolve().parent
        if path.is_dir():
            refuse(f"{flag}: {path} is a folder")
        if not folder.is_dir():
            refuse(f"{flag}: no folder {path.parent}")
        if not os.access(path if path.exists() else folder, os.W_OK):
            refuse(f"{flag}: {path} cannot be written")


def put(where: str | Path, content: str) -> None:
    """Write a file, or to standard output for -."""
    if str(where) == "-":
        print(content, end="" if content.endswith("\n") else "\n")
        return
    try:
        Path(where).write_text(content, encoding="utf-8")
    except OSError as error:
        refuse(f"cannot write {where} ({error.strerror})")


def read_text(path: Path) -> str:
    """The user's own text (--text)."""
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        refuse(f"--text: no file {path}")
    except UnicodeDecodeError:
        refuse(f"--text: {path} is not UTF-8 text")
    except OSError as error:
        refuse(f"--text: cannot read {path} ({error.strerror})")
    if not content.strip():
        refuse(f"--text: {path} is empty")
    return content


def threads_or_all(threads: int | None) -> int:
    """The number of threads asked for, all cores without; more than there are cores is refused."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    if threads is not None and threads > cores:
        refuse(f"--threads: {threads} threads, but this process may use {cores} cores")
    return threads or cores


def counted(number: int, noun: str) -> str:
    """1 path, 2 paths."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
