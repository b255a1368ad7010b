"""The offline search for heads worth calibrating (Yu et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float

Head = tuple[int, int]  # (layer, head)
Edit = Callable[[int, Float[np.ndarray, "heads n n"]], Float[np.ndarray, "heads n n"]]


class EditableModel(Protocol):
    """A language model whose softmax maps a caller may change."""

    n_layers: int
    n_heads: int

    def answer_logits(self, prompt: str, edit: Edit) -> Float[np.ndarray, "vocabulary"]:
        """Logits at the last position; `edit(layer, probs)` is applied to each layer's map."""


def candidates(n_layers: int, n_heads: int) -> list[Head]:
    """The heads the paper searches: layers 0, 1 and the last are never edited."""
    return [(layer, head) for layer in range(2, n_layers - 1) for head in range(n_heads)]


def search_heads(accuracy: Callable[[list[Head]], float], heads: Sequence[Head]) -> list[Head]:
    """Heads whose calibration alone raises accuracy above that of the untouched model.

    accuracy(heads) evaluates the model on the calibration set with those heads calibrated; it is
    called once with none and once for each candidate.
    """
    untouched = accuracy([])
    return [head for head in heads if accuracy([head]) > untouched]
