"""`attnlab bench`: the canonical benchmark."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnlab.cli import common

if TYPE_CHECKING:
    from rich.console import Console

    from attnlab.bench.settings import Settings

app = typer.Typer(help="Time mechanisms as n grows.", add_completion=False)


@app.command()
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Exhibits; without, all that have a sequence length."),
    ] = None,
    seq_len: Annotated[
        list[str] | None,
        typer.Option(
            "--seq-len", "--size", metavar="N,N,…", help="Sizes n: tokens, documents, steps …"
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", metavar="PRESET", help="quick, long or gpu-long: frozen sizes and shapes."
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            metavar="B,B,…",
            help="numpy, numba, torch, cuda; those that run here without.",
        ),
    ] = None,
    operation: Annotated[
        str | None,
        typer.Option("--operation", metavar="OP", help="An operation; the headline without."),
    ] = None,
    dim: Annotated[int | None, typer.Option("--dim", min=1, help="Width of a head.")] = None,
    heads: Annotated[int | None, typer.Option("--heads", min=1, help="Number of heads.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Batch size.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any other size or option of the operation."
        ),
    ] = None,
    causal: Annotated[
        bool, typer.Option("--causal", help="No position sees those after it.")
    ] = False,
    repeat: Annotated[
        int | None, typer.Option("--repeat", min=1, max=1000, help="Samples of each point.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="SECONDS", help="For the whole run.")
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Peak memory, in a process for each point.")
    ] = True,
    csv: Annotated[
        str | None,
        typer.Option("--csv", metavar="F", help="One row a point; - is standard output."),
    ] = None,
    json_: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="F", help="Everything, raw samples too; - is standard output."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="F", help="Log-log picture: .png, .svg or .pdf."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the same command's interrupted run.")
    ] = False,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="FILE", help="An earlier run's --json file.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random inputs.")] = 0,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Threads of every path; all cores without."),
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", metavar="float32|float64")] = "float32",
) -> None:
    """Time, memory and growth of mechanisms, beside plain attention.

    Every path is first held against the float64 reference; one that disagrees is not timed. Exit codes:
    0 done, 1 a path disagrees, 2 bad call, 130 interrupted (what is done is kept: --resume goes on).
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 gets ?, not an error
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # a shell without job control starts its background jobs deaf to interrupts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _check_files(csv, json_, plot)
    asked: dict[str, Any] = {
        "names": tuple(names or ()),
        "operation": operation,
        "causal": causal,
        "dtype": _choice("--dtype", dtype, ("float32", "float64")),
        "seed": seed,
        "memory": memory,
        "threads": common.threads_or_all(threads),
        "sizes_set": {
            k: v for k, v in (("dim", dim), ("heads", heads), ("batch", batch)) if v is not None
        }
        | dict(_assignment(text) for text in set_ or ()),
    }
    if seq_len:
        asked["ns"] = _lengths(seq_len)
    if backend:
        asked["backends"] = tuple(b for text in backend for b in _split("--backend", text))
    if repeat is not None:
        asked["repeat"] = repeat
    if budget is not None:
        if not 0 < budget < 1e7:
            common.refuse(f"--budget must be a number of seconds above 0, but is {budget:g}")
        asked["budget"] = budget
    try:
        _run(_settings(preset, asked), csv, json_, plot, resume, compare)
    except KeyboardInterrupt:
        typer.echo("interrupted before anything was measured", err=True)
        raise typer.Exit(130) from None


def _run(
    settings: Settings,
    csv: str | None,
    json_: str | None,
    plot: Path | None,
    resume: bool,
    compare: Path | None,
) -> None:
    from attnlab.contract import BackendUnavailable, InputError

    # before Numba, torch and BLAS are loaded, the environment is what they read
    if settings.threads > int(os.environ.get("NUMBA_NUM_THREADS", settings.threads)):
        common.refuse(
            f"--threads: {settings.threads} threads, but NUMBA_NUM_THREADS is {os.environ['NUMBA_NUM_THREADS']}"
        )
    from rich.console import Console

    from attnlab.bench import compare as comparing
    from attnlab.bench import files, machine
    from attnlab.bench import plan as planning
    from attnlab.bench import plot as plotting
    from attnlab.bench.records import Results, State
    from attnlab.bench.report import Report
    from attnlab.bench.run import Runner
    from attnlab.bench.run import resume as resumed
    from attnlab.bench.summary import summarise

    try:
        earlier = comparing.read(compare) if compare is not None else None
        plan = planning.make(settings)
    except comparing.CompareError as error:
        common.refuse(f"--compare: {error}")
    except (InputError, BackendUnavailable) as error:
        common.refuse(str(error))

    silent = "-" in (csv, json_)
    console = Console(highlight=False, stderr=silent, quiet=silent)
    report = Report(console)
    _import(plan.backends)
    with machine.pin_threads(settings.threads):
        here = machine.describe(settings.threads, plan.device)
        state = State(settings, here)
        rates, kept = resumed(state, resume)
        rates = rates or machine.measure_rates(settings.threads, device=plan.device)
        results = Results(settings, here, rates, plan.notes, points=kept)
        results.started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        results.estimate = planning.estimate(plan, settings, rates)
        if resume:
            had = (
                f"{len(kept)} points are kept from the run before"
                if kept
                else "nothing was kept of this command on this machine: all is measured"
            )
            results.notes.append(f"--resume: {had}")
        report.header(results, plan)
        state.begin(settings, here, rates, kept)
        with _progress(len(plan.series) * len(settings.ns), console) as progress:
            Runner(settings, plan, results, state, progress).run()

    summaries = summarise(results)
    changes, caveats = comparing.against(results, earlier) if earlier is not None else (None, [])
    report.tables(results, summaries)
    report.overview(results, summaries)
    if not silent and (picture := plotting.terminal(results)) is not None:
        console.print()
        console.print(picture)
    if changes is not None:
        report.comparison(changes, caveats, str(compare))
    report.headline(results, summaries)
    report.footer(results)
    written = []
    for where, text in (
        (csv, lambda: files.as_csv(results)),
        (json_, lambda: files.as_json(results, summaries, changes)),
    ):
        if where is not None:
            common.put(where, text())
            written += [where] if where != "-" else []
    if plot is not None and any(p.measured for p in results.points):
        plotting.save(results, plot)
        written.append(str(plot))
    for name in written:
        console.print(f"written: {name}", soft_wrap=True, markup=False)
    outputs = (("--csv", csv), ("--json", json_), ("--plot", plot), ("--compare", compare))
    _end(results, [word for flag, where in outputs if where for word in (flag, str(where))])


def _end(results: Any, outputs: list[str]) -> None:
    if results.interrupted:
        done = sum(p.measured for p in results.points)
        typer.echo(
            f"interrupted: {done} of {results.planned} points are measured and kept; go on with:\n"
            f"  {shlex.join([*results.settings.words(), *outputs])} --resume",
            err=True,
        )
        raise typer.Exit(130)
    if results.red:
        for gate in results.red:
            typer.echo(f"{gate.exhibit} {gate.operation} {gate.backend}: {gate.line}", err=True)
        raise typer.Exit(1)


def _import(backends: tuple[str, ...]) -> None:
    """Loads what the paths need, so that threads can be pinned before the first call."""
    if {"numba", "cuda"} & set(backends):
        import numba  # noqa: F401
    if "torch" in backends:
        import torch  # noqa: F401


class _Quiet:
    """No progress bar: standard error is no terminal."""

    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *error: object) -> None: ...

    def step(self, text: str, done: int) -> None: ...


class _Bar(common.Bar):
    """A progress bar that names what is measured."""

    def __init__(self, total: int):
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

        super().__init__(
            total, TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(),
            fields={}, transient=True, refresh_per_second=2,
        )  # fmt: skip

    def step(self, text: str, done: int) -> None:
        self.bar.update(self.task, description=text, completed=done)


def _progress(total: int, console: Console) -> Any:
    return _Bar(total) if sys.stderr.isatty() else _Quiet()


def _settings(preset: str | None, asked: dict[str, Any]) -> Settings:
    from dataclasses import replace

    from attnlab.bench.settings import ALL_SIZES, PRESETS, Settings, with_preset

    if preset == "quick" and not asked["names"]:
        asked["memory"] = False  # a process for each point of every mechanism takes minutes
    if preset is not None:
        return with_preset(_choice("--preset", preset, tuple(PRESETS)), asked)
    # one mechanism's benchmark is something to wait for; all of them take longer
    plain = Settings(budget=120.0) if asked["names"] else Settings(ns=ALL_SIZES, budget=300.0)
    return replace(plain, **asked)


def _choice(flag: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        from attnlab.contract import suggest

        common.refuse(f"{flag}: {value!r} is none of {', '.join(known)}{suggest(value, known)}")
    return value


def _split(flag: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        common.refuse(f"{flag}: {text!r} has an empty entry")
    return parts


def _lengths(texts: list[str]) -> tuple[int, ...]:
    found = set()
    for part in (p for text in texts for p in _split("--seq-len", text)):
        if not part.isascii() or not part.isdigit() or not 1 <= int(part) <= 2**31:
            common.refuse(
                f"--seq-len: {part!r} is no whole number from 1 on (a list reads 512,1024,2048)"
            )
        found.add(int(part))
    return tuple(sorted(found))


def _assignment(text: str) -> tuple[str, Any]:
    import json

    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        common.refuse(f"--set: {text!r} should read NAME=VALUE")
    try:
        return name.strip(), json.loads(
            {"True": "true", "False": "false", "None": "null"}.get(value, value)
        )
    except json.JSONDecodeError:
        return name.strip(), value


def _check_files(csv: str | None, json_: str | None, plot: Path | None) -> None:
    """Before minutes are spent measuring, can the results be written?"""
    if csv == "-" and json_ == "-":
        common.refuse("--csv and --json cannot both write to standard output")
    common.check_writable({"--csv": csv, "--json": json_, "--plot": plot})
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        common.refuse(f"--plot: {plot} should end in .png, .svg or .pdf")


if __name__ == "__main__":
    app()
