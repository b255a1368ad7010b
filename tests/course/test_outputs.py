"""Gradebook, Gradescope, Canvas, JUnit and pages: complete, safe to open, silent about hidden items."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import json
import random
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from attnlab.contract import InputError
from attnlab.course.config import Course
from attnlab.course.model import Details, Difference, Grade, Item, Outcome, Status
from attnlab.course.outputs import canvas, write_all
from attnlab.course.outputs.book import Book
from attnlab.course.outputs.pieces import bins
from attnlab.course.outputs.text import file_names, plain

SECRET = "the-expected-value-of-a-hidden-item"
NASTY = [
    '=HYPERLINK("http://evil.example","x")', "+1+1", "-2", "@SUM(A1)", "\t=1", "\r=1", " =1+1",
    "<script>alert(1)</script>", "a;=1+1", 'quote"s', "../../etc/passwd", "con", "NUL.txt", "Bob",
    "bob", "žluťoučký kůň 🐎", "null\x00\x1b[31m", "\udcff\ufffe", "", "name.", "x" * 300, "]]>&amp;",
]  # fmt: skip
DIFFERENCE = Difference(
    "out", (2, 3), (2, 3), "float64", (0, 1), 0.5, 0.25, (1, 2), 1.5, 1e-6, wrong=4, size=6
)


def outcome(kind: str, status: Status = "passed", points: float = 10.0, **more: object) -> Outcome:
    item = Item(f"attend/{kind}", "attend", kind.split("-")[0], points, f"about {kind}")  # type: ignore[arg-type]
    return Outcome(item, status, points if status == "passed" else 0.0, seconds=0.1, **more)  # type: ignore[arg-type]


def grade(student: str, exercise: str = "attention", *outcomes: Outcome, **more: object) -> Grade:
    whole = sum(o.item.points for o in outcomes) or 50.0
    fields = {"isolation": "bubblewrap", "seed": 987654321, "points": whole, "seconds": 1.5} | more
    return Grade(student, exercise, "numpy", outcomes, **fields)  # type: ignore[arg-type]


def mixed(student: str, exercise: str = "attention") -> Grade:
    """Something of everything: 20 of 50 points, 20 of 40 shown."""
    hidden = {"message": SECRET, "difference": DIFFERENCE, "diagnosis": SECRET, "inputs": SECRET}
    wrong = {
        "message": "out differs <b>here</b>", "difference": DIFFERENCE, "inputs": "n=5",
        "diagnosis": "your scores look unscaled", "printed": "\x1b[1mhi\x00 </pre><script>",
    }  # fmt: skip
    return grade(
        student,
        exercise,
        outcome("public-1", points=0),
        outcome("fresh-1"),
        outcome("fresh-2", "wrong", **wrong),
        outcome("property-1"),
        outcome("cost-1", "timeout", message="longer than 5 s"),
        outcome("hidden-1", "wrong", **hidden, printed=SECRET),
    )


def rows(path: Path, encoding: str = "utf-8-sig") -> list[list[str]]:
    with path.open(encoding=encoding, newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nasty")
    grades = [mixed(s, e) for s in NASTY for e in ("attention", "landmark")]
    write_all(grades, Course(title="A <course> & more"), out)
    return out


def test_totals_statuses_and_missing_grades_in_the_gradebook(tmp_path: Path) -> None:
    bad = grade("ben", "landmark", status="malformed", message="line 3: invalid syntax")
    written = write_all(
        [mixed("ann"), mixed("ann", "landmark"), bad], Course(exercises=("landmark",)), tmp_path
    )
    assert all(f.exists() for f in written.files)
    assert not list(tmp_path.rglob("*.part"))
    head, ann, ben = rows(tmp_path / "gradebook.csv")
    first, second = dict(zip(head, ann)), dict(zip(head, ben))
    assert (first["total"], first["points"], first["percent"]) == ("40", "100", "40")
    assert (first["public score"], first["public points"], first["hidden items"]) == (
        "40", "80", "2",
    )  # fmt: skip
    assert head[-4:] == ["landmark", "landmark status", "attention", "attention status"]
    assert (second["landmark"], second["landmark status"]) == ("0", "malformed")
    assert (second["attention"], second["attention status"]) == ("", "not graded")
    assert second["percent"] == "0"
    items = [dict(zip(i[0], r)) for i in [rows(tmp_path / "items.csv")] for r in i[1:]]
    assert len(items) == 13
    assert items[-1]["status"] == "malformed"
    assert "invalid syntax" in items[-1]["message"]


def test_no_cell_is_a_formula_and_numbers_stay_numbers(nasty: Path) -> None:
    for name in ("gradebook.csv", "items.csv", "canvas.csv"):
        found = rows(nasty / name)
        assert len({len(row) for row in found}) == 1, name
        for value in (v for row in found for v in row):
            assert not value.lstrip().startswith(("=", "+", "@", "\t", "\r"))
            assert not value.startswith("-") or value == "--"
        raw = (nasty / name).read_text(encoding="utf-8-sig")
        assert '"\'=HYPERLINK(""http' in raw
        assert ',"a;=1+1"' in raw or '\n"a;=1+1"' in raw  # quoted: no cell of its own after ;
    table = rows(nasty / "gradebook.csv")
    assert {row[1] for row in table[1:]} == {"40"}
    assert '"40"' not in (nasty / "gradebook.csv").read_text(encoding="utf-8-sig")
    assert (nasty / "gradebook.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert not (nasty / "canvas.csv").read_bytes().startswith(b"\xef\xbb\xbf")


def test_file_names_are_safe_and_distinct(nasty: Path) -> None:
    names = file_names(NASTY)
    assert len({n.casefold() for n in names.values()}) == len(NASTY)
    for name in names.values():
        assert name.strip("."), name
        assert not set(name) & set('/\\:*?"<>|\0')
        assert name.isascii()
        assert len(name) < 100
    assert file_names(["u123456", "anna.b@uni.example"]) == {
        "u123456": "u123456", "anna.b@uni.example": "anna.b@uni.example",
    }  # fmt: skip
    for folder, suffix in (("gradescope", ".json"), ("students", ".html")):
        files = {p.name for p in (nasty / folder).iterdir()}
        assert files == {n + suffix for n in names.values()}


def test_gradescope_results(tmp_path: Path) -> None:
    grades = [mixed("ann"), grade("ann", "landmark", status="missing", message="no landmark.py")]
    write_all(grades, Course(), tmp_path)
    text = (tmp_path / "gradescope" / "ann.json").read_text()
    found = json.loads(text)
    assert set(found) <= {
        "score", "execution_time", "output", "output_format", "test_output_format",
        "test_name_format", "visibility", "stdout_visibility", "extra_data", "tests", "leaderboard",
    }  # fmt: skip
    assert found["score"] == 20
    assert found["score"] == sum(t["score"] for t in found["tests"])
    assert sum(t["max_score"] for t in found["tests"]) == 100
    assert {t["status"] for t in found["tests"]} == {"passed", "failed"}
    assert len({t["number"] for t in found["tests"]}) == len(found["tests"]) == 7
    assert found["stdout_visibility"] == "hidden"
    assert "public score 20/40; 1 hidden item worth 10 points" in found["output"]
    assert "no landmark.py" in found["output"]
    hidden = [t for t in found["tests"] if t["visibility"] == "hidden"]
    assert [t["name"] for t in hidden] == ["attention attend/hidden-1"]
    wrong = next(t for t in found["tests"] if "fresh-2" in t["name"])
    for words in ("first wrong index: [0, 1]", "expected there: 0.25", "unscaled", "4 of 6"):
        assert words in wrong["output"]
    assert SECRET not in text
    assert "987654321" not in text  # who knows the seed can draw the inputs at home


@pytest.mark.parametrize("details", ["full", "actual-only", "none"])
def test_students_see_what_the_course_shows_and_nothing_hidden(
    details: Details, tmp_path: Path
) -> None:
    write_all([mixed("ann")], Course(details=details), tmp_path)
    page = (tmp_path / "students" / "ann.html").read_text()
    result = (tmp_path / "gradescope" / "ann.json").read_text()
    for text in (page, result):
        assert SECRET not in text
        assert "987654321" not in text
        assert ("expected there" in text) == (details == "full")
        assert ("yours there" in text) == (details != "none")
        assert ("unscaled" in text) == (details != "none")
    assert "hidden-1" not in page
    assert "20/50" in page
    assert "20/40" in page
    assert "1 hidden item worth 10 points" in page


def test_junit_is_xml_whatever_was_printed(nasty: Path) -> None:
    root = ET.parse(nasty / "junit.xml").getroot()
    suites = root.findall("testsuite")
    assert len(suites) == len(NASTY)
    assert root.get("tests") == str(12 * len(NASTY))
    one = suites[0]
    assert (one.get("tests"), one.get("failures"), one.get("errors")) == ("12", "4", "2")
    kinds = {c.get("name"): [e.tag for e in c] for c in one.findall("testcase")}
    assert kinds["attend/fresh-1"] == []
    assert kinds["attend/fresh-2"] == ["failure", "system-out"]
    assert kinds["attend/cost-1"] == ["error"]
    assert {plain(s) for s in NASTY} == {s.get("name") for s in suites}
    text = (nasty / "junit.xml").read_text(encoding="utf-8")
    assert not any(ord(c) < 32 and c not in "\t\n\r" for c in text)


class _Strict(html.parser.HTMLParser):
    """Collects tags, checks nesting, refuses what a page of ours must not have."""

    VOID = frozenset({"meta", "br", "img", "path", "rect", "link", "source"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tables = self.captions = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag not in ("script", "link", "iframe", "b2"), tag
        assert not any(name.startswith("on") or name == "src" for name in found)
        self.ids += [found["id"]] if found.get("id") else []
        self.links += [found["href"]] if found.get("href") else []
        self.tables += tag == "table"
        self.captions += tag == "caption"
        if tag == "svg":
            assert found["role"] == "img"
            assert found["aria-label"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_pages_are_well_formed_self_contained_and_escaped(nasty: Path) -> None:
    pages = [nasty / "report.html", *(nasty / "students").iterdir()]
    for path in pages:
        text = path.read_text(encoding="utf-8")
        parser = _Strict()
        parser.feed(text)
        assert not parser.open, path
        assert parser.tables == parser.captions > 0
        assert len(set(parser.ids)) == len(parser.ids)
        for link in parser.links:
            assert link.startswith("#") or (path.parent / link).exists(), link
        assert "://" not in text.replace("http://evil.example", "")
        assert "<script" not in text
        assert "prefers-color-scheme: dark" in text
    report = (nasty / "report.html").read_text(encoding="utf-8")
    for words in ("bubblewrap", "987654321", "unscaled", "Hardest items", "Slowest items"):
        assert words in report


def test_grades_come_back_from_json(tmp_path: Path) -> None:
    odd = dataclasses.replace(DIFFERENCE, got=float("nan"), error=float("inf"))
    made = [mixed("ann"), grade("ben", "attention", outcome("fresh-1", "wrong", difference=odd))]
    write_all(made, Course(), tmp_path)
    found = json.loads((tmp_path / "grades.json").read_text(), parse_constant=pytest.fail)
    back = [Grade.from_dict(g) for g in found["grades"]]
    assert back[0] == made[0]
    assert back[1].score == made[1].score == 0


ROSTER = """\
Student,ID,SIS User ID,SIS Login ID,Section,Attention (77),landmark (78),Essay (79),Current Score
    Points Possible,,,,,10,50,5,(read only)
"Ada, Lovelace",101,s1,ada@uni.example,A,,,4,90
"Turing, Alan",102,s2,alan@uni.example,A,,,5,91
"Hopper, Grace",103,s3,grace@uni.example,B,,,,92
"=Evil, Eve",104,s4,eve@uni.example,B,,,,93
"""


def test_canvas_with_a_roster(tmp_path: Path) -> None:
    (tmp_path / "roster.csv").write_text(ROSTER, encoding="utf-8")
    students = ["adalovelace_LATE_101_555_files.zip", "alan", "s4", "stranger"]
    grades = [mixed(s, e) for s in students for e in ("attention", "landmark")]
    written = write_all(grades, Course(), tmp_path / "out", roster=tmp_path / "roster.csv")
    table = rows(tmp_path / "out" / "canvas.csv", "utf-8")
    assert table[0] == [
        "Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Attention (77)", "landmark (78)",
    ]  # fmt: skip
    assert table[1] == ["Points Possible", "", "", "", "", "10", "50"]
    scores = {row[1]: row[5:] for row in table[2:]}
    # 20 of our 50 points are 4 of Canvas's 10; without a submission the cell stays empty.
    assert scores == {"101": ["4", "20"], "102": ["4", "20"], "103": ["", ""], "104": ["4", "20"]}
    assert table[-1][0].startswith("'=Evil")
    assert len(written.notes) == 1
    assert "stranger" in written.notes[0]
    assert "stranger" in (tmp_path / "out" / "report.html").read_text()


def test_canvas_one_row_is_never_given_to_two(tmp_path: Path) -> None:
    (tmp_path / "roster.csv").write_text(ROSTER.replace(",", ";"), encoding="utf-8-sig")
    roster = canvas.read_roster(tmp_path / "roster.csv")
    book = Book.of([mixed("alan"), mixed("102_file"), mixed("s2")], Course())
    text, notes = canvas.document(book, roster)
    assert '"Turing; Alan",' in text.replace('"Turing, Alan"', '"Turing; Alan"')
    assert any("alan and s2" in note for note in notes)


def test_canvas_takes_the_whole_course_as_one_assignment(tmp_path: Path) -> None:
    text = ROSTER.replace("Attention (77)", "Autumn (77)").replace("landmark (78)", "Other (78)")
    (tmp_path / "roster.csv").write_text(text, encoding="utf-8")
    grades = [mixed("alan"), mixed("alan", "landmark")]
    write_all(grades, Course(title="Autumn"), tmp_path, roster=tmp_path / "roster.csv")
    table = rows(tmp_path / "canvas.csv", "utf-8")
    assert table[0][5:] == ["Autumn (77)"]
    assert [row[5] for row in table[1:]] == ["10", "", "4", "", ""]


def test_canvas_without_a_roster(tmp_path: Path) -> None:
    write_all(
        [mixed("lovelaceada_101_555_work.zip"), mixed("alan"), mixed("4711")], Course(), tmp_path
    )
    table = rows(tmp_path / "canvas.csv", "utf-8")
    assert table[0][:5] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
    assert table[1][0] == "Points Possible"
    assert {row[0]: (row[1], row[3]) for row in table[2:]} == {
        "4711": ("", "4711"), "alan": ("", "alan"), "lovelaceada_101_555_work.zip": ("101", ""),
    }  # fmt: skip


@pytest.mark.parametrize("content", ["", "name,grade\nann,3\n", "\xff\xfe".encode("latin-1")])
def test_a_roster_that_is_none_is_refused_by_name(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "roster.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"--roster: .*roster\.csv"):
        canvas.read_roster(path)


def test_tenths() -> None:
    assert bins([0, 9.99, 10, 99.9, 100, 30]) == [2, 1, 0, 1, 0, 0, 0, 0, 0, 2]
    draws = [random.Random(0).uniform(0, 100) for _ in range(500)]
    assert sum(bins(draws)) == 500


def test_an_empty_class_has_outputs_too(tmp_path: Path) -> None:
    write_all([], Course(), tmp_path)
    assert rows(tmp_path / "gradebook.csv")[0][0] == "student"
    assert "<h1>" in (tmp_path / "report.html").read_text()
