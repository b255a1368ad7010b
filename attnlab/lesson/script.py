"""Reads percent-format lessons: the header, the cells, the title, and the order of all lessons.

Nothing here runs or imports a lesson; `--list` reads files only.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

from attnlab import paths, registry
from attnlab.contract import suggest

MARKER = re.compile(r"^# %%(?P<rest>.*)$")
SHOWN_INSTEAD = ("predict", "source", "untried", "exercise")
TAGS = re.compile(r"tags=\[(?P<tags>[^\]]*)\]")


class LessonError(ValueError):
    """A lesson that cannot be found or read; the message is for the reader."""


@dataclass
class Cell:
    """One cell: Markdown text or code, and the line of the file that its first line stands on."""

    markdown: bool
    text: str
    line: int
    tags: tuple[str, ...] = ()

    @property
    def hides_code(self) -> bool:
        """Code that draws rather than teaches is folded away in the page."""
        return "hide-input" in self.tags

    def shown(self) -> str:
        """The code without the statements whose whole content is shown in their place anyway.

        A `predict` call in sight would give the answer away.
        """
        rows = self.text.splitlines()
        for statement in ast.parse(self.text).body:
            call = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(call, ast.Call) and _called(call) in SHOWN_INSTEAD:
                last = statement.end_lineno or statement.lineno
                rows[statement.lineno - 1 : last] = [None] * (last - statement.lineno + 1)  # type: ignore[list-item]
        kept = "\n".join(row for row in rows if row is not None)
        return re.sub(r"\n{3,}", "\n\n", kept).strip("\n")


@dataclass
class Lesson:
    name: str
    path: Path
    cells: list[Cell]
    header: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        for cell in self.cells:
            if cell.markdown and (heading := re.search(r"^# +(.+)$", cell.text, re.MULTILINE)):
                return heading[1].strip()
        return self.name

    @property
    def minutes(self) -> str:
        return self.header.get("minutes", "?")

    @property
    def exhibit(self) -> str:
        """The exhibit that the lesson is about: in the header, or else the lesson's own name."""
        return self.header.get("exhibit", self.name)

    def claims(self) -> tuple[int, int]:
        """How many claims the lesson re-creates, and how many it lists untried."""
        calls = [
            _called(node)
            for cell in self.cells
            if not cell.markdown
            for node in ast.walk(parse_code(cell, self.path))
            if isinstance(node, ast.Call)
        ]
        return calls.count("claim"), calls.count("untried")


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def parse_code(cell: Cell, path: Path) -> ast.Module:
    """The cell's syntax tree with the line numbers of the file."""
    return ast.parse("\n" * (cell.line - 1) + cell.text, filename=str(path))


def parse(source: str, name: str, path: Path) -> Lesson:
    """Splits `source` into cells. Raises LessonError where a Markdown cell holds code."""
    lines = source.splitlines()
    starts = [i for i, line in enumerate(lines) if MARKER.match(line)]
    top = lines[: starts[0]] if starts else lines
    header, body_start = _header(top)
    cells = []
    if any(line.strip() and not line.startswith("#") for line in top[body_start:]):
        cells.append(_cell("", lines, body_start, len(top), path))
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        marker = MARKER.match(lines[start])
        assert marker
        cell = _cell(marker["rest"], lines, start + 1, end, path)
        if cell.text.strip():
            cells.append(cell)
    if not cells:
        raise LessonError(f"{path}: no cells; a lesson is made of `# %%` cells")
    return Lesson(name, path, cells, header)


def _header(top: list[str]) -> tuple[dict[str, str], int]:
    """`# key: value` lines between two `# ---` lines at the top, and the line after them."""
    fences = [i for i, line in enumerate(top) if line.rstrip() == "# ---"]
    if len(fences) < 2:
        return {}, 0
    pairs = (line.lstrip("# ").partition(":") for line in top[fences[0] + 1 : fences[1]])
    return {key.strip(): value.strip() for key, _, value in pairs}, fences[1] + 1


def _cell(rest: str, lines: list[str], start: int, end: int, path: Path) -> Cell:
    tags = TAGS.search(rest)
    names = tuple(tag.strip(" \"'") for tag in tags["tags"].split(",")) if tags else ()
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    body = lines[start:end]
    if "[markdown]" not in rest:
        return Cell(False, "\n".join(body), start + 1, names)
    for number, line in enumerate(body, start + 1):
        if line.strip() and not line.startswith("#"):
            raise LessonError(
                f"{path}:{number}: a markdown cell holds comments only; "
                "a `# %%` line must stand before code"
            )
    text = "\n".join(line[2:] if line.startswith("# ") else line[1:] for line in body)
    return Cell(True, text, start + 1, names)


def load(path: Path) -> Lesson:
    """Reads one lesson file."""
    return parse(path.read_text(encoding="utf-8"), path.stem, path)


def available(folder: Path | None = None) -> list[Lesson]:
    """Every lesson in the order of the registry: the baseline first, then family by family."""
    folder = folder or paths.lessons_dir()
    lessons = [load(path) for path in folder.glob("*.py") if not path.name.startswith("_")]
    order = {name: place for place, name in enumerate(registry.names())}
    return sorted(lessons, key=lambda lesson: (order.get(lesson.exhibit, len(order)), lesson.name))


def find(name: str | None = None, folder: Path | None = None) -> Lesson:
    """The lesson called `name` (or the file it names); with no name, the first one.

    Raises LessonError with near names where there is none.
    """
    folder = folder or paths.lessons_dir()
    if name is None:
        lessons = available(folder)
        if not lessons:
            raise LessonError(f"no lessons in {folder}")
        return lessons[0]
    if name.endswith(".py"):
        if Path(name).is_file():
            return load(Path(name))
        raise LessonError(f"no lesson file {name}")
    names = sorted(path.stem for path in folder.glob("*.py") if not path.name.startswith("_"))
    if name in names:
        return load(folder / f"{name}.py")
    hint = suggest(name, names) or "; `attnlab run lesson --list` shows all"
    raise LessonError(f"no lesson called {name!r}{hint}")
