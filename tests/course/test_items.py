"""The items of an exercise: what they are worth, what they ask, and what a course may change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_in import examiner, graded, solved, wrapped

from attnlab.contract import InputError
from attnlab.course.config import Assignment, Course, read_course
from attnlab.course.difference import compare
from attnlab.course.items import exam
from attnlab.course.model import KINDS
from attnlab.course.skeleton import asked
from attnlab.course.standalone import standalone
from attnlab.course.tasks import Unnamed, tasks
from attnlab.registry import find, names
from attnlab.vectors import read

COURSE = Course()


@pytest.mark.parametrize("name", names())
def test_points_add_up(name: str) -> None:
    for points in (100.0, 7.0, 0.1):
        course = replace(COURSE, assignments={name: Assignment(name, points=points)})
        items = exam(name, course, "numpy", 1).items
        assert sum(i.points for i in items) == pytest.approx(points, abs=1e-9)
        assert len({i.id for i in items}) == len(items)
        assert sum(i.kind == "fresh" for i in items) == 8


def test_points_are_shared_by_weight_then_equally() -> None:
    items = exam("landmark", COURSE, "numpy", 1).items
    kinds = {k: [i.points for i in items if i.kind == k] for k in KINDS}
    assert set(kinds["public"]) == {0.0}
    assert not kinds["hidden"]
    weights = {"part": 15, "fresh": 40, "property": 15, "cost": 10}
    for kind, weight in weights.items():
        share = 100 * weight / sum(weights.values())
        assert kinds[kind] == pytest.approx([share / len(kinds[kind])] * len(kinds[kind]))  # type: ignore[index]


def test_kinds_that_weigh_nothing() -> None:
    nothing = replace(COURSE, weights=dict.fromkeys(KINDS, 0))
    with pytest.raises(InputError, match="weights of attention"):
        exam("attention", nothing, "numpy", 1)
    public = replace(COURSE, weights=dict.fromkeys(KINDS, 0) | {"public": 1})
    grade = graded("attention", course=public)
    assert grade.score == 100
    assert {o.item.kind for o in grade.outcomes} == {"public"}


def test_ids_depend_on_no_seed_and_inputs_do() -> None:
    first, second = (exam("landmark", COURSE, "numpy", seed) for seed in (1, 2))
    assert first.items == second.items
    assert exam("landmark", Course(), "numpy", 1) is first  # made once for a class
    asked = []
    for seed in (1, 2, 1):
        run = examiner("landmark", seed=seed)
        sent: list[Any] = []
        box: Any = run.sandbox
        call = box.call
        box.call = lambda f, a, c=call, s=sent, **kw: s.append((f, a)) or c(f, a, **kw)
        for item in run.items:
            if item.kind == "fresh":
                assert run.run(item).passed
        asked.append(sent)
    shapes = [{a["q"].shape for _, a in sent} for sent in asked]
    assert all(len(s) == 8 for s in shapes)  # no draw repeats
    assert all((x["q"] == y["q"]).all() for (_, x), (_, y) in zip(asked[0], asked[2]))
    assert not any(np.array_equal(x["q"], y["q"]) for (_, x), (_, y) in zip(asked[0], asked[1]))


def test_a_track_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no cuda track"):
        exam("attention", COURSE, "cuda", 1)  # type: ignore[arg-type]


# --- how what is returned is named ---------------------------------------------------------------


def named(name: str, value: Any) -> dict[str, Any]:
    task, _ = tasks(find(name), "numpy", Assignment(name))
    return task.named(value, task.draw(5, 1))


def test_outputs_by_name_by_place_or_alone() -> None:
    out, weights = np.zeros(3), np.ones(3)
    for value in (out, {"out": out}, {"out": out, "weights": weights}, (out,), (out, weights)):
        assert named("attention", value) == {"out": out}
    parts = tuple(np.full(1, i) for i in range(6))
    assert list(named("based", parts)) == ["y", "q", "k", "v", "kv_state", "k_state"]
    assert named("based", list(parts))["kv_state"] is parts[4]
    assert list(named("based", (*parts, None))) == ["y", "q", "k", "v", "kv_state", "k_state"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("attention", {"output": np.zeros(3)}, "returned no 'out' (it returned output)"),
        ("attention", {}, "it returned nothing"),
        ("attention", None, "it returned None"),
        ("attention", (1, 2, 3), "a tuple of 3; expected out"),
        ("based", np.zeros(3), "one array of shape (3,); expected y, q"),
        ("based", (1, 2), "a tuple of 2"),
        ("based", {"y": 1}, "no 'q'"),
    ],
)
def test_outputs_that_cannot_be_named(name: str, value: Any, words: str) -> None:
    with pytest.raises(Unnamed) as error:
        named(name, value)
    assert words in str(error.value)


def test_a_submission_may_return_a_bare_array_or_a_tuple() -> None:
    bare = graded("attention", change=wrapped("attend", lambda f, **a: f(**a)["out"]))
    assert bare.score == 100
    pair = graded("attention", change=wrapped("attend", lambda f, **a: tuple(f(**a).values())))
    assert pair.score == 100


# --- what a course changes -----------------------------------------------------------------------


def test_an_option_that_the_course_varies_tells_a_copy_from_an_answer() -> None:
    course = replace(COURSE, assignments={"landmark": Assignment("landmark", vary={"scale": 0.7})})
    copied = graded("landmark", course=course, everything=True)
    kinds = {o.item.kind for o in copied.outcomes if o.passed}
    assert kinds == {"part"}
    varied = solved("landmark").replace("dim**-0.5 if scale is None", "0.7 if scale is None")
    right = graded("landmark", varied, course=course, everything=True)
    assert right.score == 100
    assert all(o.passed for o in right.outcomes)


def test_a_varied_option_tells_even_where_it_equals_the_default_of_some_sizes() -> None:
    """1/sqrt(dim) is 1/2 for the example's dim of 4: such draws are passed over."""
    course = replace(COURSE, assignments={"landmark": Assignment("landmark", vary={"scale": 0.5})})
    copied = graded("landmark", course=course)
    assert {o.item.kind for o in copied.outcomes if o.passed} == {"part"}


def test_an_option_that_changes_no_answer_is_refused() -> None:
    course = replace(COURSE, assignments={"lightning": Assignment("lightning", vary={"block": 4})})
    with pytest.raises(
        InputError, match=r"exercise\.lightning\.vary: no answer .* depends on block"
    ):
        exam("lightning", course, "numpy", 1)


def test_options_that_need_room_get_it() -> None:
    name, vary = "salient_relevance", {"patch": 5}  # no image of two rows has such patches
    course = replace(COURSE, weights={"cost": 0}, assignments={name: Assignment(name, vary=vary)})
    text = standalone(find(name), asked(find(name)), defaults=vary)
    assert graded(name, text, course=course).score == 100


def test_axes_in_the_order_of_the_course() -> None:
    order = {"q": "batch n heads dim", "out": "n batch heads dim", "is_landmark": "n batch"}
    course = replace(COURSE, assignments={"landmark": Assignment("landmark", order=order)})
    copied = graded("landmark", course=course, everything=True)
    assert {o.item.kind for o in copied.outcomes if o.passed} == {"part"}

    def turned(f: Any, q: Any, is_landmark: Any, **rest: Any) -> Any:
        made = f(q=q.transpose(0, 2, 1, 3), is_landmark=is_landmark.T, **rest)
        return made | {"out": made["out"].transpose(2, 0, 1, 3)}

    right = graded("landmark", change=wrapped("attend", turned), course=course, everything=True)
    assert [o.message for o in right.outcomes if not o.passed] == []
    assert right.score == 100


def test_an_option_that_fits_no_inputs_is_refused_at_once() -> None:
    vary = {"n_heads": 3}  # the example has two heads
    name = "internal_consistency"
    course = replace(COURSE, assignments={name: Assignment(name, vary=vary)})
    with pytest.raises(InputError):
        exam(name, course, "numpy", 1)


# --- the course's own vectors --------------------------------------------------------------------


@pytest.fixture
def hidden(tmp_path: Path) -> Course:
    """A course with two hidden cases of landmark attention, one public one and its own weights."""
    (tmp_path / "course.toml").write_text("[weights]\nhidden = 35\n")
    task, _ = tasks(find("landmark"), "numpy", Assignment("landmark"))
    for which, count in (("hidden", 2), ("public", 1)):
        arrays, cases = {}, {}
        for i in range(count):
            question = task.draw(6 + i, 100 + i)
            arrays |= {f"secret{i}/in/{k}": v for k, v in question.given.items()}
            arrays |= {f"secret{i}/out/{k}": v for k, v in question.expected.items()}
            cases[f"secret{i}"] = {"operation": "attend", "options": {}}
        (tmp_path / which).mkdir()
        np.savez(tmp_path / which / "landmark.npz", **arrays)
        (tmp_path / which / "landmark.json").write_text(json.dumps({"cases": cases}))
    return read_course(tmp_path)


def test_hidden_cases_count_and_are_not_named(hidden: Course) -> None:
    items = exam("landmark", hidden, "numpy", 1).items
    secret = [i for i in items if i.hidden]
    assert [i.id for i in secret] == ["attend/hidden-1", "attend/hidden-2"]
    assert sum(i.points for i in secret) == pytest.approx(100 * 35 / 115)
    assert not any("secret" in i.id + i.about for i in secret)
    assert sum("secret" in i.id for i in items) == 1  # the public one
    assert graded("landmark", course=hidden, everything=True).score == 100


def test_hidden_failures_take_no_public_points(hidden: Course) -> None:
    (case, _) = read(hidden.folder / "hidden" / "landmark.npz", "landmark")  # type: ignore[operator]
    known = case.arrays["in"]["q"]

    def spoiled(f: Any, **a: Any) -> Any:
        made = f(**a)
        hit = a["q"].shape == known.shape and np.array_equal(a["q"], known)
        return {"out": made["out"] + 1} if hit else made

    grade = graded("landmark", change=wrapped("attend", spoiled), course=hidden)
    assert grade.public_score == pytest.approx(grade.public_points)
    assert grade.hidden_items == 2
    assert grade.score == pytest.approx(100 - 100 * 35 / 115 / 2)
    (failed,) = [o for o in grade.outcomes if not o.passed]
    assert failed.item.id == "attend/hidden-1"
    assert (failed.status, failed.message) == ("wrong", "wrong answer")


def test_hidden_cases_of_something_else_are_refused(hidden: Course) -> None:
    file = hidden.folder / "hidden" / "landmark.json"  # type: ignore[operator]
    file.write_text(file.read_text().replace("attend", "fill_cache"))
    with pytest.raises(InputError):
        exam("landmark", hidden, "numpy", 1)
    file.write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        exam("landmark", hidden, "numpy", 1)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("idle", [lambda first: first, np.zeros_like])
def test_no_small_function_is_answered_by_doing_nothing(name: str, idle: Any) -> None:
    """The first argument as it came, or zeros, is right at most for the draw that may be any case."""
    exhibit = find(name)
    parts = [part.name for part in exhibit.exercise.parts] if exhibit.exercise else []

    def change(space: dict[str, Any]) -> None:
        for part in parts:
            space[part] = lambda **given: idle(np.asarray(next(iter(given.values()))))

    for seed in range(3):
        judge = examiner(name, change=change, seed=seed)
        outcomes = [judge.run(item) for item in judge.items if item.kind == "part"]
        right = [o.item.id for o in outcomes if o.passed]
        assert all(name.endswith("part-2") for name in right), right


def test_a_helper_may_return_lists_of_numbers_and_must_return_something() -> None:
    helpers = tasks(find("attention"), "numpy", Assignment("attention"))[1]
    question = helpers[0].draw(4, 1)
    want = question.expected["result"]
    assert np.array_equal(helpers[0].named(want.tolist(), question)["result"], want)
    assert "result" not in helpers[0].named([[1.0], [2.0, 3.0]], question)  # ragged
    pair = tasks(find("lightning"), "numpy", Assignment("lightning"))[1][1]
    both = pair.draw(4, 1)
    lists = [value.tolist() for value in both.expected.values()]
    assert compare(both.expected, pair.named(lists, both), 0, 0) is None
    headline = tasks(find("attention"), "numpy", Assignment("attention"))[0]
    for task in (headline, helpers[0]):
        with pytest.raises(Unnamed, match="returned None: is a `return` missing"):
            task.named(None, question)


def test_what_a_part_is_called_with_is_told_as_it_is() -> None:
    """An example of the part's own chooses options for itself."""
    part = tasks(find("retrieval_heads"), "numpy", Assignment("retrieval_heads"))[1][0]
    for n, rule in ((4, "first"), (3, "aligned"), (17, "aligned")):
        question = part.draw(n, seed=1, varied=True)
        assert question.about == f"n={n}, rule='{rule}'"
        assert question.given["rule"] == rule


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("seal", "        if c >= len(C) - 1:\n            return 1, 1\n", ""),
        ("disagreement", "        room[path[1:], path[:-1]] += used\n", ""),
        ("retrieval_heads", "/ len(needle) > overlap", "* len(needle) > overlap"),
        ("retrieval_heads", 'if rule == "first":', "if True:"),
        ("retrieval_heads", "[: n + t]", "[:]"),
        ("pss_attention", "entropy[k, b] < max_entropy_bits and", "True and"),
        ("pss_attention", " and (seen.size or not skip_empty)", ""),
        ("attention", "np.where(np.isfinite(top), top, 0)", "0"),
        ("landmark", "np.where(np.isfinite(top), top, 0)", "0"),
    ],
)
def test_what_no_card_names_costs_points_too(name: str, old: str, new: str) -> None:
    """An unknown symbol, flow sent back, thresholds, rules, keys that are not valid, overflow."""
    text = solved(name)
    assert old in text
    with np.errstate(all="ignore"):
        grade = graded(name, text.replace(old, new))
    lost = [o for o in grade.outcomes if o.item.points and not o.passed]
    assert grade.score < 100
    assert {o.status for o in lost} <= {"wrong", "error", "not run"}
