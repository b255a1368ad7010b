"""Dense and score-modified attention of the CPU kernels against PyTorch, on this machine.

    python benchmarks/attention_vs_torch.py                      # all variants
    python benchmarks/attention_vs_torch.py --variant full causal --seq-len 1024 4096 16384
    python benchmarks/attention_vs_torch.py --variant bias relative --seq-len 4096 --json out.json

float32, batch 1; `--heads`, `--dim` and `--threads` as given. One round times every contender once,
in turn, so that a busy moment of the machine strikes all of them; the figures are medians over the
rounds after a first that warms up, with the quartiles of the ratios of single rounds. Where a
variant has several PyTorch formulations, the ratio is against the fastest of them. Before it times a
point the script compares the outputs; it exits with 1 if they differ.

    full, causal   torch: scaled_dot_product_attention
    bias           scores + bias (heads, n, n). torch: scaled_dot_product_attention(attn_mask=bias),
                   flex_attention compiled with a score_mod where it compiles, einsum and softmax
    causal_bias    the same under a causal mask, the usual one (ALiBi, T5's decoder). torch: the bias with
                   -inf above the diagonal, made beforehand, as the attn_mask; flex_attention with a
                   causal block mask
    relative       causal relative positions (Music Transformer). torch: the skewed product as the
                   attn_mask of scaled_dot_product_attention; the same with einsum and softmax
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from attnlab.kernels.cpu.flash import flash_attention
from attnlab.kernels.cpu.relative import relative_attention
from attnlab.kernels.cpu.runtime import set_threads

VARIANTS = ("full", "causal", "bias", "causal_bias", "relative")
ROUNDS = {1024: 15, 4096: 5}  # up to this length; beyond, LONG_ROUNDS
LONG_ROUNDS = 3

Contender = Callable[[], object]


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Softmax attention written out, scores scaled and biased in place."""
    scores = torch.einsum("bhid,bhjd->bhij", q, k).mul_(q.shape[-1] ** -0.5).add_(bias)
    return torch.softmax(scores, -1) @ v


def skewed(q: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """scale q . e(i - j) at [i, j], -inf for j > i; table row n-1-d is distance d."""
    n, dim = q.shape[-2:]
    products = (q * dim**-0.5) @ table.mT
    bias = pad(products, (1, 0)).flatten(-2)[..., n:].view(products.shape)
    return bias.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)


def flex(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, causal: bool
) -> Contender | None:
    """FlexAttention compiled with the bias as a score_mod, or None where it does not compile."""
    try:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        n = q.shape[2]
        visible = create_block_mask(lambda b, h, i, j: i >= j, None, None, n, n, device="cpu")
        compiled = torch.compile(flex_attention)

        def run() -> torch.Tensor:
            return compiled(
                q,
                k,
                v,
                score_mod=lambda s, b, h, i, j: s + bias[h, i, j],
                block_mask=visible if causal else None,
            )

        run()
    except Exception as error:  # a compiler that is missing or fails is a fact to report
        print(f"  flex_attention: not available here ({type(error).__name__})", file=sys.stderr)
        return None
    return run


def contenders(
    variant: str, n: int, heads: int, dim: int, with_flex: bool
) -> tuple[Contender, dict[str, Contender]]:
    """Our call, and PyTorch's by name, on the same arrays."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, heads, n, dim)).astype(np.float32) for _ in range(3))
    tq, tk, tv = (torch.from_numpy(x) for x in (q, k, v))
    if variant in ("full", "causal"):
        causal = variant == "causal"
        return (
            lambda: flash_attention(q, k, v, causal=causal).out,
            {"sdpa": lambda: scaled_dot_product_attention(tq, tk, tv, is_causal=causal)},
        )
    if variant in ("bias", "causal_bias"):
        causal = variant == "causal_bias"
        bias = rng.normal(size=(heads, n, n)).astype(np.float32)
        tbias = torch.from_numpy(bias)
        if causal:
            tbias = tbias.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
        theirs: dict[str, Contender] = {
            "sdpa": lambda: scaled_dot_product_attention(tq, tk, tv, attn_mask=tbias[None]),
            "einsum": lambda: plain(tq, tk, tv, tbias),
        }
        compiled = flex(tq, tk, tv, torch.from_numpy(bias), causal) if with_flex else None
        if compiled is not None:
            theirs["flex"] = compiled
        return lambda: flash_attention(q, k, v, bias=bias[None], causal=causal).out, theirs
    table = rng.normal(size=(heads, n, dim)).astype(np.float32)
    ttable = torch.from_numpy(table)
    return (
        lambda: relative_attention(q, k, v, table, first_offset=1 - n, causal=True).out,
        {
            "sdpa": lambda: scaled_dot_product_attention(tq, tk, tv, attn_mask=skewed(tq, ttable)),
            "einsum": lambda: plain(tq, tk, tv, skewed(tq, ttable)),
        },
    )


def measure(ours: Contender, theirs: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of every contender in every round, interleaved."""
    samples: dict[str, list[float]] = {name: [] for name in ("ours", *theirs)}
    for _ in range(rounds):
        for name, call in (("ours", ours), *theirs.items()):
            begin = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - begin)
    return samples


def summary(samples: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(seconds) for name, seconds in samples.items()}
    best = min((name for name in medians if name != "ours"), key=medians.__getitem__)
    single = sorted(t / o for t, o in zip(samples[best], samples["ours"]))
    return {
        "milliseconds": {name: 1e3 * seconds for name, seconds in medians.items()},
        "best_torch": best,
        "ratio": medians[best] / medians["ours"],
        "quartiles": [float(x) for x in np.quantile(single, [0.25, 0.75])],
        "samples": samples,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument(
        "--seq-len", nargs="+", type=int, help="default 1024 4096 16384; 4096 where n x n"
    )
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, help="timed rounds a point")
    parser.add_argument("--no-flex", action="store_true", help="leave flex_attention out")
    parser.add_argument("--json", metavar="FILE", help="also write results and raw samples")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    set_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    results: list[dict[str, Any]] = []
    failed = False
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, float32, {arguments.heads} heads, "
        f"dim {arguments.dim}, load average at start {load:.1f}"
    )
    for variant in arguments.variant:
        ratios = []
        for n in arguments.seq_len or ([1024, 4096, 16384] if variant in VARIANTS[:2] else [4096]):
            ours, theirs = contenders(
                variant, n, arguments.heads, arguments.dim, not arguments.no_flex
            )
            expected = np.asarray(next(iter(theirs.values()))())
            error = float(np.max(np.abs(np.asarray(ours()) - expected)))  # compiles, warms up
            if not error < 1e-4:
                print(f"{variant:9} n {n}: outputs differ by {error:.1e}", file=sys.stderr)
                failed = True
                continue
            rounds = arguments.rounds or next(
                (count for size, count in ROUNDS.items() if n <= size), LONG_ROUNDS
            )
            result = summary(measure(ours, theirs, rounds))
            ratios.append(result["ratio"])
            results.append({"variant": variant, "n": n, "max_error": error, **result})
            times = "  ".join(f"{name} {ms:.1f} ms" for name, ms in result["milliseconds"].items())
            low, high = result["quartiles"]
            print(
                f"{variant:9} n {n:6}  {times}  ratio {result['ratio']:.2f} ({low:.2f} to {high:.2f})",
                flush=True,
            )
        if ratios:
            print(f"{variant:9} geometric mean {statistics.geometric_mean(ratios):.2f}")
    dense = [r["ratio"] for r in results if r["variant"] in ("full", "causal")]
    if dense:
        print(f"full and causal: geometric mean {statistics.geometric_mean(dense):.2f}")
    if arguments.json:
        settings = {k: v for k, v in vars(arguments).items() if k != "json"}
        with open(arguments.json, "w") as file:
            json.dump({"settings": settings, "load": load, "results": results}, file, indent=1)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
