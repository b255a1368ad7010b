"""`attnlab explain heads`: what each head of a causal model does, and what the answer loses without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from attnlab.cli.common import Json, check_writable, console, counted, emit, read_text, refuse


class Kind(StrEnum):
    retrieval = "retrieval"
    induction = "induction"
    previous = "previous"
    sink = "sink"
    entropy = "entropy"


def heads(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|FOLDER",
            help="retrieval, induction, ioi, greater_than, docstring, language, or the folder of a "
            "Hugging Face causal model.",
        ),
    ] = "induction",
    text: Annotated[
        Path | None,
        typer.Option("--text", metavar="FILE", help="Text that a language model is shown."),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Needle tests.")] = 40,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Flatten the top heads, and as many others; ask again.")
    ] = False,
    top: Annotated[
        list[int] | None,
        typer.Option("--top", min=1, help="How many heads --ablate flattens; may be repeated."),
    ] = None,
    by: Annotated[
        Kind, typer.Option("--by", help="Which score says which heads are the top ones.")
    ] = Kind.retrieval,
    draws: Annotated[
        int, typer.Option("--draws", min=1, help="Random choices of other heads to compare with.")
    ] = 3,
    everywhere: Annotated[
        bool,
        typer.Option(
            "--everywhere", help="Flatten while the prompt is read, too, not only while answering."
        ),
    ] = False,
    same_layers: Annotated[
        bool, typer.Option("--same-layers", help="Draw the other heads from the top heads' layers.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of all prompts.")] = 0,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="F", help="Write one self-contained page.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="F", help="Write a picture: .png, .svg, .pdf.")
    ] = None,
    json_: Json = False,
) -> None:
    """Retrieval, induction, previous-token, sink and entropy scores of every head.

    A retrieval score counts how much of a hidden needle the head copied into the answer.
    Only answers that hold more than half of the needle count.
    Exit codes: 0 done, 2 bad call.
    """  # fmt: skip
    check_writable({"--html": html, "--plot": plot})
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        refuse(f"--plot: {plot} must end in .png, .svg or .pdf")
    own = read_text(text) if text is not None else None

    from attnlab.explain import heads as science
    from attnlab.explain.decoders import open_decoder

    try:
        decoder = open_decoder(model, own)
    except ValueError as error:
        refuse(f"--model: {error}")
    ks = tuple(dict.fromkeys(top or _default_ks(decoder.layers * decoder.heads)))
    if max(ks) > decoder.layers * decoder.heads:
        refuse(f"--top: {max(ks)} heads, but {decoder.name} has {decoder.layers * decoder.heads}")
    tests, why = [], ""
    try:
        tests = science.needles(decoder, runs, seed=seed)
    except ValueError as error:
        why = str(error)
    with _progress("needle tests", bool(tests)) as show:
        scores = science.head_scores(decoder, tests, seed=seed, progress=show)
    lesions = None
    if ablate:
        try:
            with _progress("ablation", True) as show:
                lesions = science.ablate(
                    decoder, tests, scores, ks, kind=by.value, draws=draws,
                    everywhere=everywhere, same_layers=same_layers, seed=seed, progress=show,
                )  # fmt: skip
        except ValueError as error:
            refuse(f"--ablate: {error}")

    from attnlab.explain import heads_report

    if plot is not None:
        heads_report.save_picture(plot, scores, lesions)
    if html is not None:
        html.write_text(heads_report.page(scores, lesions, why), encoding="utf-8")
    if json_:
        document = scores.as_dict() | {"note": why or None}
        emit(document | {"ablation": lesions.as_dict() if lesions is not None else None})
        return
    out = console()
    out.print(
        f"{decoder.name}: {counted(decoder.layers, 'layer')} of {counted(decoder.heads, 'head')}; "
        f"scores over {counted(scores.runs, 'needle test')} and {scores.sampled}, seed {seed}"
    )
    for piece in heads_report.terminal(scores, lesions, why):
        out.print(piece)
    for path in (plot, html):
        if path is not None:
            out.print(f"written: {path}", soft_wrap=True)


def _default_ks(number: int) -> tuple[int, ...]:
    """1, 2, 4 … up to half the heads, and at most five of them."""
    return tuple(k for k in (1, 2, 4, 8, 16) if k <= max(1, number // 2))


@contextmanager
def _progress(label: str, wanted: bool) -> Iterator[Callable[[float], None] | None]:
    """A bar on standard error where that is a terminal; it disappears when done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    screen: Any = Console(stderr=True)
    if not wanted or not screen.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(label, total=1.0)
        yield lambda share: bar.update(task, completed=share)
