"""Salient Relevance: loops against every path, what is refused, what must work, what is conserved."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from attnlab.contract import InputError, as_dtype
from attnlab.flat import flatten
from attnlab.registry import find

EXHIBIT = find("salient_relevance")
PATHS = ["numpy", "numba", "torch"]
MAP, NETWORK = EXHIBIT.operation("salient_map"), EXHIBIT.operation("propagate_relevance")


def run(backend: str, op: Any, **kwargs: Any) -> dict[str, Any]:
    """Flat outputs as NumPy."""
    made = flatten(op.results, EXHIBIT.run(op.name, backend=backend, **kwargs)._asdict())
    return {k: v.detach().numpy() if hasattr(v, "detach") else v for k, v in made.items()}


# --- salient_map --------------------------------------------------------------------------------


def bilinear(image: Any, h: int, w: int) -> list[list[Any]]:
    """Step 5, one pixel at a time."""
    H, W = len(image), len(image[0])
    out = []
    for i in range(h):
        out.append([])
        for j in range(w):
            y = min(max((i + 0.5) * H / h - 0.5, 0), H - 1)
            x = min(max((j + 0.5) * W / w - 0.5, 0), W - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, H - 1), min(x0 + 1, W - 1)
            corners = [
                image[a][b] * s * t
                for a, s in ((y0, 1 - y + y0), (y1, y - y0))
                for b, t in ((x0, 1 - x + x0), (x1, x - x0))
            ]
            out[-1].append(sum(corners))
    return out


def patch_at(image: np.ndarray, y: int, x: int, p: int) -> np.ndarray:
    """The patch around a pixel, mirrored at the borders."""

    def mirrored(k: int, size: int) -> int:
        k = abs(k)
        return 2 * (size - 1) - k if k >= size else k

    h, w = image.shape[:2]
    reach = range(-(p // 2), p // 2 + 1)
    return np.array([[image[mirrored(y + i, h), mirrored(x + j, w)] for j in reach] for i in reach])


def loops(features: np.ndarray, scales: list[float], **options: Any) -> dict[str, np.ndarray]:
    """(6)-(9) literally; options as in the card."""
    o = {k.name: options.get(k.name, k.default) for k in MAP.options}
    p, H, W = o["patch"], *features.shape[:2]
    X = features - features.min((0, 1))
    X = X / np.where(X.max((0, 1)) > 0, X.max((0, 1)), 1)
    out: dict[str, Any] = {}
    maps = []
    for r in scales:
        h, w = math.floor(H * r + 0.5), math.floor(W * r + 0.5)
        if min(h, w) < p:
            continue
        image = np.array(bilinear(X, h, w))
        candidates = []
        for q in (1, 0.5, 0.25):
            hq, wq = math.floor(H * r * q + 0.5), math.floor(W * r * q + 0.5)
            if r * q < o["min_scale"] or min(hq, wq) < p:
                continue
            smaller = np.array(bilinear(X, hq, wq))
            for a in range(0, hq, max(1, p // 2)):
                for b in range(0, wq, max(1, p // 2)):
                    place = ((a + 0.5) * h / hq - 0.5, (b + 0.5) * w / wq - 0.5)
                    candidates.append((patch_at(smaller, a, b, p), place, (q, a, b)))
        S = np.zeros((h, w))
        for y in range(h):
            for x in range(w):
                P, d = patch_at(image, y, x, p), []
                for Q, (a, b), name in candidates:
                    if name == (1, y, x) and not o["self_match"]:
                        continue
                    color = math.sqrt(((P - Q) ** 2).mean())
                    away = math.hypot(y - a, x - b) / max(h, w)
                    d.append(color ** (2 if o["squared"] else 1) / (1 + o["c"] * away))
                d = sorted(d)[: o["K"]]
                S[y, x] = 1 - math.exp(-sum(d) / len(d)) if d else 0
        out[f"saliency_scale_{round(100 * r)}"] = S
        maps.append(np.array(bilinear(S, H, W)))
    mean = sum(maps) / len(maps)
    foci = mean > o["attended_fraction"] * (mean.max() if o["foci_rule"] == "relative" else 1)
    distance = np.ones((H, W))
    if foci.any():
        at = np.argwhere(foci)
        for y in range(H):
            for x in range(W):
                distance[y, x] = min(math.hypot(y - a, x - b) for a, b in at)
        distance /= distance.max() or 1
    return out | {
        "mean_saliency": mean,
        "foci": foci,
        "foci_distance": distance,
        "sr_map": mean * (1 - distance),
    }


RNG = np.random.default_rng(5)
IMAGE = RNG.random((9, 7, 2))
GREY = RNG.random((8, 8, 1))
BLOB = np.zeros((9, 9, 1))
BLOB[2:5, 3:6] = 1
WORKS: dict[str, tuple[np.ndarray, list[float], dict[str, Any]]] = {
    "defaults, small patch": (IMAGE, [1, 0.8, 0.5, 0.3], {"patch": 3}),
    "C = 1": (GREY, [1, 0.5], {"patch": 3, "K": 5}),
    "all scales but one skipped": (IMAGE, [1, 0.6, 0.5], {"patch": 7, "K": 3}),
    "fewer candidates than K": (IMAGE, [1], {"patch": 5, "K": 10000}),
    "one nearest": (IMAGE, [1, 0.8], {"patch": 3, "K": 1}),
    "patch of one pixel": (GREY, [1, 0.3], {"patch": 1, "K": 4}),
    "position does not count": (IMAGE, [1], {"patch": 3, "K": 6, "c": 0}),
    "position counts a lot": (IMAGE, [1], {"patch": 3, "K": 6, "c": 50.0}),
    "candidates of the own scale only": (IMAGE, [1, 0.8], {"patch": 3, "min_scale": 0.7}),
    "no candidates at the smaller scale": (IMAGE, [1, 0.6], {"patch": 3, "min_scale": 0.8}),
    "a single focus": (IMAGE, [1], {"patch": 3, "K": 4, "attended_fraction": 0.9999}),
    "every pixel a focus": (IMAGE, [1], {"patch": 3, "K": 4, "attended_fraction": 0}),
    "absolute foci": (IMAGE, [1], {"patch": 3, "foci_rule": "absolute", "attended_fraction": 0.15}),
    "no focus": (IMAGE, [1], {"patch": 3, "foci_rule": "absolute", "attended_fraction": 1.0}),
    "a patch matches itself": (IMAGE, [1, 0.5], {"patch": 3, "K": 3, "self_match": True}),
    "squared distances": (IMAGE, [1, 0.5], {"patch": 3, "K": 3, "squared": True}),
    "negative and large features": (50 * IMAGE - 30, [1], {"patch": 3, "K": 8}),
    "a constant channel": (np.dstack([IMAGE, np.full((9, 7), 3.0)]), [1], {"patch": 3, "K": 8}),
    "everything constant": (np.full((6, 5, 2), 0.3), [1, 0.8], {"patch": 3}),
    "flat with a blob": (BLOB, [1, 0.8], {"patch": 3, "K": 8}),
    "one pixel": (np.full((1, 1, 1), 2.0), [1], {"patch": 1}),
    "one row": (RNG.random((1, 9, 1)), [1, 0.5], {"patch": 1, "K": 2}),
    "an image as large as the patch": (RNG.random((3, 3, 1)), [1, 0.8], {"patch": 3, "K": 2}),
}  # fmt: skip
SPECIAL = {
    "a single focus": lambda m: m["foci"].sum() == 1 and m["foci_distance"].max() == 1,
    "every pixel a focus": lambda m: m["foci"].all() and not m["foci_distance"].any(),
    "no focus": lambda m: not m["foci"].any() and not m["sr_map"].any(),
    "absolute foci": lambda m: 0 < m["foci"].sum() < m["foci"].size,
    "everything constant": lambda m: not m["sr_map"].any(),
    "all scales but one skipped": lambda m: (
        [k for k in m if "scale" in k] == ["saliency_scale_100"]
    ),
}


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("case", WORKS)
def test_map_equals_plain_loops(backend: str, case: str) -> None:
    features, scales, options = WORKS[case]
    made = run(backend, MAP, features=features, scales=np.array(scales, float), **options)
    expected = loops(features, scales, **options)
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(made[name], value, 1e-9, 1e-12, err_msg=name)
    assert SPECIAL.get(case, lambda m: True)(made)


@pytest.mark.parametrize("backend", PATHS)
def test_default_scales_and_float32(backend: str) -> None:
    image = np.random.default_rng(2).random((35, 26, 3))  # 35 * 0.3 is half a pixel
    expected = run("numpy", MAP, features=image, scales=np.array([1, 0.8, 0.5, 0.3]))
    assert expected["saliency_scale_30"].shape == (11, 8)
    made = run(backend, MAP, features=image.astype("f4"))
    single = run(
        backend, MAP, features=image.astype("f4"), scales=np.array([1, 0.8, 0.5, 0.3], "f4")
    )
    for name in expected:
        np.testing.assert_allclose(made[name], expected[name], 2e-5, 2e-5, err_msg=name)
        np.testing.assert_array_equal(made[name], single[name])


@pytest.mark.parametrize("backend", PATHS)
def test_nearly_equal_patches_keep_their_digits(backend: str) -> None:
    """|P|^2 + |Q|^2 - 2 P.Q alone would lose what distinguishes these."""
    features = 1 + 1e-4 * np.random.default_rng(0).random((12, 12, 1))
    features[0, 0] = 0  # so that the range stays 0..1
    made = run(backend, MAP, features=features, scales=np.ones(1), patch=3, K=4)
    expected = run("numpy", MAP, features=features, scales=np.ones(1), patch=3, K=4)
    np.testing.assert_allclose(made["mean_saliency"], expected["mean_saliency"], 1e-9, 0)


REFUSED_MAPS: list[tuple[dict[str, Any], str]] = [
    ({"features": np.where(np.arange(126).reshape(9, 7, 2) == 50, np.nan, 0.5)}, "features"),
    ({"features": np.full((9, 7, 2), np.inf)}, "features"),
    ({"features": IMAGE[..., 0]}, "features"),
    ({"patch": 4}, "even"),
    ({"patch": 9}, "larger than the image"),
    ({"patch": 0}, "patch"),
    ({"K": 0}, "K"),
    ({"c": -1.0}, "option c"),
    ({"attended_fraction": 1.5}, "attended_fraction"),
    ({"foci_rule": "both"}, "foci_rule"),
    ({"scales": np.array([0.0])}, "scales"),
    ({"scales": np.array([-1.0])}, "scales"),
    ({"scales": np.array([1e6])}, "scales"),
    ({"scales": np.array([1.0, 1.001])}, "scales: two are the same"),
    ({"scales": np.array([0.3])}, "scales: at every one the image is smaller than the patch of 5"),
    ({"scales": np.array([np.nan])}, "scales"),
]


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(("change", "message"), REFUSED_MAPS)
def test_map_refuses(backend: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EXHIBIT.run("salient_map", backend=backend, **{"features": IMAGE, "patch": 5} | change)


# --- propagate_relevance ------------------------------------------------------------------------


def layer(kind: str, kernel: int = 0, stride: int = 1, padding: int = 0) -> dict[str, Any]:
    if kind == "maxpool":
        return {"type": kind, "kernel": kernel, "stride": stride}
    if kind == "conv":
        return {"type": kind, "kernel": kernel, "stride": stride, "padding": padding}
    return {"type": kind}


def weights(*shape: int, seed: int = 0, bias: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed + sum(shape))
    return {"weight": rng.standard_normal(shape), "bias": bias * rng.standard_normal(shape[0])}


def pixel_loops(net: dict[str, Any], **options: Any) -> dict[int, np.ndarray]:
    """(1)-(4) for one image, one number at a time: relevance before each layer."""
    eps, add = options.get("epsilon", 1e-9), options.get("unpool") == "add"
    stock = {"conv": iter(net["conv"]), "fc": iter(net["fc"])}
    steps, X = [], [net["x"][0]]
    for l in net["layers"]:
        w, x = next(stock[l["type"]]) if l["type"] in stock else None, X[-1]
        links = []  # (output place, input place, weight) for every connection
        if l["type"] == "conv":
            k, s, p = l["kernel"], l["stride"], l["padding"]
            side = (x.shape[1] + 2 * p - k) // s + 1
            for o, y, z in np.ndindex(len(w["weight"]), side, side):
                for c, i, j in np.ndindex(x.shape[0], k, k):
                    a, b = y * s + i - p, z * s + j - p
                    if 0 <= a < x.shape[1] and 0 <= b < x.shape[2]:
                        links.append(((o, y, z), (c, a, b), w["weight"][o, c, i, j]))
            out = np.zeros((len(w["weight"]), side, side)) + w["bias"][:, None, None]
        elif l["type"] == "fc":
            links = [((o,), (i,), w["weight"][o, i]) for o, i in np.ndindex(w["weight"].shape)]
            out = w["bias"].copy()
        elif l["type"] == "maxpool":
            k, s = l["kernel"], l["stride"]
            side = (x.shape[1] - k) // s + 1
            for c, y, z in np.ndindex(x.shape[0], side, side):
                places = [(c, y * s + i, z * s + j) for i, j in np.ndindex(k, k)]
                links.append(((c, y, z), max(places, key=lambda a: x[a]), 1.0))
            out = np.zeros((x.shape[0], side, side))
        else:
            out = np.maximum(x, 0) if l["type"] == "relu" else x.ravel()
        for o, i, v in links:
            out[o] += x[i] * v
        steps.append((l["type"], links, w))
        X.append(out)
    R = np.where(np.arange(len(X[-1])) == X[-1].argmax(), X[-1], 0)
    before = {}
    for N in reversed(range(len(steps))):
        kind, links, _ = steps[N]
        x, y = X[N], X[N + 1]
        if not links:
            R = R.reshape(x.shape)
        else:
            Z = y.copy()
            if kind == "fc":
                Z = np.zeros(len(y))
                for o, i, v in links:
                    Z[o] += x[i] * max(v, 0)
            if options.get("stabiliser") == "sign":
                S = R / np.where(Z < 0, Z - eps, Z + eps)
            else:
                S = R / (Z + eps)
            back = np.zeros_like(x)
            for o, i, v in links:
                v = max(v, 0) if kind == "fc" else v
                back[i] = S[o] if kind == "maxpool" and not add else back[i] + S[o] * v
            R = x * back
        before[N] = R
    return before


def network(**options: Any) -> dict[str, Any]:
    """A one-image network with a stride that needs output padding and pools that overlap."""
    rng = np.random.default_rng(options.pop("seed", 1))
    return {
        "x": rng.standard_normal((1, options.pop("channels", 3), 12, 12)),
        "conv": [weights(3, 3, 3, 3, bias=0.3), weights(4, 3, 2, 2, bias=0.3)],
        "fc": [weights(6, 64, bias=0.3), weights(3, 6, bias=0.3)],
        "layers": [
            layer("conv", 3, 1, 1), layer("relu"), layer("maxpool", 4, 2), layer("conv", 2, 1, 0),
            layer("relu"), layer("flatten"), layer("fc"), layer("relu"), layer("fc"),
        ],
    } | options  # fmt: skip


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"unpool": "add"},
        {"stabiliser": "sign", "epsilon": 0.05},
        {"epsilon": 0.05},
        {"stabiliser": "sign"},
    ],
)
def test_relevance_equals_plain_loops(backend: str, options: dict[str, Any]) -> None:
    net = network()
    made = run(backend, NETWORK, **net, **options)
    for N, value in pixel_loops(net, **options).items():
        np.testing.assert_allclose(
            made[f"relevance_before_layer{N}"][0], value, 1e-8, 1e-9, err_msg=str(N)
        )


@pytest.mark.parametrize("backend", PATHS)
def test_a_stride_that_leaves_pixels_over(backend: str) -> None:
    """7 pixels, kernel 3, stride 3: the last one is in no window and gets no relevance."""
    net = {
        "x": np.random.default_rng(0).standard_normal((1, 1, 7, 7)),
        "conv": [weights(2, 1, 3, 3)], "fc": [weights(3, 8, bias=1)],
        "layers": [layer("conv", 3, 3), layer("relu"), layer("flatten"), layer("fc")],
    }  # fmt: skip
    made = run(backend, NETWORK, **net)
    for N, value in pixel_loops(net).items():
        np.testing.assert_allclose(made[f"relevance_before_layer{N}"][0], value, 1e-9, 1e-10)
    assert not made["relevance_before_layer0"][0, 0, 6].any()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_paths_agree(backend: str, seed: int) -> None:
    """In float64, and in float32 on its terms; grey levels to one."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 26))
    kwargs = NETWORK.sample(
        n, seed, overlapping=bool(seed % 2), batch=1 + seed % 3, channels=1 + seed
    )
    expected = run("numpy", NETWORK, **kwargs)
    for dtype, bound in (("float64", 1e-9), ("float32", 2e-4)):
        made = run(backend, NETWORK, **as_dtype(kwargs, dtype))
        assert made.keys() == expected.keys()
        for name, value in expected.items():
            if name == "heatmap_uint8":
                assert np.abs(made[name].astype(int) - value).max() <= 1
                assert made[name].dtype == np.uint8
            else:
                scale = max(1.0, float(np.abs(value).max()))
                np.testing.assert_allclose(
                    made[name] / scale, value / scale, bound, bound, err_msg=name
                )
                assert value.dtype.kind != "f" or made[name].dtype == dtype


@pytest.mark.parametrize("backend", PATHS)
def test_plain_z_without_bias_is_input_times_gradient(backend: str) -> None:
    """A network of convolutions alone: the fully connected part as kernels of the whole image."""
    layers = [
        layer("conv", 3, 1, 1), layer("relu"), layer("maxpool", 2, 2), layer("conv", 4, 1, 0),
        layer("relu"), layer("conv", 1, 1, 0), layer("flatten"),
    ]  # fmt: skip
    conv = [weights(4, 2, 3, 3), weights(6, 4, 4, 4), weights(3, 6, 1, 1)]
    x = np.random.default_rng(3).standard_normal((2, 2, 8, 8))
    made = run(backend, NETWORK, x=x, conv=conv, layers=layers, epsilon=1e-15)
    leaf = torch.tensor(x, requires_grad=True)
    a, b, c = (torch.tensor(w["weight"]) for w in conv)
    hidden = torch.nn.functional.max_pool2d(torch.conv2d(leaf, a, padding=1).relu(), 2)
    logits = torch.conv2d(torch.conv2d(hidden, b).relu(), c).flatten(1)
    (gradient,) = torch.autograd.grad(logits.max(1).values.sum(), leaf)
    np.testing.assert_allclose(made["relevance_before_layer0"], x * gradient.numpy(), 1e-8, 1e-9)


@pytest.mark.parametrize("backend", PATHS)
def test_what_is_conserved(backend: str) -> None:
    net = network()
    made = run(backend, NETWORK, **net)
    total = {N: made[f"relevance_before_layer{N}"].sum() for N in range(9)}
    top = made["relevance_out"].sum()
    np.testing.assert_allclose([total[8], total[6], total[5]], top, 1e-6)  # the linear part
    assert abs(total[3] - total[4]) > 1e-3  # a bias takes its share
    assert abs(total[2] - total[3]) > 1e-3  # shared maxima lose theirs when windows write
    added = run(backend, NETWORK, **net, unpool="add")
    sums = [added[f"relevance_before_layer{N}"].sum() for N in (2, 3)]
    np.testing.assert_allclose(sums[0], sums[1], 1e-6)


@pytest.mark.parametrize("backend", PATHS)
def test_single_channel_without_convolutions_and_not_square(backend: str) -> None:
    x = np.random.default_rng(0).random((1, 1, 2, 5)) + 0.1
    net = {"x": x, "fc": [weights(3, 10, bias=0.1)], "layers": [layer("flatten"), layer("fc")]}
    made = run(backend, NETWORK, **net, compatible=False)
    np.testing.assert_allclose(made["relevance_before_layer0"].sum(), made["logits"].max(), 1e-6)
    assert made["heatmap_uint8"].shape == (1, 2, 5, 1)
    assert made["heatmap_uint8"].min() == 0
    assert made["heatmap_uint8"].max() >= 255 - (backend == "torch")  # it multiplies first
    conv = [weights(2, 1, 3, 3, bias=0.1)]
    net = {"x": x, "conv": conv, "fc": [weights(3, 6)], "layers": [
        layer("conv", 3, 2, 1), layer("relu"), layer("flatten"), layer("fc")]}  # fmt: skip
    wide = run(backend, NETWORK, **net, compatible=False)
    whole = run("numpy", NETWORK, **net, compatible=False)
    np.testing.assert_allclose(
        wide["relevance_before_layer0"], whole["relevance_before_layer0"], 1e-8, 1e-10
    )


def changed(**parts: Any) -> dict[str, Any]:
    return network() | parts


def relayered(at: int, entry: dict[str, Any]) -> dict[str, Any]:
    layers = network()["layers"]
    return changed(layers=[*layers[:at], entry, *layers[at + 1 :]])


REFUSED_NETWORKS: list[tuple[dict[str, Any], str]] = [
    (changed(x=np.full((1, 3, 12, 12), np.nan)), "x must be finite"),
    (changed(x=np.ones((1, 3, 12, 10))), "not square"),
    (changed(x=np.ones((1, 2, 12, 12))), "layer 0 .conv.: weight has shape"),
    (changed(x=np.zeros((1, 3, 12, 12)), conv=[{**w, "bias": 0 * w["bias"]} for w in network()["conv"]]),
     "constant"),
    (changed(conv=network()["conv"][:1]), "2 conv layers are named, but weights of 1"),
    (changed(fc=None), "2 fc layers are named"),
    (changed(fc=[weights(6, 65), weights(3, 6)]), "layer 6 .fc.: weight"),
    (changed(fc=[weights(6, 64) | {"bias": np.zeros(5)}, weights(3, 6)]), "layer 6 .fc.: bias"),
    (changed(fc=[weights(6, 64) | {"bias": np.full(6, np.nan)}, weights(3, 6)]), "fc.0..*finite"),
    (relayered(2, layer("maxpool", 5, 2)), "layer 2 .maxpool.: windows of 5 every 2 do not tile 12"),
    (relayered(2, layer("maxpool", 13, 1)), "do not tile"),
    (relayered(0, layer("conv", 5, 1, 1)), "layer 0 .conv.: weight has shape"),
    (relayered(0, layer("conv", 3, 0, 1)), "layer 0: stride"),
    (relayered(0, {"type": "conv"}), "layer 0: conv needs a kernel"),
    (relayered(1, {"type": "gelu"}), "layer 1: type must be one of"),
    (relayered(1, {"type": "relu", "slope": 1}), "layer 1: relu has no 'slope'"),
    (relayered(5, layer("relu")), "layer 6 .fc.: needs a row"),
    (relayered(2, layer("flatten")), "layer 3 .conv.: needs an image"),
    (changed(layers="conv relu"), "layers must be list"),
    (changed(layers=["conv"]), "layers must be"),
    (changed(fc=[], layers=network()["layers"][:5]), "not in one row of logits"),
    (changed(epsilon=0.0), "epsilon"),
    (changed(unpool="sum"), "unpool"),
    (changed(stabiliser="none"), "stabiliser"),
]  # fmt: skip


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize(("kwargs", "message"), REFUSED_NETWORKS)
def test_network_refuses(backend: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EXHIBIT.run("propagate_relevance", backend=backend, **kwargs)


def test_module_and_gradients_on_torch() -> None:
    features = torch.rand(9, 8, 2, dtype=torch.float64, requires_grad=True)
    made = EXHIBIT.operation("salient_map").module(patch=3, K=4)(features=features)
    made.sr_map.sum().backward()
    assert features.grad is not None
    assert bool(features.grad.isfinite().all())
    flat = torch.zeros(9, 8, 1, dtype=torch.float64)
    flat[4, 4] = 1  # most patches are equal: their distance is 0, where a root has no gradient
    flat.requires_grad_()
    EXHIBIT.run("salient_map", backend="torch", features=flat, patch=3).sr_map.sum().backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())
