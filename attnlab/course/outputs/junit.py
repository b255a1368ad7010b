"""The class as JUnit XML: a test suite a student, a test case an item."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from attnlab.course.model import Grade
from attnlab.course.outputs import view
from attnlab.course.outputs.book import Book
from attnlab.course.outputs.text import one_line, plain

# A failure is an answer that is not right; an error is a submission that gave none.
_FAILURES = {"wrong", "not implemented", "missing"}


def document(book: Book) -> bytes:
    """The XML file's bytes; characters that XML cannot hold become U+FFFD."""
    root = ET.Element("testsuites", name=plain(book.course.title))
    for student in book.students:
        grades = book.of_student(student)
        suite = ET.SubElement(root, "testsuite", name=plain(student))
        for grade in grades:
            _cases(suite, grade)
        _count(suite, sum(g.seconds for g in grades))
    _count(root, sum(g.seconds for g in book.grades.values()))
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def _cases(suite: ET.Element, grade: Grade) -> None:
    for o in grade.outcomes:
        case = _case(suite, grade.exercise, o.item.id, o.seconds)
        if not o.passed:
            _fate(case, o.status, o.message, view.text(o, "full"))
            if o.printed and not o.item.hidden:
                ET.SubElement(case, "system-out").text = plain(o.printed)
    if not grade.outcomes:
        case = _case(suite, grade.exercise, grade.exercise, grade.seconds)
        _fate(case, grade.status, grade.message, grade.message)


def _case(suite: ET.Element, exercise: str, name: str, seconds: float) -> ET.Element:
    return ET.SubElement(
        suite, "testcase", classname=plain(exercise), name=plain(name), time=f"{seconds:.3f}"
    )


def _fate(case: ET.Element, status: str, message: str, text: str) -> None:
    tag = "skipped" if status == "not run" else "failure" if status in _FAILURES else "error"
    words = one_line(message) or view.WORDS.get(status, status)
    if tag == "skipped":
        ET.SubElement(case, tag, message=words)
    else:
        ET.SubElement(case, tag, type=status, message=words).text = plain(text)


def _count(element: ET.Element, seconds: float) -> None:
    for attribute, tag in (
        ("tests", "testcase"),
        ("failures", "failure"),
        ("errors", "error"),
        ("skipped", "skipped"),
    ):
        element.set(attribute, str(sum(1 for _ in element.iter(tag))))
    element.set("time", f"{seconds:.3f}")
