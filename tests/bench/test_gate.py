"""The gate lets right paths through and stops wrong ones; memory is measured without the inputs."""

from __future__ import annotations

import numpy as np
import pytest

from attnlab import registry
from attnlab.bench import gate, inputs
from attnlab.bench.inputs import Target
from attnlab.bench.memory import Request, Template
from attnlab.contract import Exhibit

TARGET = Target("attention", "attend", False)
SIZES = {"batch": 1, "heads": 2, "dim": 8, "causal": False}


def test_a_right_path_passes_and_its_first_call_is_timed() -> None:
    made = gate.Reference(TARGET, 33, "float32", 0, SIZES).check("torch")
    assert made.ok
    assert made.error <= made.tolerance
    assert made.first is not None
    assert made.first > 0
    assert "OK" in made.line()


def test_a_wrong_path_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Exhibit.function

    def function(self: Exhibit, operation: str | None, backend: str):
        fn = right(self, operation, backend)
        if backend != "torch":
            return fn
        return lambda **kwargs: fn(**kwargs)._replace(out=fn(**kwargs).out * 1.001)

    reference = gate.Reference(TARGET, 33, "float32", 0, SIZES)
    monkeypatch.setattr(Exhibit, "function", function)
    made = reference.check("torch")
    assert not made.ok
    assert "FAILED: out: max|Δ|" in made.line()


def test_a_path_that_raises_is_red_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = gate.Reference(TARGET, 8, "float32", 0, SIZES)

    def function(self: Exhibit, operation: str | None, backend: str):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(Exhibit, "function", function)
    assert reference.check("torch").line() == "reference check FAILED: RuntimeError: no such kernel"


@pytest.mark.parametrize(
    ("made", "error", "share"),
    [
        (np.array([1.0, 2.0, np.inf]), 0.0, 0.0),
        (np.array([1.0, 2.5, np.inf]), 0.5, 1 / 3),
        (np.array([1.0, np.nan, np.inf]), np.inf, 1 / 3),
    ],
)
def test_comparing_floats(made: np.ndarray, error: float, share: float) -> None:
    want = np.array([1.0, 2.0, np.inf])
    assert gate.compare({"x": made}, {"x": want}, 1e-6, 1e-6)[::2] == (error, share)


def test_comparing_integers_shapes_and_names() -> None:
    ints = {"x": np.array([1, 2])}
    assert gate.compare(ints, {"x": np.array([1, 3])}, 0.1, 0.1)[0] > 0
    assert gate.compare({"x": np.array(2.0)}, {"x": np.array(2.0)}, 0, 0)[0] == 0  # a scalar output
    assert "shape" in gate.compare({"x": np.ones(2)}, {"x": np.ones(3)}, 1, 1)[3]
    assert gate.compare({}, ints, 1, 1)[0] == np.inf


def test_costs_count_a_causal_mask_once() -> None:
    kwargs = inputs.draw(TARGET, 64, "float32", 0, SIZES)
    full = inputs.cost(TARGET, 64, kwargs, "float32")
    causal = inputs.cost(TARGET, 64, kwargs | {"causal": True}, "float32")
    assert full.flops == 2 * 1 * 2 * 64 * 64 * (8 + 8)
    assert causal.flops == pytest.approx(full.flops / 2, rel=0.02)
    assert inputs.cost(TARGET, 64, kwargs, "float64").bytes == 2 * full.bytes


def test_every_card_with_costs_can_be_evaluated() -> None:
    seen = 0
    for exhibit in registry.exhibits():
        for op in exhibit.operations:
            if op.cost is None or op.prepare:
                continue
            target = Target(exhibit.name, op.name)
            cost = inputs.cost(target, 16, op.sample(16), "float32")
            for value in (cost.flops, cost.bytes):
                assert value is None or (np.isfinite(value) and value >= 0), target
            assert cost.blas is None or 0 <= cost.blas <= 1, target
            seen += 1
    assert seen


def test_peak_memory_leaves_out_the_inputs_and_sees_the_square() -> None:
    def request(n: int, seconds: float = 60.0, allowed: int = 2**32) -> Request:
        return Request(
            "attention", "attend", False, "numpy", n, 16, "float32", 0, 1,
            {"batch": 1, "heads": 8, "dim": 4, "causal": False}, allowed, seconds,
        )  # fmt: skip

    with Template(["numpy"]) as template:
        peak = template.measure(request(768))
        square = 8 * 768**2 * 4  # bytes of one matrix of scores
        assert peak.bytes is not None, peak.reason
        assert square < peak.bytes < 6 * square
        again = template.measure(request(384)).bytes
        assert again is not None
        assert again < peak.bytes / 2  # a smaller point after a larger one: a process of its own
        if template.process is not None:  # where processes are forked, they are limited
            assert "needs more than" in template.measure(request(2048, allowed=2**28)).reason
            assert "took more than" in template.measure(request(2048, seconds=0.01)).reason
