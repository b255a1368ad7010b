"""What a lesson can put on the page. Plain data: terminal.py, html.py and notebook.py each show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Source = Literal["paper", "sheet", "unverified"]
Mime = Literal["image/svg+xml", "image/png"]
Verdict = Literal["holds", "does not show", "control did not fail", "not tried"]

# How a figure's origin is worded wherever it is shown: an unverified one is never "the paper's".
ORIGIN: dict[str, str] = {
    "paper": "the paper",
    "sheet": "our earlier run",
    "unverified": "unverified report",
}


@dataclass
class Printed:
    """Text that a cell wrote to standard output."""

    text: str


@dataclass
class Rendered:
    """A rich renderable, or the value of a cell's last expression."""

    renderable: Any


@dataclass
class Picture:
    """A drawing: SVG (or PNG where the SVG would be huge), its dark form, and its terminal form."""

    data: bytes
    mime: Mime
    caption: str
    alt: str
    terminal: Any
    dark: bytes | None = None


@dataclass
class Table:
    rows: Sequence[Sequence[Any]]
    columns: Sequence[str]
    title: str = ""


@dataclass
class Listing:
    """Source code shown for reading; first_line is None where the file's numbers would not fit."""

    code: str
    caption: str
    first_line: int | None = 1


@dataclass
class Prediction:
    """A question put before a result; `answer` indexes `choices`, `guess` is what the reader chose."""

    question: str
    choices: Sequence[str]
    answer: int
    because: str
    guess: int | None = None


@dataclass
class Control:
    """A negative control: something that must fail, or the claim proves nothing."""

    statement: str
    seen: Any
    failed: bool


@dataclass
class Claim:
    """A claim that was re-created here: what was expected, what was seen, and whether it holds."""

    id: str
    statement: str
    expected: Any
    seen: Any
    holds: bool
    source: Source
    control: Control | None = None
    note: str | None = None
    quick: bool = False
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        if not self.holds:
            return "does not show"
        if self.control is not None and not self.control.failed:
            return "control did not fail"
        return "holds"

    def as_json(self) -> dict[str, Any]:
        control = self.control
        return {
            "id": self.id,
            "statement": self.statement,
            "expected": jsonable(self.expected),
            "seen": jsonable(self.seen),
            "verdict": self.verdict,
            "source": self.source,
            "control": None
            if control is None
            else {
                "statement": control.statement,
                "seen": jsonable(control.seen),
                "failed": control.failed,
            },
            "note": self.note,
            "quick": self.quick,
            "seconds": round(self.seconds, 3),
        }


@dataclass
class Untried:
    """A claim that is listed with the reason why it was not tried."""

    id: str
    statement: str
    reason: str
    source: Source
    verdict: Verdict = field(default="not tried", init=False)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "statement": self.statement,
            "expected": None,
            "seen": None,
            "verdict": self.verdict,
            "source": self.source,
            "control": None,
            "note": self.reason,
            "seconds": 0.0,
        }


@dataclass
class Exercise:
    name: str
    text: str


@dataclass
class Failure:
    """An error in a cell, with the part of the cell that it happened in."""

    kind: str
    message: str
    file: str
    line: int | None
    code: str
    first_line: int
    trail: Sequence[str] = ()


Piece = (
    Printed
    | Rendered
    | Picture
    | Table
    | Listing
    | Prediction
    | Claim
    | Untried
    | Exercise
    | Failure
)


def numeric_columns(table: Table) -> list[bool]:
    """Which columns hold numbers (or "1.5 ms", "3e-07") and so stand to the right."""
    columns = range(len(table.columns))
    return [bool(table.rows) and all(_looks_numeric(row[i]) for row in table.rows) for i in columns]


def _looks_numeric(item: Any) -> bool:
    item = jsonable(item)
    if isinstance(item, str):
        return item in ("–", "too slow") or item.lstrip("-+<≈~ ")[:1].isdigit()
    return isinstance(item, int | float)


class Measured(dict[str, Any]):
    """A result whose pieces were already shown: as a cell's last value it is not shown again."""


def jsonable(value: Any) -> Any:
    """`value` in JSON's own types; NumPy and torch scalars and arrays become numbers and lists."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple | set | frozenset | range):
        return [jsonable(item) for item in value]
    return str(value)


def short(value: Any) -> str:
    """A number, string or mapping in the few characters that a reader needs."""
    value = jsonable(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {short(item)}" for key, item in value.items())
    if isinstance(value, list):
        shown = [short(item) for item in value[:12]] + (["…"] if len(value) > 12 else [])
        return "[" + ", ".join(shown) + "]"
    return str(value)
