"""What the commands share: option types, the console, JSON output, threads."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

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


def emit(document: Any) -> None:
    """Print one JSON document; NaN and infinity become null."""
    typer.echo(json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False))


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
