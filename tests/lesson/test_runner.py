"""Running cells: order, values, errors, claims, predictions."""

import json

import pytest

from attnlab.lesson import pieces


def kinds(result):
    return [type(piece).__name__ for ran in result.cells for piece in ran.pieces]


def test_pieces_come_in_order(run, sample):
    result, shown = run(sample)
    assert result.error is None
    assert kinds(result) == [
        "Printed", "Rendered", "Prediction", "Picture", "Rendered", "Table", "Claim", "Untried",
        "Exercise",
    ]  # fmt: skip
    for text in ("first line", "float64", "Numbers", "✓ claim 1: holds", "Your turn", "not tried"):
        assert text in shown


def test_piped_output_has_no_control_codes_and_fits(run, sample):
    for width in (60, 100):
        _, shown = run(sample, width=width)
        assert "\x1b" not in shown
        assert max(map(len, shown.splitlines())) <= width


def test_prints_and_pieces_interleave(code):
    result, _ = code('print("a", end="")\nlesson.show("b")\nprint("x\\ry")\nprint("c")')
    assert [p.text for p in result.cells[0].pieces if isinstance(p, pieces.Printed)] == [
        "a\n",
        "y\nc\n",
    ]


def test_a_semicolon_drops_the_value(code):
    assert kinds(code("1 + 1;")[0]) == []
    assert kinds(code("1 + 1")[0]) == ["Rendered"]
    assert kinds(code("None")[0]) == []


def test_an_error_shows_its_cell_and_line_and_ends_the_run(run):
    result, shown = run("# %%\nx = 1\n\n# %%\ny = 2\nint('x' * 3)\n# %%\nprint('never')\n")
    assert result.error.kind == "ValueError"
    assert result.error.line == 6
    assert "sample.py:6" in shown
    assert "never" not in shown
    assert not result.as_json()["finished"]


def test_errors_below_the_lesson_name_the_way_down(code):
    result, shown = code('lesson.table([[1, 2]], ["one"])')
    assert result.error.line == 4
    assert "in attnlab/lesson/say.py" in shown


def test_a_syntax_error_is_reported_with_its_line(run):
    result, _ = run("# %%\nx = 1\n# %%\nx = (\n")
    assert (result.error.kind, result.error.line) == ("SyntaxError", 4)


def test_exit_in_a_lesson_is_an_error(code):
    assert code("raise SystemExit(3)")[0].error.kind == "SystemExit"


def test_an_interrupt_ends_cleanly(code):
    result, shown = code("print('before')\nraise KeyboardInterrupt")
    assert result.interrupted
    assert "before" in shown
    assert "Traceback" not in shown


def test_dataclasses_work_in_cells(run):
    source = (
        "# %%\nfrom __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass A:\n    x: int\nA(1).x\n"
    )
    assert run(source)[0].error is None


def claim(code, **changes):
    call = {
        "expected": 1.0, "seen": 0.9, "holds": True, "source": "paper", "control": None,
    } | changes  # fmt: skip
    arguments = ", ".join(f"{name}={value!r}" for name, value in call.items())
    return code(f'lesson.claim("1", "it is so", {arguments})')


@pytest.mark.parametrize(
    ("holds", "failed", "verdict"),
    [
        (True, None, "holds"),
        (True, True, "holds"),
        (True, False, "control did not fail"),
        (False, None, "does not show"),
        (False, True, "does not show"),
        (False, False, "does not show"),
    ],
)
def test_verdicts(code, holds, failed, verdict):
    control = None if failed is None else {"statement": "s", "seen": 0, "failed": failed}
    result, shown = claim(code, holds=holds, control=control)
    assert [c.verdict for c in result.session.claims] == [verdict]
    assert f"claim 1: {verdict}" in shown


def test_an_unverified_figure_is_never_the_papers(code):
    for source, words in pieces.ORIGIN.items():
        result, shown = claim(code, source=source)
        assert ("the paper" in shown) == (source == "paper")
        assert words.split()[0] in shown
        assert result.as_json()["claims"][0]["source"] == source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "blog"}, "source 'blog'"),
        ({"holds": "yes"}, "holds must be True or False"),
        ({"control": {"statement": "s"}}, "control takes exactly"),
        ({"control": {"statement": "s", "seen": 1, "failed": 1}}, "failed"),
    ],
)
def test_wrong_claims_are_refused(code, changes, message):
    result, _ = claim(code, **changes)
    assert message in result.error.message


def test_a_claim_id_is_used_once(code):
    result, _ = code('lesson.untried("1", "a", "b")\nlesson.untried("1", "a", "b")')
    assert "used twice" in result.error.message


def test_claims_as_json(run, sample):
    result, _ = run(sample, quick=True, seed=3)
    document = json.loads(json.dumps(result.as_json(), allow_nan=False))
    first, second = document["claims"]
    assert set(first) >= {"id", "statement", "expected", "seen", "verdict", "source", "control"}
    assert (first["expected"], first["seen"], first["verdict"]) == (1.0, 1.0, "holds")
    assert first["control"]["failed"] is True
    assert second["verdict"] == "not tried"
    assert (document["quick"], document["seed"], document["finished"]) == (True, 3, True)


def test_jsonable_takes_numpy_and_infinities():
    import numpy as np

    made = pieces.jsonable({"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), 1: (True,)})
    assert made == {"a": 0.5, "b": [0, 1], "c": "nan", "1": [True]}


PREDICT = 'lesson.predict("Which?", ["left", "right"], {answer}, because="so it is")'


def test_a_prediction_does_not_pause_without_a_reader(code):
    _, shown = code(PREDICT.format(answer=1))
    assert "Which?" in shown
    assert "Answer: b) right" in shown


@pytest.mark.parametrize(
    ("replies", "guess", "word"),
    [
        (["b"], 1, "Right."),
        (["A)"], 0, "Not quite."),
        ([""], None, "Answer"),
        (["z", "b"], 1, "Right."),
    ],
)
def test_a_reader_is_asked(code, replies, guess, word):
    asked = iter(replies)
    result, shown = code(PREDICT.format(answer="'right'"), ask=lambda prompt: next(asked))
    assert result.cells[0].pieces[0].guess == guess
    assert word in shown
    assert next(asked, None) is None


def test_end_of_input_skips_the_question(code):
    def ask(prompt):
        raise EOFError

    assert code(PREDICT.format(answer=0), ask=ask)[0].error is None


def test_an_answer_that_is_no_choice_is_refused(code):
    for answer in ("2", "'middle'", "-1"):
        assert "none of the choices" in code(PREDICT.format(answer=answer))[0].error.message


def test_settings_reach_the_lesson(code):
    body = "print(lesson.quick(), lesson.seed(), lesson.text(), lesson.train())"
    _, shown = code(body, quick=True, seed=5, text="mine", train=True)
    assert "True 5 mine True" in shown


def test_progress_is_silent_in_a_pipe(code):
    body = (
        'for i in lesson.track(range(3), "steps"): pass\n'
        'with lesson.progress("training") as done: done(0.5)'
    )
    result, shown = code(body)
    assert result.error is None
    assert "training" not in shown.replace('"training"', "")


def test_a_figure_needs_a_description(code):
    body = "from attnlab.lesson import plots\nlesson.figure(plots.bars({'a': 1}), 'c', ' ')"
    assert "alt" in code(body)[0].error.message


def test_source_shows_functions_files_and_lines(code):
    body = (
        'lesson.source("lesson/pieces.py", lines=(1, 3))\n'
        'lesson.source("attnlab.lesson.pieces.short")\n'
        'lesson.source("attnlab.lesson.pieces.short", docstring=True)'
    )
    result, _ = code(body)
    lines, short, whole = result.cells[0].pieces
    assert lines.first_line == 1
    assert len(lines.code.splitlines()) == 3
    assert "def short(" in short.code
    assert "few characters" not in short.code
    assert "few characters" in whole.code
    assert whole.first_line is not None


def test_source_of_nothing_is_an_error(code):
    assert code('lesson.source("none/such.py")')[0].error.kind == "FileNotFoundError"
    assert code('lesson.source("lesson/pieces.py", lines=(90000, 90001))')[0].error is not None
