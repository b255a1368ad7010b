"""Counting n-grams in an FM-index on the cpu path: microseconds a token, and that the corpus' size
does not matter.

    python benchmarks/count_ngrams.py

Corpora of 10^4, 10^5 and 10^6 tokens (a Zipf-like draw over 30 000 words), 2000 n-grams of 1 to 10
tokens that occur in them, the index prepared. Limit: under 20 µs a token at 10^6, and a time exponent
in the size of the corpus under 0.25 (a scan's is 1).
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import figures
import numpy as np

SIZES = (10**4, 10**5, 10**6)
GRAMS, LONGEST, WORDS = 2000, 10, 30_000
DOCUMENT = 100  # tokens


def corpus(tokens: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Documents of DOCUMENT tokens, the last of each eos (2), and n-grams that occur in them."""
    words = 3 + np.minimum(rng.zipf(1.3, tokens) - 1, WORDS - 1)
    words[DOCUMENT - 1 :: DOCUMENT] = 2
    words[-1] = 2
    bounds = np.unique(np.append(np.arange(0, tokens, DOCUMENT), tokens))
    lengths = rng.integers(1, LONGEST + 1, GRAMS)
    document = rng.integers(0, len(bounds) - 1, GRAMS)
    start = bounds[document] + rng.integers(0, DOCUMENT - 1 - LONGEST, GRAMS)
    grams = [words[s : s + m] for s, m in zip(start, lengths)]
    return {
        "doc_tokens": words.astype(np.int64),
        "doc_offsets": bounds.astype(np.int64),
        "ngram_tokens": np.concatenate(grams).astype(np.int64),
        "ngram_offsets": np.append(0, np.cumsum(lengths)).astype(np.int64),
    }


def main() -> int:
    asked = figures.parser(__doc__).parse_args()
    from attnlab import registry
    from attnlab.bench.fit import exponent
    from attnlab.bench.machine import pin_threads
    from attnlab.bench.timing import once, time_calls

    import numba  # noqa: F401  isort: skip -- loaded before threads are pinned

    table = figures.start("seal count_ngrams, cpu path", asked.threads)
    seal = registry.find("seal")
    op = seal.operation("count_ngrams")
    with pin_threads(asked.threads):
        calls: dict[int, Any] = {}
        tokens: dict[int, int] = {}
        for size in SIZES:
            drawn = corpus(size, np.random.default_rng(size))
            grams = {k: drawn[k] for k in ("ngram_tokens", "ngram_offsets")}
            built, index = once(partial(prepared, seal, op, drawn))
            print(f"    index of {size} tokens: {built:.2f} s")
            function = seal.function("count_ngrams", "numba")
            counts = np.asarray(function(**index, **grams).counts)
            assert (counts > 0).all(), "n-grams taken from the corpus must be found in it"
            calls[size] = partial(function, **index, **grams)
            tokens[size] = grams["ngram_tokens"].size
        timed = time_calls(calls, repeat=9)
    each = {size: t.median / tokens[size] * 1e6 for size, t in timed.items()}
    for size, micros in each.items():
        print(f"    {size:>8} tokens: {micros:.3f} µs a token of the n-grams")
    last = each[SIZES[-1]]
    table.add("10^6 tokens: µs a token of the n-gram", last, "< 20", last < 20)
    slope = exponent(SIZES, [each[s] for s in SIZES]).slope
    table.add("time exponent in the corpus' size", slope, "< 0.25", slope < 0.25)
    return table.end(asked.json)


def prepared(seal: Any, op: Any, drawn: dict[str, Any]) -> dict[str, Any]:
    """The arrays of the index that count_ngrams takes, from the operation that builds it."""
    builder = seal.operation(op.prepare or "query_index")
    given = {k: v for k, v in drawn.items() if k in {a.keyword for a in builder.arguments}}
    backend = "numba" if "numba" in builder.paths else "numpy"
    made = seal.run(builder.name, backend=backend, want="all", **given)._asdict()
    return {a.keyword: made[a.keyword] for a in op.arguments if made.get(a.keyword) is not None}


if __name__ == "__main__":
    sys.exit(main())
