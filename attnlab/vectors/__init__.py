"""Test vectors: numbers from the authors' own code, held against every path.

NAME.npz holds arrays CASE/in/X, CASE/param/X, CASE/out/X and CASE/grad/X; NAME.json beside it
says which code made them and describes every case (operation, options, loss, compare, rtol,
atol). `read` opens a pair and refuses anything odd with one clear line; `hold` runs one case on
one path and compares; `run` holds a whole file. Files come from anywhere: pickles are refused and
loss formulas are evaluated from a whitelisted syntax tree.
"""

from attnlab.vectors.case import Case, VectorError
from attnlab.vectors.comparison import mismatch, settle
from attnlab.vectors.files import read
from attnlab.vectors.paths import Held, backends_for, hold, not_run, run

__all__ = [
    "Case",
    "Held",
    "VectorError",
    "backends_for",
    "hold",
    "mismatch",
    "not_run",
    "read",
    "run",
    "settle",
]
