"""What the model says of a text some of whose tokens are gone.

"Gone" has three meanings, and which is chosen changes how methods rank:

    pad     the token's embedding becomes the padding token's; the place stays
    mask    the model's mask token stands there
    delete  the text is shorter; what follows moves up
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from attnlab.contract import InputError, suggest
from attnlab.explain.problem import TOKENS, evaluating
from attnlab.models.classifier import Classifier, Encoded

Replacement = Literal["pad", "mask", "delete"]
Keep = Bool[np.ndarray, "variants n"]


def outcomes(
    model: Classifier,
    texts: Sequence[Encoded],
    keeps: Sequence[Keep],
    replacement: Replacement = "pad",
) -> list[Float[np.ndarray, "variants classes"]]:
    """Class probabilities of every text's variants, in which only tokens inside `keep` are left.

    Special tokens always stay. Equal variants of a text run once, variants of equal length in one
    batch. A text of which nothing is left is read as one padding token. InputError for an unknown
    replacement, or "mask" where the model has no mask token.
    """
    check(model, replacement)
    filler = {"pad": model.pad_id, "mask": model.mask_id, "delete": None}[replacement]
    waiting: dict[int, list[tuple[int, int, np.ndarray]]] = defaultdict(list)
    found, inverses = [], []
    for i, (text, keep) in enumerate(zip(texts, keeps, strict=True)):
        distinct, inverse = np.unique(keep | text.special, axis=0, return_inverse=True)
        for j, row in enumerate(distinct):
            ids = _without(text.ids, row, filler)
            if not len(ids):
                ids = np.array([model.pad_id])
            waiting[len(ids)].append((i, j, ids))
        found.append(np.empty((len(distinct), len(model.labels))))
        inverses.append(inverse.reshape(-1))
    with evaluating(model), torch.no_grad():
        for n, rows in waiting.items():
            step = max(1, TOKENS // n)
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                stacked = torch.as_tensor(np.stack([r for _, _, r in part]))
                mask = torch.ones_like(stacked, dtype=torch.bool)
                probabilities = model(model.embed(stacked, mask), mask).double().softmax(-1)
                for (i, j, _), row in zip(part, probabilities.numpy()):
                    found[i][j] = row
    return [f[inverse] for f, inverse in zip(found, inverses)]


def check(model: Classifier, replacement: str) -> None:
    """InputError for an unknown replacement, or "mask" where the model has no mask token."""
    known = get_args(Replacement)
    if replacement not in known:
        raise InputError(
            f"replacement {replacement!r} is none of {', '.join(known)}{suggest(replacement, known)}"
        )
    if replacement == "mask" and model.mask_id is None:
        raise InputError("this model has no mask token: take the replacement pad or delete")


def _without(
    ids: Int[np.ndarray, "n"], keep: Bool[np.ndarray, "n"], filler: int | None
) -> Int[np.ndarray, "kept"]:
    return ids[keep] if filler is None else np.where(keep, ids, filler)
