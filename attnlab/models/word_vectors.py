"""Vectors of common words, so that a model trained on few texts knows which words are alike.

A word's vector is the mean of its WordPiece vectors in all-MiniLM-L6-v2, reduced to the principal
components of them all. data/classifiers/vectors.npz ships them; the extra `pretrained` makes them anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from attnlab.paths import data_dir


class WordVectors(NamedTuple):
    """words[i] has the vector table[i]; float32, centred, of unit variance over all entries."""

    words: list[str]
    table: Float[np.ndarray, "words width"]


def load(path: Path | None = None) -> WordVectors:
    """The shipped vectors."""
    with np.load(path or data_dir() / "classifiers" / "vectors.npz", allow_pickle=False) as file:
        return WordVectors(str(file["words"]).split("\n"), file["table"].astype(np.float32))


def save(vectors: WordVectors, path: Path) -> None:
    """Write vectors as float16."""
    words = np.array("\n".join(vectors.words))
    np.savez_compressed(path, words=words, table=vectors.table.astype(np.float16))


def make(words: Iterable[str], common: int = 9000, width: int = 48) -> WordVectors:
    """Vectors of `words` and of the encoder's most common whole words, by the pretrained encoder.

    ModuleNotFoundError without the extra `pretrained`.
    """
    from attnlab.models.bert import pretrained_folder
    from attnlab.models.bert_numpy import read_weights
    from attnlab.models.wordpiece import WordPiece

    folder = pretrained_folder()
    pieces = WordPiece.load(folder)
    table = read_weights(folder)["embeddings.word_embeddings.weight"]  # (pieces, 384)
    whole = [w for w in pieces.vocabulary if w.isascii() and w.isalpha()]  # by frequency
    chosen = list(dict.fromkeys([*words, *whole[:common]]))
    # A contraction's parts mean what they are short for.
    long = {"n't": "not", "'s": "is", "'re": "are", "'ve": "have", "'ll": "will", "'m": "am"}
    ids = [pieces.encode(long.get(word, word)).ids[1:-1] for word in chosen]
    vectors = np.stack([table[i].mean(0) for i in ids])
    vectors -= vectors.mean(0)
    _, _, axes = np.linalg.svd(vectors, full_matrices=False)
    reduced = vectors @ axes[:width].T
    return WordVectors(chosen, (reduced / reduced.std()).astype(np.float32))
