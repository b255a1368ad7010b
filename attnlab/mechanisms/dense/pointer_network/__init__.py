"""Pointer Networks: attention whose weights are the answer, an index into the input."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from attnlab.contract import Array, Cost, Exhibit, Operation, Option, Paper

from .exercise import EXERCISE

TANH = 8.0  # operations counted for one tanh
CITIES = 20  # exact tours go no further, as in the paper


def _ragged(rng: np.random.Generator, low: int, high: int, batch: int) -> np.ndarray[Any, Any]:
    """Lengths between low and high, the first one high."""
    lengths = rng.integers(low, high + 1, batch)
    lengths[0] = high
    return lengths


def attend_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    steps: int | None = None,
    hidden: int = 5,
    ragged: bool = True,
    scored: bool = True,
) -> dict[str, Any]:
    """Normal encoder and decoder states (steps None: n); ragged lengths; scored gives targets."""
    steps = steps or n
    enc_len = _ragged(rng, 1 if ragged else n, n, batch)
    drawn = {
        "enc": rng.standard_normal((batch, n, hidden)),
        "dec": rng.standard_normal((batch, steps, hidden)),
        "enc_len": enc_len,
        "dec_len": _ragged(rng, 1 if ragged else steps, steps, batch),
    }
    if scored:
        drawn["target"] = rng.integers(0, enc_len[:, None], (batch, steps))
    W1, W2 = rng.standard_normal((2, hidden, hidden)) / hidden**0.5
    return drawn | {"W1": W1, "W2": W2, "v": rng.standard_normal(hidden)}


def _weights(rng: np.random.Generator, hidden: int) -> dict[str, Any]:
    drawn = {"start": rng.random(2), "end": rng.standard_normal(hidden)}
    drawn["c0"] = rng.standard_normal(hidden)
    for side in ("enc", "dec"):
        drawn[f"{side}_Wih"] = rng.standard_normal((4 * hidden, 2))
        drawn[f"{side}_Whh"] = rng.standard_normal((4 * hidden, hidden)) / hidden**0.5
        drawn[f"{side}_bih"], drawn[f"{side}_bhh"] = rng.standard_normal((2, 4 * hidden)) / 2
    drawn["W1"], drawn["W2"] = rng.standard_normal((2, hidden, hidden)) / hidden**0.5
    return drawn | {"v": 2 * rng.standard_normal(hidden)}


def forward_example(
    n: int, rng: np.random.Generator, batch: int = 2, hidden: int = 5, ragged: bool = True
) -> dict[str, Any]:
    """Uniform points and, as targets, a few of them in random order, then 0."""
    count = _ragged(rng, 1 if ragged else n, n, batch)
    target_len = np.array([rng.integers(1, c + 1) if ragged else c for c in count]) + 1
    target = np.full((batch, target_len.max()), -1)
    for row, c, m in zip(target, count, target_len):
        row[: m - 1] = 1 + rng.permutation(c)[: m - 1]
        row[m - 1] = 0
    drawn = {"points": rng.random((batch, n, 2)), "n": count}
    return drawn | {"target": target, "target_len": target_len} | _weights(rng, hidden)


def decode_example(
    n: int,
    rng: np.random.Generator,
    batch: int = 2,
    hidden: int = 5,
    ragged: bool = True,
    task: str = "tsp",
) -> dict[str, Any]:
    """Uniform points (at least 3 for a hull) and random weights."""
    least = 3 if task == "hull" else 1
    n = max(n, least)
    drawn = {
        "points": rng.random((batch, n, 2)),
        "n": _ragged(rng, least if ragged else n, n, batch),
    }
    return drawn | _weights(rng, hidden) | {"task": task}


def geometry_example(
    n: int, rng: np.random.Generator, batch: int = 3, ragged: bool = True, most: int = 9
) -> dict[str, Any]:
    """Uniform points, 3 to `most` of them, and random closed polygons as predictions."""
    n = min(max(n, 3), most)
    count = _ragged(rng, 3 if ragged else n, n, batch)
    pred = np.zeros((batch, n + 1), int)
    for row, c in zip(pred, count):
        m = rng.integers(3, c + 1)
        row[:m] = 1 + rng.permutation(c)[:m]
        row[m] = row[0]
    return {"points": rng.random((batch, n, 2)), "n": count, "pred": pred}


def _host(value: Any) -> np.ndarray[Any, Any]:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def _outside(lengths: Any, low: int, high: int) -> bool:
    return bool(((lengths < low) | (lengths > high)).any())


def _attend_target_outside(c: Any) -> bool:
    """Whether a real step points at no real position."""
    if c.target is None:
        return False
    target, enc_len, dec_len = (_host(x) for x in (c.target, c.enc_len, c.dec_len))
    real = np.arange(target.shape[1]) < dec_len[:, None]
    return bool((real & ((target < 0) | (target >= enc_len[:, None]))).any())


def _target_outside(c: Any) -> bool:
    """Whether a target before the last is no point of its item."""
    target, count, length = (_host(x) for x in (c.target, c.n, c.target_len))
    inner = np.arange(target.shape[1]) < length[:, None] - 1
    return bool((inner & ((target < 1) | (target > count[:, None]))).any())


def _unended(c: Any) -> bool:
    target, length = _host(c.target), _host(c.target_len)
    return bool((target[np.arange(len(target)), length - 1] != 0).any())


def _collinear(c: Any) -> bool:
    items = zip(_host(c.points), _host(c.n))
    return any(np.linalg.matrix_rank(points[:m] - points[0]) < 2 for points, m in items)


def _pred_outside(c: Any) -> bool:
    pred, count = _host(c.pred), _host(c.n)
    return bool(((pred < 0) | (pred > count[:, None])).any())


POINTS = (
    Array("points", "batch length 2", finite=True, about="coordinates, padded"),
    Array("n", "batch", dtype="int", about="real points of each item"),
)
WEIGHTS = (
    Array("start", "2", weight=True, about="first input of the decoder"),
    Array("end", "hidden", weight=True, about="the encoder's first hidden state, and slot 0: stop"),
    Array("c0", "hidden", weight=True, about="the encoder's first cell state"),
    *(
        Array(f"{side}_{name}", shape, weight=True, about=f"{side}oder LSTM, gate order i, f, g, o")
        for side in ("enc", "dec")
        for name, shape in (
            ("Wih", "4*hidden 2"),
            ("Whh", "4*hidden hidden"),
            ("bih", "4*hidden"),
            ("bhh", "4*hidden"),
        )
    ),
)
POINTER = (
    Array("W1", "hidden hidden", weight=True, about="applied to encoder states, from the right"),
    Array("W2", "hidden hidden", weight=True, about="applied to decoder states, from the right"),
    Array("v", "hidden", weight=True, about="weights of the score"),
)
N_FITS = (lambda c: _outside(c.n, 1, c.length), "n must lie between 1 and {length}")


def _pointing(c: SimpleNamespace, steps: float, slots: float) -> float:
    return c.batch * ((2 + TANH) * steps * slots * c.hidden + 2.0 * (steps + slots) * c.hidden**2)


def _lstm(c: SimpleNamespace, steps: float) -> float:
    return c.batch * steps * c.hidden * (8 * c.hidden + 16 + 5 * TANH)


EQUATIONS = (
    "z = W_ih x + b_ih + W_hh h + b_hh;  c = sig(f) c + sig(i) tanh(g);  h = sig(o) tanh(c)    (1)",
    "E = [end, h_1, …, h_n], index 0 = stop                                                  (2)",
    "u^t_j = v . tanh( E_j W1 + d_t W2 )                                                     (3)",
    "p(C_t | C_<t, P) = softmax over j = 0…n of u^t                                          (4)",
    "loss = mean over all real decoder steps of the batch of -log p(target)                  (5)",
)

EXHIBIT = Exhibit(
    name="pointer_network",
    title="Pointer network",
    family="dense",
    package=__name__,
    paper=Paper(
        title="Pointer Networks",
        authors=("Oriol Vinyals", "Meire Fortunato", "Navdeep Jaitly"),
        year=2015,
        venue="NIPS 2015",
        arxiv="1506.03134",
    ),
    idea=(
        "Some answers are positions of the input: the corners of a hull, the stops of a tour. Instead "
        "of averaging what attention looks at, a pointer network takes the attention weights "
        "themselves as the distribution of its next output. Its dictionary is therefore the input, and "
        "a model trained on few points runs on many."
    ),
    attention_map=(
        "p[t, j], the output itself: where step t points. Rows sum to 1 over the real slots."
    ),
    operations=(
        Operation(
            "attend",
            headline=True,
            about="additive attention whose weights are the output distribution, and its loss",
            equations=EQUATIONS[2:],
            inputs=(
                Array("enc", "batch n hidden", about="encoder states, slot 0 included"),
                Array("dec", "batch steps hidden", about="decoder states"),
                Array("enc_len", "batch", dtype="int", about="real encoder slots of each item"),
                Array("dec_len", "batch", dtype="int", about="real decoder steps of each item"),
                Array(
                    "target",
                    "batch steps",
                    dtype="int",
                    optional=True,
                    about="the slot each step should point at; padding is ignored",
                ),
                *POINTER,
            ),
            outputs=(
                Array("scores", "batch steps n", optional=True, about="u, 0 where padded"),
                Array("p", "batch steps n", about="the distribution, 0 where padded"),
                Array("loss", "", when="target", about="mean of -log p(target), natural log"),
            ),
            refuse=(
                (lambda c: _outside(c.enc_len, 1, c.n), "enc_len must lie between 1 and {n}"),
                (
                    lambda c: _outside(c.dec_len, 1, c.steps),
                    "dec_len must lie between 1 and {steps}",
                ),
                (_attend_target_outside, "target must point at a slot below its item's enc_len"),
            ),
            example=attend_example,
            vary={
                "batch": (1, 3),
                "steps": (None, 1, 7, 20),
                "hidden": (1, 5, 16),
                "ragged": (False, True),
                "scored": (False, True),
            },
            bench_sizes={"batch": 1, "hidden": 128, "ragged": False, "scored": True},
            gradient=("enc", "dec", "W1", "W2", "v"),
            cost=Cost(
                time="batch n steps hidden",
                exponent=2.0,
                flops=lambda c: _pointing(c, c.steps, c.n),
                bytes=lambda c: float(
                    c.itemsize
                    * (c.batch * ((c.n + c.steps) * c.hidden + c.steps * c.n) + 2 * c.hidden**2)
                ),
                blas=lambda c: (
                    2.0 * c.batch * (c.steps + c.n) * c.hidden**2 / _pointing(c, c.steps, c.n)
                ),
                grows="positions, and as many steps",
                memory="batch steps n (the answer); never the steps x n x hidden tanh",
                memory_exponent=2.0,
                note="the tanh dominates, not the products; E W1 is computed once",
            ),
        ),
        Operation(
            "forward",
            about="the whole model, teacher-forced: encoder, decoder, pointer, loss",
            equations=EQUATIONS,
            inputs=(
                *POINTS,
                Array(
                    "target",
                    "batch steps",
                    dtype="int",
                    about="1-based points, then 0; padded with -1",
                ),
                Array("target_len", "batch", dtype="int", about="targets, the final 0 counted"),
                *WEIGHTS,
                *POINTER,
            ),
            outputs=(
                Array("logits", "batch steps length+1", about="u of (3), 0 where padded"),
                Array("loss", "", about="(5), natural log"),
            ),
            refuse=(
                N_FITS,
                (
                    lambda c: _outside(c.target_len, 1, c.steps),
                    "target_len must lie between 1 and {steps}",
                ),
                (_unended, "target must end with 0, the end token, at target_len - 1"),
                (_target_outside, "target before its end must be points 1 to n of its item"),
            ),
            example=forward_example,
            vary={"batch": (1, 3), "hidden": (1, 5, 16), "ragged": (False, True)},
            bench_sizes={"batch": 8, "hidden": 128, "ragged": False},
            gradient=(*(a.name for a in WEIGHTS), *(a.name for a in POINTER)),
            exempt={
                "batch": "rolled targets lose their end token and are refused; the exhibit's own test "
                "changes one item's points instead"
            },
            cost=Cost(
                time="batch (n steps hidden + (n + steps) hidden^2)",
                exponent=2.0,
                flops=lambda c: _lstm(c, c.length + c.steps) + _pointing(c, c.steps, c.length + 1),
                bytes=lambda c: float(
                    c.itemsize
                    * (
                        c.batch * (2 * c.length + c.steps * (c.length + 1))
                        + 10 * c.hidden**2
                        + c.batch * 4 * (c.length + c.steps) * c.hidden
                    )
                ),
                blas=0.3,
                grows="points, and as many steps",
                size="length",
                memory="batch steps n",
                memory_exponent=2.0,
            ),
        ),
        Operation(
            "decode",
            about="beam search among the points that the task still allows",
            equations=(
                *EQUATIONS[:4],
                "cost(beam) = sum_t -log p(C_t), p softmaxed over the allowed slots",
                "hull: three points first; then 0, the first point, or a new one; after either, 0",
                "tsp: new points while there are any, then the first point, then 0",
            ),
            inputs=(*POINTS, *WEIGHTS, *POINTER),
            options=(
                Option("task", str, about="what may follow what", choices=("hull", "tsp")),
                Option("beams", int, 1, "hypotheses kept; 1 is greedy", minimum=1),
            ),
            outputs=(
                Array("tokens", "batch _", dtype="int", about="1-based, ending with 0, 0-padded"),
                Array("len", "batch", dtype="int", about="tokens, the final 0 counted"),
            ),
            refuse=(
                N_FITS,
                (
                    lambda c: c.task == "hull" and bool((c.n < 3).any()),
                    "n must be at least 3: fewer points have no hull",
                ),
            ),
            example=decode_example,
            vary={
                "batch": (1, 3),
                "hidden": (1, 5, 16),
                "ragged": (False, True),
                "task": ("tsp", "hull"),
                "beams": (1, 2, 5, 50),
            },
            bench_sizes={"batch": 8, "hidden": 128, "ragged": False},
            paths=frozenset({"numpy", "numba", "torch"}),
            no_gradient="tokens are choices, piecewise constant in every weight",
            cost=Cost(
                time="batch beams n (n hidden + hidden^2)",
                exponent=2.0,
                flops=lambda c: (
                    _lstm(c, c.length + c.beams * (c.length + 2))
                    + _pointing(c, c.beams * (c.length + 2), c.length + 1)
                ),
                bytes=lambda c: float(c.itemsize * (2 * c.batch * c.length + 10 * c.hidden**2)),
                blas=0.3,
                grows="points",
                size="length",
                memory="batch (n hidden + beams n)",
                memory_exponent=1.0,
            ),
        ),
        Operation(
            "geometry",
            about="exact answers to learn from, and how good a predicted polygon is",
            equations=(
                "hull: counter-clockwise from its lowest index, closed",
                "tour: the shortest (Held-Karp), from city 1, second city < last, closed",
                "triangles: Delaunay, increasing triples sorted by incenter (x, then y)",
                "incenter of ABC = (a A + b B + c C)/(a+b+c), a = |BC|, b = |CA|, c = |AB|",
                "coverage = |area(pred)| / |area(hull)|, area = 1/2 sum_i x_i y_{i+1} - x_{i+1} y_i",
                "polygon accuracy: share of pred that are a rotation of the hull",
            ),
            inputs=(
                *POINTS,
                Array(
                    "pred",
                    "batch predicted",
                    dtype="int",
                    about="predicted polygons, 1-based, closed or not, 0-padded",
                ),
            ),
            outputs=(
                Array("hull", "batch _", dtype="int", about="closed, no final 0, 0-padded"),
                Array("tour", "batch length+1", dtype="int", about="closed, 0-padded"),
                Array("tour_length", "batch", about="in the points' unit"),
                Array("hull_area", "batch", about="in the points' unit squared"),
                Array("triangles", "batch _", dtype="int", about="flattened triples, 0-padded"),
                Array("coverage", "batch"),
                Array("is_simple", "batch", dtype="bool", about="no edge of pred meets another"),
                Array("polygon_accuracy", ""),
            ),
            refuse=(
                N_FITS,
                (
                    lambda c: bool((c.n < 3).any()),
                    "n must be at least 3: fewer points have no hull",
                ),
                (
                    lambda c: bool((c.n > CITIES).any()),
                    f"n must be at most {CITIES}: exact tours grow as n^2 2^n",
                ),
                (_collinear, "points must not all lie on one line: they have no hull"),
                (_pred_outside, "pred must hold points 1 to n of its item, and 0 for padding"),
            ),
            example=geometry_example,
            vary={"batch": (1, 4), "ragged": (False, True), "most": (3, 6, 9)},
            bench_sizes={"batch": 8, "ragged": False, "most": 12},
            paths=frozenset({"numpy", "numba"}),
            no_gradient="discrete geometry",
            cost=Cost(
                time="batch n^2 2^n",
                exponent=2.0,
                flops=lambda c: c.batch * 2.0 * c.length**2 * 2.0 ** (c.length - 1),
                bytes=lambda c: float(8 * c.batch * c.length * 2.0 ** (c.length - 1)),
                blas=0.0,
                grows="points",
                size="length",
                memory="n 2^n",
                note="the exact tour dominates: exponential in n, whatever a power law says",
            ),
        ),
    ),
    exercise=EXERCISE,
    notes=(
        "The learned encoder state `end` doubles as the stop slot; this follows a well-known reproduction, as no official code exists.",
        "Decoding masks what the task forbids before the softmax, for hulls too; the paper leaves hulls unconstrained.",
    ),
)
