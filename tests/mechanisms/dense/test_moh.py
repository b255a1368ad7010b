"""MoH: what is refused, what must work, gates head by head, and the sum that a layer is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attnlab.contract import InputError
from attnlab.registry import find

EXHIBIT = find("moh")
PATHS = ["numpy", "numba", "torch"]


def run(operation: str, backend: str, **kwargs: Any) -> dict[str, np.ndarray]:
    made = EXHIBIT.run(operation, backend=backend, want="all", **kwargs)._asdict()
    return {k: np.asarray(v) for k, v in made.items() if v is not None}


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum()


def token_by_token(
    x: np.ndarray,
    W_r: Any = None,
    W_s: Any = None,
    W_h: Any = None,
    *,
    n_head: int,
    n_shared: int,
    top_k: int,
) -> tuple[np.ndarray, float]:
    """(gates, aux) by equations 1 to 5 and 7."""
    S, E, K = n_shared, n_head - n_shared, top_k
    gates, chosen, mass = np.zeros((*x.shape[:2], n_head)), np.zeros(E), np.zeros(E)
    for at in np.ndindex(x.shape[:2]):
        g = gates[at]
        g[:S] = S * softmax(W_s @ x[at]) if S > 1 else 1
        if K:
            p = softmax(W_r @ x[at])
            T = sorted(range(E), key=lambda e: (-p[e], e))[:K]
            for e in T:
                g[S + e] = K * p[e] / sum(p[t] for t in T)
                chosen[e] += 1
            mass += p
        if K and S:
            a = 2 * softmax(W_h @ x[at])
            g[:S] *= a[0]
            g[S:] *= a[1]
    tokens = x.shape[0] * x.shape[1]
    return gates, float(E * (chosen / tokens * mass / tokens).sum())


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("n", [1, 9])
@pytest.mark.parametrize(
    ("n_head", "n_shared", "top_k"),
    [
        (6, 2, 2),
        (4, 0, 2),
        (4, 4, 0),
        (4, 1, 2),
        (4, 1, 3),
        (4, 0, 4),
        (5, 2, 0),
        (1, 1, 0),
        (1, 0, 1),
    ],
)
def test_layer_is_a_sum_over_heads(
    backend: str, n: int, n_head: int, n_shared: int, top_k: int
) -> None:
    """All routed, none routed, none shared, one shared: gates, aux, heads and y one head at a time."""
    sizes = {"n_head": n_head, "n_shared": n_shared, "top_k": top_k}
    s = EXHIBIT.operation("attend").sample(n, seed=1, **sizes)
    made = run("attend", backend, **s)
    routers = {k: s.get(k) for k in ("W_r", "W_s", "W_h")}
    gates, aux = token_by_token(s["x"], **routers, **sizes)
    np.testing.assert_allclose(made["gates"], gates, 1e-10, 1e-12)
    assert ("aux" in made) == (top_k > 0)
    if top_k:
        np.testing.assert_allclose(made["aux"], aux, 1e-10)

    C, D = s["x"].shape[2], s["x"].shape[2] // n_head
    qkv = s["x"] @ s["W_qkv"].T + s["b_qkv"]
    y = np.zeros_like(s["x"]) + s["b_o"]
    for h in range(n_head):
        q, k, v = (qkv[..., part * C + h * D : part * C + (h + 1) * D] for part in range(3))
        A = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(D))
        head = A / A.sum(-1, keepdims=True) @ v
        np.testing.assert_allclose(made["heads"][:, :, h], head, 1e-10, 1e-12)
        y += gates[..., h, None] * (head @ s["W_o"][:, h * D : (h + 1) * D].T)
    np.testing.assert_allclose(made["y"], y, 1e-10, 1e-12)
    bare = EXHIBIT.run("attend", backend=backend, **s)
    assert bare.heads is None
    np.testing.assert_allclose(np.asarray(bare.y), y, 1e-10, 1e-12)


@pytest.mark.parametrize("backend", PATHS)
def test_a_head_that_no_token_chose(backend: str) -> None:
    s = EXHIBIT.operation("attend").sample(9, n_head=4, n_shared=1, top_k=1)
    s["x"][..., 0] = 1
    s["W_r"][:] = 0
    s["W_r"][1, 0] = 5  # every token chooses routed head 1
    made = run("attend", backend, **s)
    assert (made["gates"][..., [1, 3]] == 0).all()
    assert (made["gates"][..., 2] > 0).all()
    np.testing.assert_allclose(made["y"], run("attend", "numpy", **s)["y"], 1e-10, 1e-12)


@pytest.mark.parametrize("backend", PATHS)
def test_ties_go_to_the_lower_head(backend: str) -> None:
    s = EXHIBIT.operation("gates").sample(5, n_head=5, n_shared=0, top_k=2)
    s["W_r"][:] = 0
    made = run("gates", backend, **s)
    np.testing.assert_allclose(made["gates"], np.tile([1.0, 1, 0, 0, 0], (2, 5, 1)), 1e-12)
    np.testing.assert_allclose(made["aux"], 2.0, 1e-12)  # equal p balance perfectly: K


@pytest.mark.parametrize("backend", PATHS)
def test_many_tokens(backend: str) -> None:
    """Several tiles of queries and keys, lists of unequal length."""
    s = EXHIBIT.operation("attend").sample(600, batch=1, n_head=4, head_dim=8)
    bare = EXHIBIT.run("attend", backend=backend, **s)
    want = EXHIBIT.run("attend", backend="numpy", **s)
    np.testing.assert_allclose(np.asarray(bare.y), want.y, 1e-9, 1e-11)


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(("n_shared", "top_k"), [(0, 3), (2, 2), (2, 4), (2, 0), (6, 0)])
def test_norm_router(backend: str, n_shared: int, top_k: int) -> None:
    q = np.random.default_rng(0).standard_normal((2, 5, 6, 4))
    made = run("norm_gates", backend, q=q, n_shared=n_shared, top_k=top_k)
    for at in np.ndindex(2, 5):
        norms = np.array([np.sqrt(row @ row) for row in q[at][n_shared:]])
        on = np.ones(6)
        if len(norms):
            spread = np.sqrt(((norms - norms.mean()) ** 2).sum() / (len(norms) - 1))
            np.testing.assert_allclose(made["scores"][at], softmax(norms / spread), 1e-10)
            on[n_shared:] = 0
            on[n_shared + np.argsort(-norms)[:top_k]] = 1
        np.testing.assert_array_equal(made["gates"][at], on)


def test_norm_gates_are_straight_through() -> None:
    """The gates' gradient is the scores', and the scores' equals finite differences."""
    import torch

    q = torch.randn(1, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 3, 4, dtype=torch.float64)
    made = EXHIBIT.run("norm_gates", backend="torch", q=q, n_shared=1, top_k=2)
    through = torch.autograd.grad((made.gates[..., 1:] * weight).sum(), q, retain_graph=True)[0]
    direct = torch.autograd.grad((made.scores * weight).sum(), q)[0]
    torch.testing.assert_close(through, direct)
    assert direct.abs().sum() > 0
    scores = lambda q: EXHIBIT.run("norm_gates", backend="torch", q=q, n_shared=1, top_k=2).scores  # noqa: E731
    assert torch.autograd.gradcheck(scores, (q,))


def _drop(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda s: {k: v for k, v in s.items() if k != name}


def _put(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda s: s | values


def _spoil(name: str, value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def spoiled(s: dict[str, Any]) -> dict[str, Any]:
        s[name].flat[1] = value
        return s

    return spoiled


MADE = {"n_head": 4, "n_shared": 2, "top_k": 1}
REFUSED = {
    "heads do not make the channels": (
        "attend",
        lambda s: s | {"W_qkv": s["W_qkv"][:24], "b_qkv": s["b_qkv"][:24], "W_o": s["W_o"][:, :8]},
        "channels",
    ),
    "W_qkv in no whole heads": ("attend", lambda s: s | {"W_qkv": s["W_qkv"][:-1]}, "W_qkv"),
    "more shared heads than heads": ("gates", _put(n_shared=5, top_k=0), "n_shared"),
    "more chosen than routed": ("gates", _put(top_k=3), "top_k 3 exceeds"),
    "negative top_k": ("gates", _put(top_k=-1), "top_k must be at least 0"),
    "no head at all": ("gates", lambda s: _drop("W_s")(_drop("W_h")(s)) | {"n_shared": 0, "top_k": 0, "W_r": np.ones((4, 6))}, "no head would be on"),
    "W_s missing": ("gates", _drop("W_s"), "W_s"),
    "W_h missing": ("attend", _drop("W_h"), "W_h"),
    "W_r missing": ("gates", _drop("W_r"), "W_r"),
    "W_h without routing": ("gates", _put(top_k=0), "W_h is not taken here"),
    "W_s for one shared head": ("gates", _put(n_shared=1), "W_s is not taken here"),
    "a router logit that is not finite": ("gates", _spoil("W_r", np.nan), "W_r must be finite"),
    "a token that is not finite": ("attend", _spoil("x", np.inf), "x must be finite"),
    "a weight that is not finite": ("attend", _spoil("W_qkv", np.inf), "W_qkv must be finite"),
    "equal query norms": ("norm_gates", lambda s: s | {"q": np.ones_like(s["q"])}, "same norm"),
    "one routed head": ("norm_gates", lambda s: s | {"n_shared": s["q"].shape[2] - 1, "top_k": 1}, "same norm"),
    "norm router: too many shared": ("norm_gates", _put(n_shared=9), "n_shared 9 exceeds"),
    "norm router: too many chosen": ("norm_gates", _put(top_k=9), "top_k 9 exceeds"),
    "norm router: no head": ("norm_gates", _put(top_k=0, n_shared=0), "no head would be on"),
}  # fmt: skip


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("row", REFUSED)
def test_refused(backend: str, row: str) -> None:
    operation, mutate, message = REFUSED[row]
    sizes = MADE if operation != "norm_gates" else {}
    sample = EXHIBIT.operation(operation).sample(5, **sizes)
    with pytest.raises(InputError, match=message):
        EXHIBIT.run(operation, backend=backend, **mutate(sample))


def test_module_owns_the_weights() -> None:
    import torch

    op = EXHIBIT.operation("attend")
    layer = op.module(channels=12, head_dim=3, n_head=4, n_shared=2, top_k=1)
    made = layer(x=torch.randn(2, 5, 12))
    (made.y.sum() + made.aux).backward()
    names = {name for name, _ in layer.named_parameters()}
    assert names == {"W_qkv", "W_o", "b_o", "W_r", "W_s", "W_h"}
    assert all(p.grad is not None for p in layer.parameters())
