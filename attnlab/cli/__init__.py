"""The command line: one file a command group, no logic of its own.

Modules of this package import typer and the standard library only; what computes is imported
inside the commands, so that `attnlab --help` needs neither torch nor numba.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from attnlab import __version__
from attnlab.cli import (
    bench,
    cache,
    catalog,
    compare,
    conform,
    course,
    dev,
    doctor,
    explain,
    grade,
    run,
)


class Root(TyperGroup):
    """Says so where a command that has nothing to keep is interrupted: typer itself ends in silence."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            return _stopped()


app = typer.Typer(
    name="attnlab",
    cls=Root,
    help="A laboratory for published attention mechanisms: read, run, time and re-implement them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"attnlab {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A laboratory for published attention mechanisms."""


app.add_typer(run.app, name="run")
app.command("list")(catalog.list_)
app.command("show")(catalog.show)
app.command("compare")(compare.compare)
app.command("bench")(bench.bench)
app.command("conform")(conform.conform)
explain.register()
app.add_typer(explain.app, name="explain")
app.add_typer(course.app, name="course")
app.command("grade")(grade.grade)
app.command("doctor")(doctor.doctor)
app.add_typer(cache.app, name="cache")
app.add_typer(dev.app, name="dev")


def main(args: list[str] | None = None) -> None:
    """The console script. Exit codes: 0 done, 1 a check failed, 2 bad call, 130 interrupted."""
    sys.exit(_main(args))


def _main(args: list[str] | None) -> int:
    try:
        result = app(args, prog_name="attnlab", standalone_mode=False)
        return int(result) if isinstance(result, int) else 0
    except KeyboardInterrupt:
        return _stopped()
    except BrokenPipeError:  # the reader of a pipe went away: that is its choice
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _explain(error, sys.argv[1:] if args is None else args)


def _explain(error: Any, args: list[str]) -> int:
    """One clear line for what a user can mend; anything else is ours and keeps its traceback."""
    name = type(error).__name__
    if name == "Abort":
        return _stopped()
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # typer's own usage errors
        given = _given(getattr(error, "param", None), args)
        if given and not any(value in error.message for value in given):
            error.message += f", but it is {' or '.join(map(repr, given))}"
        error.show()
        return int(error.exit_code)
    if name in ("InputError", "BackendUnavailable", "VectorError", "LessonError"):
        typer.echo(f"Error: {error}", err=True)
        return 2
    if isinstance(error, OSError) and error.filename is not None:
        typer.echo(f"Error: {error.filename}: {error.strerror}", err=True)
        return 2
    raise error


def _given(param: Any, args: list[str]) -> list[str]:
    """The values that an option was given; the parser's messages say what was expected, not what came."""
    found = []
    for flag in getattr(param, "opts", ()):
        found += [value for word, value in pairwise(args) if word == flag]
        found += [word.partition("=")[2] for word in args if word.startswith(f"{flag}=")]
    return found


def _stopped() -> int:
    typer.echo("Interrupted.", err=True)
    return 130
