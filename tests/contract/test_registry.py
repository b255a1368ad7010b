"""Every operation of every exhibit against the list in properties.py, and every golden case."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import properties
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnlab.contract import BACKENDS, Exhibit, Operation
from attnlab.registry import exhibits

OPERATIONS = [op for exhibit in exhibits() for op in exhibit.operations]


def rows() -> list[Any]:
    """(operation, backend, property) for all that applies, exemptions marked with their reason."""
    out = []
    for op in OPERATIONS:
        for name, (_, backends, applies) in properties.PROPERTIES.items():
            for backend in (b for b in backends if b in op.paths and applies(op)):
                marks = [pytest.mark.exempt(op.exempt[name])] if name in op.exempt else []
                out.append(
                    pytest.param(
                        op,
                        backend,
                        name,
                        id=f"{op.exhibit.name}.{op.name}-{backend}-{name}",
                        marks=marks,
                    )
                )
    return out


@pytest.mark.parametrize(("op", "backend", "name"), rows())
def test_property(op: Operation, backend: str, name: str) -> None:
    properties.PROPERTIES[name][0](op, backend)


PAIRS = [
    pytest.param(
        op,
        b,
        id=f"{op.exhibit.name}.{op.name}-{b}",
        marks=[pytest.mark.exempt(op.exempt["agreement"])] if "agreement" in op.exempt else [],
    )
    for op in OPERATIONS
    for b in ("numba", "torch")
    if b in op.paths
]


@pytest.mark.parametrize(("op", "backend"), PAIRS)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_agreement(op: Operation, backend: str, data: Any) -> None:
    sizes = {
        name: data.draw(st.sampled_from(list(values)), label=name)
        for name, values in op.vary.items()
    }
    n = data.draw(st.integers(1, 40), label="n")
    properties.agreement(op, backend, n, data.draw(st.integers(0, 2**16), label="seed"), **sizes)


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: f"{op.exhibit.name}.{op.name}")
def test_card(op: Operation) -> None:
    """Exemptions name real properties with a reason; a gradient is declared or its absence explained."""
    assert set(op.exempt) <= {*properties.PROPERTIES, "agreement"}
    assert all(len(reason) > 10 for reason in op.exempt.values())
    assert op.paths <= set(BACKENDS)
    assert "numpy" in op.paths
    assert bool(op.gradient) != bool(op.no_gradient) or "torch" not in op.paths
    assert {a.keyword for a in op.arguments} >= set(op.gradient)
    assert op.about
    assert op.equations


def test_every_exhibit_has_an_operation_on_all_four_paths() -> None:
    for exhibit in exhibits():
        assert any(len(op.paths) == 4 for op in exhibit.operations), exhibit.name


@pytest.mark.parametrize("exhibit", exhibits(), ids=lambda exhibit: exhibit.name)
def test_every_exhibit_says_what_its_attention_map_is(exhibit: Exhibit) -> None:
    assert len(exhibit.attention_map) > 40
    for name in re.findall(r"want=\['(\w+)'\]", exhibit.attention_map):
        assert name in {a.keyword for op in exhibit.operations for a in op.results}


@pytest.mark.parametrize(("chosen", "told"), [("readable", False), ("on_gpu", True)])
def test_checks_that_need_a_gpu_are_counted_where_they_were_asked_for(
    chosen: str, told: bool
) -> None:
    """-k leaves the checks of everything else out of the summary."""
    call = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    here = Path(__file__).parent
    done = subprocess.run(
        [*call, str(here / "test_golden.py"), "-k", chosen],
        cwd=here.parents[1], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert ("not run on hardware" in done.stdout) == told, done.stdout
