"""Byte-pair encoding over bytes: any text can be read, common words become single tokens.

Training starts from the 256 bytes and, as often as asked, merges the pair of neighbouring tokens
that is most frequent within words. Source: Sennrich, Haddow & Birch, "Neural machine translation of
rare words with subword units", ACL 2016; on bytes as in Radford et al., "Language models are
unsupervised multitask learners", 2019.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

# A merge never crosses these pieces: a word or number with the one space before it, punctuation,
# newlines, indentation. Every character belongs to exactly one piece, so decode(encode(x)) == x.
PIECES = re.compile(r" ?[^\W\d_]+| ?\d| ?[^\w\s]+| ?_+|\n+|[^\S\n]+(?=[^\S\n])|[^\S\n]", re.UNICODE)


class Tokenizer:
    """Encodes text to token ids and back: ids 0–255 are the bytes, 256 + i is the i-th merge."""

    def __init__(self, merges: Iterable[tuple[int, int]]) -> None:
        self.merges = [(int(a), int(b)) for a, b in merges]
        self.rank = {pair: i for i, pair in enumerate(self.merges)}
        self.pieces = [bytes([i]) for i in range(256)]
        for a, b in self.merges:
            if max(a, b) >= len(self.pieces) or min(a, b) < 0:
                raise ValueError(f"merge ({a}, {b}) refers to a token that is not yet defined")
            self.pieces.append(self.pieces[a] + self.pieces[b])
        self._seen: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return [i for piece in PIECES.findall(text) for i in self._encode_piece(piece)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; bytes that are no UTF-8 (half a character) become U+FFFD."""
        return b"".join(self.pieces[int(i)] for i in ids).decode("utf-8", errors="replace")

    def label(self, id: int) -> str:
        """A token as a short label for a plot's axis: spaces and newlines made visible."""
        text = self.pieces[int(id)].decode("utf-8", errors="backslashreplace")
        return text.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")

    def lengths(self) -> list[int]:
        """Bytes in each token of the vocabulary."""
        return [len(piece) for piece in self.pieces]

    def _encode_piece(self, piece: str) -> list[int]:
        if piece not in self._seen:
            ids = list(piece.encode("utf-8"))
            while len(ids) > 1:  # the earliest learned merge goes first
                rank, pair = min((self.rank.get(p, len(self.rank)), p) for p in pairwise(ids))
                if rank == len(self.rank):
                    break
                ids = merged(ids, pair, 256 + rank)
            self._seen[piece] = ids
        return self._seen[piece]

    @classmethod
    def train(cls, text: str, merges: int) -> Tokenizer:
        """Learn `merges` merges from a text; ties go to the pair with the smaller ids."""
        counted = Counter(PIECES.findall(text))
        words = [list(word.encode("utf-8")) for word in counted]
        times = list(counted.values())
        pairs: Counter[tuple[int, int]] = Counter()
        where: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        for w, ids in enumerate(words):
            for pair in pairwise(ids):
                pairs[pair] += times[w]
                where[pair].add(w)

        learned: list[tuple[int, int]] = []
        while len(learned) < merges and pairs:
            best = max(pairs, key=lambda pair: (pairs[pair], -pair[0], -pair[1]))
            if pairs[best] < 2:  # a pair seen once is no regularity
                break
            for w in where.pop(best):  # only words that hold the pair change
                for pair in pairwise(words[w]):
                    pairs[pair] -= times[w]
                words[w] = merged(words[w], best, 256 + len(learned))
                for pair in pairwise(words[w]):
                    pairs[pair] += times[w]
                    where[pair].add(w)
            del pairs[best]
            learned.append(best)
        return cls(learned)

    def save(self, path: Path) -> None:
        """Write the merges as JSON."""
        rows = ",\n".join(json.dumps(pair) for pair in self.merges)
        path.write_text(f'{{"kind": "byte-pair", "merges": [\n{rows}\n]}}\n', encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a vocabulary written by `save`; ValueError names the file if it is none."""
        try:
            return cls(json.loads(path.read_text(encoding="utf-8"))["merges"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a byte-pair vocabulary ({error})") from error


def merged(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """`ids` with every occurrence of `pair`, from the left, replaced by `new`."""
    out: list[int] = []
    i = 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out
