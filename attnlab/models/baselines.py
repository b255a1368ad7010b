"""What simpler models pay for a held-out text, in bits per byte: yardsticks of the model's card."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections import Counter
from collections.abc import Callable
from math import log2


def baselines(train: str, validation: str) -> dict[str, float]:
    """Byte n-grams and compressors that know the training text; bits per byte of the other."""
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "zlib (window 32 kB)": lambda data: zlib.compress(data, 9),
        "bz2": bz2.compress,
        "lzma": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    }
    known, new = train.encode(), validation.encode()
    names = {0: "unigram", 1: "bigram", 4: "5-gram"}
    scores = {f"byte {name}": ngram(known, new, order) for order, name in names.items()}
    for name, compress in compressors.items():
        scores[name] = 8 * (len(compress(known + new)) - len(compress(known))) / len(new)
    return scores


def ngram(train: bytes, validation: bytes, order: int) -> float:
    """Bits per byte with `order` bytes of context, interpolated with all shorter ones.

    p_o(b | h) = (count(h b) + kinds(h) p_{o-1}(b)) / (count(h) + kinds(h)), kinds(h) being how many
    different bytes followed h. Source: Witten & Bell, "The zero-frequency problem", 1991.
    """
    seen: Counter[bytes] = Counter()
    for o in range(order + 1):
        seen.update(train[i : i + o + 1] for i in range(len(train) - o))
    total: Counter[bytes] = Counter()
    kinds: Counter[bytes] = Counter()
    for gram, times in seen.items():
        total[gram[:-1]] += times
        kinds[gram[:-1]] += 1
    bits = 0.0
    for i in range(order, len(validation)):
        p = 1 / 256
        for o in range(order + 1):
            context = validation[i - o : i]
            if total[context]:
                gram = validation[i - o : i + 1]
                p = (seen[gram] + kinds[context] * p) / (total[context] + kinds[context])
        bits -= log2(p)
    return bits / (len(validation) - order)
