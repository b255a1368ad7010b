"""MovieLens in RecBole's atomic format: a header of typed columns, TAB-separated rows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from attnlab.datasets.files import FormatError, locate, read_lines

COLUMNS = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")


class Ratings(NamedTuple):
    """One row a rating, in order of time; users and items numbered as published (from 1)."""

    user: Int[np.ndarray, "n"]
    item: Int[np.ndarray, "n"]
    rating: Float[np.ndarray, "n"]
    time: Float[np.ndarray, "n"]  # seconds since 1970

    def histories(self) -> dict[int, Int[np.ndarray, "length"]]:
        """The items of each user from first to last."""
        return {int(u): self.item[self.user == u] for u in np.unique(self.user)}


def movielens(path: str | Path | None = None) -> Ratings:
    """MovieLens 100k, `.inter` file with the columns COLUMNS."""
    file = locate(path, "movielens", "ml-100k.inter")
    lines = read_lines(file)
    if not lines or tuple(lines[0].split("\t")) != COLUMNS:
        expected = "the header " + " TAB ".join(COLUMNS)
        raise FormatError(file, 1, expected, lines[0] if lines else "")
    rows = []
    for place, line in enumerate(lines[1:], start=2):
        try:
            user, item, rating, time = line.split("\t")
            rows.append((int(user), int(item), float(rating), float(time)))
        except ValueError as error:
            raise FormatError(file, place, "four numbers between TABs", line) from error
    table = np.array(rows, dtype=float).reshape(-1, 4)
    table = table[np.argsort(table[:, 3], kind="stable")]
    return Ratings(table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2], table[:, 3])
