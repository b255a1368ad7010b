"""Reading percent-format files."""

import textwrap
from pathlib import Path

import pytest

import attnlab.lesson
from attnlab.lesson import script


def parse(source: str) -> script.Lesson:
    return script.parse(source, "sample", Path("sample.py"))


def test_cells_title_and_header(sample):
    lesson = parse(sample)
    assert [cell.markdown for cell in lesson.cells] == [True, False, False, False, False]
    assert lesson.title == "A sample lesson"
    assert (lesson.minutes, lesson.exhibit) == ("2", "attention")
    assert lesson.claims() == (1, 1)


def test_cells_keep_the_files_line_numbers(sample):
    for cell in parse(sample).cells:
        first = sample.splitlines()[cell.line - 1]
        assert first.lstrip("# ") == cell.text.splitlines()[0].lstrip("# ")


def test_tags_hide_code(sample):
    assert [cell.hides_code for cell in parse(sample).cells].count(True) == 1


def test_the_answer_of_a_prediction_is_not_in_the_shown_code(sample):
    shown = "\n".join(cell.shown() for cell in parse(sample).cells if not cell.markdown)
    assert "predict" not in shown
    assert "it is." not in shown
    assert "lesson.claim(" in shown


def test_code_before_the_first_marker_is_a_cell():
    lesson = parse("import math\n# %%\nmath.pi\n")
    assert [cell.text for cell in lesson.cells] == ["import math", "math.pi"]


def test_code_in_a_markdown_cell_is_refused_with_its_line():
    with pytest.raises(script.LessonError, match=r"sample\.py:3"):
        parse("# %% [markdown]\n# prose\nx = 1\n")


def test_no_cells_is_refused():
    with pytest.raises(script.LessonError, match="no cells"):
        parse("# only a comment\n")


def test_order_is_attention_first_then_the_registry(tmp_path):
    for name in ("zebra", "attention", "act", "landmark", "_draft"):
        (tmp_path / f"{name}.py").write_text("# %%\n1\n")
    names = [lesson.name for lesson in script.available(tmp_path)]
    assert names[0] == "attention"
    assert names[-1] == "zebra"
    assert "_draft" not in names
    assert script.find(None, tmp_path).name == "attention"


def test_unknown_names_get_a_suggestion(tmp_path):
    (tmp_path / "landmark.py").write_text("# %%\n1\n")
    with pytest.raises(script.LessonError, match="did you mean landmark"):
        script.find("landmrk", tmp_path)
    with pytest.raises(script.LessonError, match="--list"):
        script.find("qqqqqq", tmp_path)


def test_a_file_can_be_named(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("# %%\n1\n")
    assert script.find(str(path)).name == "own"
    with pytest.raises(script.LessonError, match="no lesson file"):
        script.find(str(tmp_path / "none.py"))


def documented() -> str:
    """The sample in the authoring guide."""
    guide = attnlab.lesson.__doc__
    return textwrap.dedent(guide[guide.index("    # ---") : guide.index("Settings:")])


def test_the_guides_sample_is_a_lesson():
    lesson = parse(documented())
    assert lesson.title.startswith("Landmark attention")
    assert lesson.claims() == (1, 1)
    assert len(lesson.cells) == 6


@pytest.mark.slow
def test_the_guides_sample_runs(run):
    result, _ = run(documented(), quick=True)
    assert result.error is None
    assert [claim.verdict for claim in result.session.claims] == ["holds", "not tried"]
