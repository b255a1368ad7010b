"""`attnlab explain`: is it an explanation?"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from attnlab.cli import common

if TYPE_CHECKING:
    from rich.console import Console

    from attnlab.models.classifier import Classifier

LARGE = 5_000_000  # weights, from which several threads pay
TEXT = "text"  # the command that an unknown first word is given to

HELP = """Explain a classifier's decision by many methods, and ask whether they explain it.

attnlab explain "a lovely film, never dull"   heat maps, agreement and faithfulness of one text
attnlab explain bench --data FILE             the same over a data set, with intervals and tests
attnlab explain heads --model NAME            what each head of a causal model does
attnlab explain image FILE                    which pixels, and the areas a network looks at

Options of the first form: attnlab explain text --help.
"""


class TextGroup(TyperGroup):
    """A group whose first word is a command's name or else the beginning of a text."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = args[0] if args else "--help"
        if first not in self.commands and first not in ("-h", "--help"):
            args = [TEXT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=TextGroup, help=HELP, no_args_is_help=True, add_completion=False)

Model = Annotated[
    str,
    typer.Option(
        "--model", metavar="NAME|PATH", help="bilstm, transformer, bert, a folder or a hub name."
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", metavar="M,M,…", help="Attribution methods, or all."),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target", metavar="LABEL", help="The class to explain; the predicted one without."
    ),
]
Output = Annotated[
    str,
    typer.Option("--output", metavar="probability|logit", help="What of the class is explained."),
]
Replacement = Annotated[
    str,
    typer.Option("--replacement", metavar="pad|mask|delete", help="What removing a token means."),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="All cores for large models, one for small ones."),
]
Html = Annotated[Path | None, typer.Option("--html", metavar="F", help="One self-contained page.")]
JsonFile = Annotated[
    str | None,
    typer.Option("--json", metavar="F", help="Everything in numbers; - is standard output."),
]


@app.command(TEXT)
def text(
    words: Annotated[list[str], typer.Argument(metavar="TEXT", help="The text; - reads it.")],
    model: Model = "bilstm",
    method: Methods = None,
    target: Target = None,
    output: Output = "probability",
    replacement: Replacement = "pad",
    html: Html = None,
    json_: JsonFile = None,
    verbalize: Annotated[
        str | None,
        typer.Option(
            "--verbalize",
            metavar="search|released|template|instruct",
            help="How scores are put into words; search by default, instruct with --endpoint. "
            "Without one, instruct is answered by an offline stand-in.",
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            metavar="URL",
            help="A server with OpenAI's chat protocol; it is asked once a method.",
        ),
    ] = None,
    endpoint_model: Annotated[
        str | None, typer.Option("--endpoint-model", metavar="NAME", help="The server's model.")
    ] = None,
    key_variable: Annotated[
        str | None,
        typer.Option(
            "--key-variable", metavar="VARIABLE", help="Environment variable that holds its key."
        ),
    ] = None,
    seed: common.Seed = 0,
    threads: Threads = None,
) -> None:
    """Explain one text by all methods: heat maps, agreement, faithfulness and controls."""
    common.check_writable({"--html": html, "--json": json_})
    sentence = sys.stdin.read() if words == ["-"] else " ".join(words)
    if not sentence.strip():
        common.refuse("the text has no word")
    with quiet_errors():
        how, complete = speaker(verbalize, endpoint, endpoint_model, key_variable)
        from attnlab.explain.examine import examine

        classifier = load(model, threads)
        names, left_out = given(classifier, split(method), ["all"])
        with _stages() as begin:
            one = examine(
                classifier, " ".join(sentence.split()), names,
                target=target, output=output, replacement=replacement, seed=seed,  # type: ignore[arg-type]
                how=how, complete=complete, begin=begin,
            )  # fmt: skip
        document = one.as_dict() | {"model": model, "left_out": left_out}
    if json_ == "-":
        common.emit(document)
    else:
        from attnlab.explain.report import show

        console = common.console()
        show(one, console)
        note_left_out(console, left_out)
        if json_ is not None:
            write(json_, common.dumps(document) + "\n", console)
    if html is not None:
        from attnlab.explain.page import examined

        write(html, examined(one), common.console(stderr=json_ == "-"))


@contextlib.contextmanager
def _stages() -> Iterator[Callable[[str], None]]:
    """What is being done, on a terminal: a long text takes minutes."""
    if not sys.stderr.isatty():
        yield lambda stage: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

    from attnlab.explain.examine import STAGES

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with common.Bar(len(STAGES), *columns, fields={}, transient=True) as bar:
        yield lambda stage: bar.bar.update(
            bar.task, description=stage, completed=STAGES.index(stage)
        )


def speaker(
    how: str | None, endpoint: str | None, model: str | None, key_variable: str | None
) -> tuple[Any, Any]:
    """How to verbalize, and whom to ask."""
    from attnlab.contract import InputError, suggest
    from attnlab.explain.verbalize import HOWS, StandIn

    how = how or ("instruct" if endpoint else "search")
    if how not in HOWS:
        raise InputError(f"--verbalize {how!r} is none of {', '.join(HOWS)}{suggest(how, HOWS)}")
    if endpoint is None:
        if model or key_variable:
            common.refuse("--endpoint-model and --key-variable need --endpoint")
        return how, StandIn() if how == "instruct" else None
    if how != "instruct":
        common.refuse(f"--endpoint needs --verbalize instruct, not {how}")
    from attnlab.explain.endpoint import Endpoint

    model = model or "gpt-3.5-turbo"  # the paper's
    return how, Endpoint(endpoint, model=model, key_variable=key_variable)


def load(name: str, threads: int | None) -> Classifier:
    """A classifier by name; one line for what is no model.

    Sets torch's threads: those asked for, or all cores for a large model and one for a small model,
    whose many short steps lose more to waiting for each other than they gain.
    """
    count = common.threads_or_all(threads)
    import torch

    from attnlab.models.classifiers import load as load_classifier

    torch.set_num_threads(threads or 1)
    try:
        model = load_classifier(name)
        if threads is None and sum(p.numel() for p in model.parameters()) > LARGE:
            torch.set_num_threads(count)
        return model
    except (ModuleNotFoundError, ValueError, OSError) as error:
        if type(error).__name__ == "InputError":
            raise
        common.refuse(f"--model {name}: {error}")


def given(
    model: Classifier, asked: list[str], default: list[str]
) -> tuple[list[str], dict[str, str]]:
    """The methods to run, and those of a default or of "all" that the model cannot give, with reasons.

    A method that was named is refused where it is not to be had.
    """
    from attnlab.explain.attribute import unavailable
    from attnlab.explain.registry import select

    names = [m.name for m in select(asked or default)]
    left_out = unavailable(model, names)
    for name in asked:
        if name in left_out:
            common.refuse(f"--method {name}: {left_out[name]}")
    return [name for name in names if name not in left_out], left_out


def note_left_out(console: Console, left_out: dict[str, str]) -> None:
    """One line for each reason."""
    for reason in dict.fromkeys(left_out.values()):
        names = ", ".join(name for name, why in left_out.items() if why == reason)
        console.print(f"left out: {names} ({reason})", markup=False)


def register() -> None:
    """The group's other commands; each has a file of its own."""
    from attnlab.cli import explain_bench, explain_heads, explain_image

    app.command("bench")(explain_bench.bench)
    app.command("heads")(explain_heads.heads)
    app.command("image")(explain_image.image)


class quiet_errors:
    """Turns what a user can mend into one line: too long a text, a path that is not the model's."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if kind is not None and kind.__name__ in (
            "PathsDiffer",
            "FormatError",
            "DatasetMissing",
            "EndpointError",
        ):
            common.refuse(str(error))


def split(names: list[str] | None) -> list[str]:
    """--method a,b --method c -> [a, b, c]."""
    return [part.strip() for text in names or () for part in text.split(",") if part.strip()]


def write(where: str | Path, content: str, console: Console) -> None:
    """Write a result's file and say so."""
    common.put(where, content)
    console.print(f"written: {where}", soft_wrap=True, markup=False)
