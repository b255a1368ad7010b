"""The HTML page and the notebook."""

import re
from html.parser import HTMLParser

import pytest

from attnlab.lesson import html, notebook


class Page(HTMLParser):
    """Collects tags with their attributes, and checks that they nest."""

    VOID = frozenset({"meta", "img", "br", "source", "hr", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(run, sample):
    return html.page(run(sample)[0])


def test_the_page_is_well_formed_and_self_contained(page):
    parsed = Page(page)
    assert parsed.open == []
    for tag, attributes in parsed.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for name in ("src", "srcset", "data", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
        if tag != "a":
            assert "href" not in attributes
    assert "@import" not in page
    assert not re.search(r"url\((?!data:)", page)


def test_every_picture_says_what_it_shows(page):
    images = Page(page).all("img")
    assert [image["alt"] for image in images] == ["A triangle"]
    assert page.count("data:image/svg+xml;base64,") == 2  # light and dark


def test_the_answer_is_folded(page):
    assert re.search(r"<details><summary>Show the answer</summary>.*right one", page, re.DOTALL)
    assert "because=" not in page


def test_light_dark_narrow_print(page):
    for rule in ("prefers-color-scheme: dark", "max-width: 30rem", "@media print"):
        assert rule in page
    assert 'name="viewport"' in page
    assert '<html lang="en">' in page


def test_markdown_html_is_escaped():
    assert "<script>" not in html.markdown("a <script>alert(1)</script> b")
    assert '<pre class="math"' in html.markdown("```math\na < b\n```")


def test_a_failed_run_makes_a_page_that_says_so(run):
    text = html.page(run("# %%\n1 / 0\n")[0])
    assert "ZeroDivisionError" in text
    assert Page(text).open == []


def test_a_huge_drawing_becomes_a_raster_picture(code):
    body = (
        "from attnlab.lesson import plots\nfig, ax = plots.subplots()\n"
        "ax.scatter(*np.random.default_rng(0).random((2, 20000)))\nlesson.figure(fig, 'c', 'dots')"
    )
    picture = code(body)[0].cells[0].pieces[0]
    assert picture.mime == "image/png"
    assert len(picture.data) < 400_000


def check_notebook(document):
    """The parts of nbformat 4.5's schema that a lesson can get wrong."""
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert set(document) == {"nbformat", "nbformat_minor", "metadata", "cells"}
    identities = [cell["id"] for cell in document["cells"]]
    assert len(set(identities)) == len(identities)
    for cell in document["cells"]:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        assert isinstance(cell["metadata"], dict)
        assert all(isinstance(line, str) for line in cell["source"])
        if cell["cell_type"] == "markdown":
            assert set(cell) == {"cell_type", "id", "metadata", "source"}
            continue
        assert set(cell) == {
            "cell_type", "id", "metadata", "source", "execution_count", "outputs",
        }  # fmt: skip
        for output in cell["outputs"]:
            required = {
                "stream": {"output_type", "name", "text"},
                "display_data": {"output_type", "data", "metadata"},
                "error": {"output_type", "ename", "evalue", "traceback"},
            }[output["output_type"]]
            assert set(output) == required
            assert "text/plain" in output.get("data", {"text/plain"})


def test_the_notebook_is_valid_and_has_its_outputs(run, sample):
    result, _ = run(sample)
    document = notebook.notebook(result)
    check_notebook(document)
    mimes = {
        mime
        for cell in document["cells"]
        for output in cell.get("outputs", [])
        for mime in output.get("data", {})
    }
    assert mimes >= {"text/html", "image/svg+xml", "text/markdown", "text/plain"}
    counts = [c["execution_count"] for c in document["cells"] if c["cell_type"] == "code"]
    assert counts == [1, 2, 3, 4]
    sources = ["".join(cell["source"]) for cell in document["cells"]]
    assert sources == [cell.text for cell in result.lesson.cells]


def test_an_answer_opens_folded_in_the_notebook(run, sample):
    cells = notebook.notebook(run(sample)[0])["cells"]
    (prediction,) = [cell for cell in cells if "lesson.predict" in "".join(cell["source"])]
    assert prediction["metadata"]["jupyter"] == {"source_hidden": True}


def test_a_failed_run_is_a_valid_notebook(run):
    document = notebook.notebook(run("# %%\n1 / 0\n# %%\n2\n")[0])
    check_notebook(document)
    assert document["cells"][0]["outputs"][0]["ename"] == "ZeroDivisionError"
    assert document["cells"][1]["execution_count"] is None
