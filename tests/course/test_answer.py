"""Answers made from the exhibits' own paths: they run where attnlab is not, and are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnlab import registry
from attnlab.checks import convert
from attnlab.contract import Exhibit, InputError
from attnlab.course.answer import answer, broken, closure, load
from attnlab.dev.check import same

NAMES = registry.names()


def arguments(exhibit: Exhibit, n: int, **sizes: Any) -> dict[str, Any]:
    op = exhibit.headline
    return convert(op, op.prepared(n, **sizes) | op.sample(n, **sizes), "numpy")[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_file_gives_what_the_reference_gives(name: str) -> None:
    exhibit = registry.find(name)
    op = exhibit.headline
    functions = load(answer(exhibit)[f"{name}.py"].decode(), name)
    for n in (1, 7):
        kwargs = arguments(exhibit, n)
        expected = exhibit.run(op.name, want="all", **kwargs)._asdict()
        made = getattr(functions, op.name)(**kwargs)
        for spec in op.results:
            if not spec.optional:
                assert same(expected[spec.keyword], made.get(spec.keyword)), spec.keyword


ALONE = """
import sys, json
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "attnlab":
            raise ImportError("attnlab is not here")
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import numpy as np
import importlib
wrap = np.asarray
if sys.argv[3] == "torch":
    import torch
    wrap = torch.from_numpy
attend = getattr(importlib.import_module(sys.argv[2]), "attend")
data = np.load(sys.argv[4])
out = attend(**{k: wrap(data[k]) for k in data}).out
assert not [m for m in sys.modules if m.split(".")[0] == "attnlab"]
print(json.dumps(np.asarray(out).tolist()))
"""


@pytest.mark.parametrize(("name", "track"), [("attention", "numba"), ("landmark", "torch")])
def test_a_path_runs_where_attnlab_is_not(name: str, track: Any, tmp_path: Path) -> None:
    exhibit = registry.find(name)
    for path, content in answer(exhibit, track).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    kwargs = {k: v for k, v in arguments(exhibit, 9).items() if isinstance(v, np.ndarray)}
    np.savez(tmp_path / "inputs.npz", **kwargs)
    env = os.environ | {"ATTNLAB_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, tmp_path, name, track, tmp_path / "inputs.npz"],
        env=env, capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), exhibit.run(**kwargs).out, atol=1e-9)


def test_the_closure_of_a_path_holds_its_packages_and_no_other_path() -> None:
    names = {source.name for source in closure("attnlab.mechanisms.sparse.landmark.torch")}
    assert {"attnlab", "attnlab.mechanisms.sparse", "attnlab.layers.rotary"} <= names
    assert not any(name.endswith((".reference", ".cpu", ".cuda")) for name in names)


def test_a_track_without_a_path_is_refused() -> None:
    with pytest.raises(InputError, match=r"track: attention.attend has no numb path; it has"):
        answer(registry.find("attention"), "numb")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_changes_one_place_of_the_answer(name: str) -> None:
    exhibit = registry.find(name)
    assert exhibit.exercise is not None
    whole = answer(exhibit)[f"{name}.py"].decode()
    for mistake in exhibit.exercise.mistakes:
        text = broken(exhibit, mistake)
        assert text != whole, mistake.name
        compile(text, name, "exec")
        assert mistake.says
