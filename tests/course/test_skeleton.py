"""The student's file: it stands alone, asks for what the card asks, and gives away nothing."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from attnlab import registry
from attnlab.contract import InputError, Mistake, Part
from attnlab.course.answer import load
from attnlab.course.config import Assignment
from attnlab.course.model import Track
from attnlab.course.skeleton import OPTIONAL, asked, functions, reference_source, skeleton
from attnlab.course.source import Source, uses
from attnlab.course.standalone import edited, standalone
from attnlab.course.tasks import tasks

NAMES = registry.names()


@pytest.mark.parametrize("name", NAMES)
def test_a_skeleton_asks_for_everything_and_solves_nothing(name: str) -> None:
    exhibit = registry.find(name)
    text = skeleton(exhibit)
    assert "attnlab." not in text
    assert "InputError" not in text
    made, solved = functions(text), functions(reference_source(exhibit))
    assert set(asked(exhibit)) <= set(made)
    for own in made.keys() & solved.keys():
        body = made[own].body[bool(ast.get_docstring(made[own])) :]
        assert [ast.unparse(line) for line in body] == [f"raise NotImplementedError('{own}')"]
        assert ast.get_docstring(made[own]) or own not in asked(exhibit)
        assert ast.unparse(made[own].args) == ast.unparse(solved[own].args)
        assert not made[own].decorator_list
    for op in exhibit.headline.equations:
        assert op.splitlines()[0].split("  ")[0].replace("\\", "") in text.replace("\\", "")
    load(text, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_skeleton_tells_all_that_is_graded(name: str) -> None:
    """Every output by name, and every equation that a docstring points to."""
    exhibit = registry.find(name)
    text = skeleton(exhibit)
    intro, made = ast.get_docstring(ast.parse(text)) or "", functions(text)
    for operation in (o for o in exhibit.operations if o.name in asked(exhibit)):
        told = intro + (ast.get_docstring(made[operation.name]) or "")
        for array in operation.results:
            assert array.optional or re.search(rf"\b{array.keyword}\b", told), array.keyword
    for own in asked(exhibit):
        for number in re.findall(r"\((\d+)\)", ast.get_docstring(made[own]) or ""):
            assert re.search(rf"^ *\({number}\)|\({number}[,)][^()]*$", intro, re.M), (own, number)
    assert "type: ignore" not in text


@pytest.mark.parametrize("track", ["numpy", "numba", "torch"])
def test_a_skeleton_names_the_parts_that_its_track_grades(track: Track) -> None:
    for exhibit in registry.exhibits():
        if track not in exhibit.headline.paths:
            continue
        headline, parts = tasks(exhibit, track, Assignment(exhibit.name))
        graded = [*(p.name for p in parts), headline.name]
        assert asked(exhibit, track) == graded
        text = skeleton(exhibit, track=track)
        intro = ast.get_docstring(ast.parse(text)) or ""
        assert ("each graded by itself" in intro) == bool(parts)
        for own in asked(exhibit):
            written = text.index(f"\ndef {own}(")
            optional = text[:written].endswith(f"# {OPTIONAL}")
            assert optional == (own not in graded), (exhibit.name, own)


def test_a_skeleton_explains_what_a_docstring_leaves_out() -> None:
    text = skeleton(registry.find("internal_consistency"))
    assert "    (2) neg_entropy_bits = sum over distinct v of p(v) log2 p(v)\n" in text
    assert "    joint_totals (answers)     where logprobs is given\n" in text
    assert "    neg_variance () or (questions)\n" in text
    assert "    (4) g = (alpha - e_n) / B" in skeleton(registry.find("scan_and_snap"))  # a helper's
    find = "    spans (P, 2)   (-1, -1) where not found\n"
    assert f"find_needle returns\n{find}" in skeleton(registry.find("retrieval_heads"))
    assert "attend takes" not in skeleton(registry.find("attention"))  # its docstring tells


def test_skeletons_and_answers_are_formatted(tmp_path: Path) -> None:
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed")
    for exhibit in registry.exhibits():
        (tmp_path / f"{exhibit.name}.py").write_text(skeleton(exhibit))
        (tmp_path / f"{exhibit.name}_whole.py").write_text(standalone(exhibit, asked(exhibit)))
    for check in (["format", "--check"], ["check", "--select", "E9,F811,I"]):
        command = [ruff, *check, "--isolated", "--config", "line-length = 100", "."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_course_changes_stands_in_signature_docstring_and_notice() -> None:
    exhibit = registry.find("attention")
    order = {"q": "batch n heads dim", "mask": "batch n heads keys"}
    text = skeleton(exhibit, Assignment("attention", vary={"scale": 0.5}, order=order))
    assert "In this course scale is 0.5 when it is not given" in text
    assert "In this course the axes of q are (batch, n, heads, dim), not (batch, heads" in text
    attend = functions(text)["attend"]
    assert "scale: float | None=0.5" in ast.unparse(attend.args)
    assert "q: Float[np.ndarray, 'batch n heads dim']" in ast.unparse(attend.args)
    assert "mask: Bool[np.ndarray, '#batch #n #heads keys'] | None=None" in ast.unparse(attend.args)
    assert "q is (batch, n, heads, dim)" in (ast.get_docstring(attend) or "")
    required = functions(skeleton(registry.find("moh"), Assignment("moh", vary={"top_k": 3})))
    assert "top_k: int=3" in ast.unparse(required["attend"].args)


def test_what_a_reference_imports_is_given_whole_and_local_names_do_not_hide_it() -> None:
    pointer = registry.find("pointer_network")
    text = standalone(pointer, ["geometry"])
    assert "plane." not in text.replace("plane_", "")
    assert "hull, tour, mesh = plane_hull(P), plane_tour(P), triangles(P)" in text
    assert "def orient(" in text  # what the given functions use themselves
    assert "def lstm_step(" not in text
    load(text, "pointer_network")

    salient = standalone(registry.find("salient_relevance"), ["propagate_relevance"])
    assert "raise ValueError(" in salient
    assert "is_tensor" not in standalone(registry.find("routing"), ["rotary"])


def test_emptied_functions_keep_signature_and_docstring() -> None:
    exhibit = registry.find("hyper_attention")
    text = standalone(exhibit, ["attend"], empty=["merge"])
    merge = functions(text)["merge"]
    assert (
        ast.get_docstring(merge) == "(out, lse) over two disjoint sets of keys; l1 is finite. (3)"
    )
    assert len(functions(text)["exact"].body) > 2


def test_edits_that_do_not_fit_are_refused() -> None:
    exhibit = registry.find("attention")
    for old, times in (("no such text", 0), ("batch", "times")):
        with pytest.raises(InputError, match=rf"must occur once.*{times}"):
            edited(exhibit, [Mistake("nonsense", old, "x", "")])
    with pytest.raises(InputError, match="defines no 'atend'; did you mean attend"):
        standalone(exhibit, ["atend"])
    helper = replace(exhibit.exercise, parts=(Part("no_such_helper"),))
    with pytest.raises(InputError, match="no_such_helper"):
        skeleton(replace(exhibit, exercise=helper))


def test_names_that_a_definition_reads() -> None:
    source = Source(
        "x",
        "def f(a, b: T = D, *c):\n"
        "    def g(y): return y + a + G1\n"
        "    z = [i * G2 for i in R if i]\n"
        "    h = lambda q: q.k + G3.k\n"
        "    return g, z, h, G4.f(a.b)\n",
    )
    found = uses(source.definitions["f"])
    assert {use.name for use in found} == {"T", "D", "G1", "G2", "R", "G3", "G4"}
    assert {use.attribute.attr for use in found if use.attribute} == {"k", "f"}
