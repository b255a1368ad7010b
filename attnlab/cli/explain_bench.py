"""`attnlab explain bench`: methods over a whole data set."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from attnlab.cli import common, explain


def bench(
    data: Annotated[
        str, typer.Option("--data", metavar="FILE", help="Labelled texts, read as a stream.")
    ],
    format_: Annotated[
        str, typer.Option("--format", metavar="F", help="sst, imdb, semeval, tsv, jsonl or auto.")
    ] = "auto",
    model: explain.Model = "bilstm",
    method: explain.Methods = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Draw N texts at random.")
    ] = None,
    target: explain.Target = None,
    output: explain.Output = "probability",
    replacement: explain.Replacement = "pad",
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Average random methods over so many seeds.")
    ] = 1,
    most_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Longer texts are left out and counted.")
    ] = 240,
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Random weights and planted models.")
    ] = True,
    html: explain.Html = None,
    json_: explain.JsonFile = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the same command's interrupted run.")
    ] = False,
    seed: common.Seed = 0,
    threads: explain.Threads = None,
) -> None:
    """Agreement, faithfulness and plausibility over a data set, with intervals, tests and controls.

    Without --method the six methods of the disagreement study, gradient and leave-one-out. What is
    done is kept: --resume goes on. Exit codes: 0 done, 2 bad call, 130 interrupted.
    """
    common.check_writable({"--html": html, "--json": json_})
    # a shell without job control starts its background jobs deaf to interrupts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # torch keeps compiled code for every shape it meets; read when torch is imported
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    with explain.quiet_errors():
        from attnlab.explain import study, study_report
        from attnlab.explain.registry import STUDY
        from attnlab.explain.replacement import check as check_replacement

        default = [*STUDY, "gradient", "leave_one_out"]
        names = explain.split(method) or default
        settings = study.Settings(
            data, model, format_, tuple(names), limit, target, output, replacement,  # type: ignore[arg-type]
            seed, seeds, most_tokens, controls,
        )  # fmt: skip
        study.check(settings)
        console = common.console(stderr=json_ == "-")
        with _Progress() as progress:
            found = study.look(settings)
            if not found.planned:
                for bad in found.first_bad:
                    typer.echo(f"line {bad.line}: {bad.reason}", err=True)
                common.refuse(f"{data}: no text to explain in it ({found.bad} malformed lines)")
            classifier = explain.load(model, threads)
            names, left_out = explain.given(classifier, explain.split(method), default)
            settings = replace(settings, methods=tuple(names))
            check_replacement(classifier, settings.replacement)
            cache = study.Cache(settings, classifier)
            progress.begin(found.planned)
            try:
                kept = study.run(
                    settings, classifier, found, cache, resume=resume, progress=progress.step
                )
            except KeyboardInterrupt:
                _interrupted(progress.done, found.planned)
        summary = _summary(settings, found, cache, classifier)
    if resume:
        console.print(f"--resume: {kept} of {found.planned} texts were there already")
    explain.note_left_out(console, left_out)
    if json_ == "-":
        common.emit(summary.as_dict())
    else:
        study_report.show(summary, console)
        if json_ is not None:
            explain.write(json_, common.dumps(summary.as_dict()) + "\n", console)
    console.print(f"every text's record: {cache.path}", soft_wrap=True, markup=False)
    if html is not None:
        explain.write(html, study_report.html(summary), console)


def _summary(settings: Any, found: Any, cache: Any, model: Any) -> Any:
    from attnlab.explain.summary import summarise

    labels = [str(label) for label in model.labels]
    return summarise(cache, settings, found, labels, model.attention_map, planted=settings.controls)


def _interrupted(done: int, planned: int) -> None:
    words = [w for w in sys.argv[1:] if w != "--resume"]
    again = shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "attnlab"), *words])
    typer.echo(
        f"interrupted: {done} of {planned} texts are done and kept; go on with:\n  {again} --resume",
        err=True,
    )
    raise typer.Exit(130)


class _Progress:
    """A bar on standard error where that is a terminal; counts in any case."""

    def __init__(self) -> None:
        self.done, self.bar, self.task = 0, None, None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def begin(self, total: int) -> None:
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        bar: Any = Progress(
            TextColumn("texts"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), console=Console(stderr=True), transient=True, refresh_per_second=2,
        )  # fmt: skip
        self.bar, self.task = bar, bar.add_task("", total=total)
        bar.start()

    def step(self, done: int) -> None:
        self.done = done
        if self.bar is not None:
            self.bar.update(self.task, completed=done)
