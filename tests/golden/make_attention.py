"""Makes attention.npz and attention.json: literal loops over the definition, in Python floats.

    python tests/golden/make_attention.py

The gradients come from the derivative of the softmax written out by hand, so that no path of the
exhibit and no automatic differentiation takes part.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np


def attend(q, k, v, mask, bias, causal, scale, cot):
    """out, weights and d sum(out * cot) / d (q, k, v, bias) by loops."""
    B, H, n, dim = q.shape
    G, m = k.shape[1], k.shape[2]
    out = np.zeros((B, H, n, v.shape[3]))
    weights = np.zeros((B, H, n, m))
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    dbias = None if bias is None else np.zeros(bias.shape)
    for b in range(B):
        for h in range(H):
            g = h // (H // G)
            for i in range(n):
                score = {}
                for j in range(m):
                    hidden = causal and j > i + m - n
                    if mask is not None:
                        hidden = (
                            hidden
                            or not mask[b % mask.shape[0], h % mask.shape[1], i % mask.shape[2], j]
                        )
                    if hidden:
                        continue
                    s = math.fsum(q[b, h, i, c] * k[b, g, j, c] for c in range(dim)) * scale
                    if bias is not None:
                        s += bias[b % bias.shape[0], h % bias.shape[1], i, j]
                    score[j] = s
                if not score:
                    continue
                top = max(score.values())
                total = math.fsum(math.exp(s - top) for s in score.values())
                for j, s in score.items():
                    weights[b, h, i, j] = math.exp(s - top) / total
                    out[b, h, i] += weights[b, h, i, j] * v[b, g, j]
                # dS_ij = A_ij (dA_ij - sum_j A_ij dA_ij), dA_ij = cot_i . v_j
                dA = {j: float(cot[b, h, i] @ v[b, g, j]) for j in score}
                mean = math.fsum(weights[b, h, i, j] * dA[j] for j in score)
                for j in score:
                    A = weights[b, h, i, j]
                    dS = A * (dA[j] - mean)
                    dv[b, g, j] += A * cot[b, h, i]
                    dq[b, h, i] += dS * scale * k[b, g, j]
                    dk[b, g, j] += dS * scale * q[b, h, i]
                    if dbias is not None:
                        dbias[b % bias.shape[0], h % bias.shape[1], i, j] += dS
    return out, weights, {"q": dq, "k": dk, "v": dv} | ({} if dbias is None else {"bias": dbias})


def main() -> None:
    rng = np.random.default_rng(20170612)
    cases = {
        "full": dict(B=2, H=2, G=2, n=7, m=7, dim=4, dv=4),
        "causal": dict(B=1, H=3, G=3, n=9, m=9, dim=5, dv=3, causal=True),
        "causal_cached": dict(B=1, H=2, G=2, n=3, m=8, dim=4, dv=4, causal=True),
        "grouped": dict(B=2, H=4, G=2, n=5, m=5, dim=4, dv=4, causal=True, scale=0.3),
        "masked": dict(B=2, H=2, G=2, n=6, m=4, dim=4, dv=2, mask=(2, 1, 6, 4)),
        "padding": dict(B=3, H=2, G=1, n=5, m=5, dim=4, dv=4, mask=(3, 1, 1, 5)),
        "biased": dict(B=2, H=2, G=2, n=6, m=6, dim=4, dv=4, bias=(1, 2, 6, 6), causal=True),
        "single": dict(B=1, H=1, G=1, n=1, m=1, dim=1, dv=1),
        "sharp": dict(B=1, H=1, G=1, n=8, m=8, dim=4, dv=4, scale=40.0),
    }
    notes = {
        "causal_cached": "fewer queries than keys: query i stands at position i + keys - n",
        "masked": "query 2 of batch element 0 sees nothing: output 0, gradient 0",
        "sharp": "scores of a hundred and more: the softmax must subtract its maximum",
    }
    arrays, described = {}, {}
    for name, c in cases.items():
        q = rng.standard_normal((c["B"], c["H"], c["n"], c["dim"]))
        k = rng.standard_normal((c["B"], c["G"], c["m"], c["dim"]))
        v = rng.standard_normal((c["B"], c["G"], c["m"], c["dv"]))
        cot = rng.standard_normal((c["B"], c["H"], c["n"], c["dv"]))
        mask = rng.random(c["mask"]) < 0.6 if "mask" in c else None
        if name == "masked":
            mask[0, :, 2] = False
        if name == "padding":
            mask[..., 0] = True
        bias = rng.standard_normal(c["bias"]) if "bias" in c else None
        scale = c.get("scale", c["dim"] ** -0.5)
        out, weights, grads = attend(q, k, v, mask, bias, c.get("causal", False), scale, cot)
        given = {"q": q, "k": k, "v": v, "cot": cot, "mask": mask, "bias": bias}
        arrays |= {f"{name}/in/{a}": x for a, x in given.items() if x is not None}
        arrays |= {f"{name}/out/out": out, f"{name}/out/weights": weights}
        arrays |= {f"{name}/grad/{a}": x for a, x in grads.items()}
        described[name] = {
            "operation": "attend",
            "options": {"causal": c.get("causal", False), "scale": scale},
            "loss": {"cotangent": {"out": "cot"}},
            "rtol": 1e-10,
            "atol": 1e-12,
            "note": notes.get(name, ""),
        }
    here = Path(__file__).parent
    np.savez_compressed(here / "attention.npz", **arrays)
    text = {
        "source": "this project",
        "callable": "tests/golden/make_attention.py:attend",
        "cases": described,
    }
    (here / "attention.json").write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
