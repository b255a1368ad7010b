"""Lessons: percent-format scripts that run, are read in the terminal, and become a page or a notebook.

How to write one
================
A lesson is `lessons/NAME.py`. `# %% [markdown]` opens prose (every line a comment), `# %%` opens code;
`# %% tags=["hide-input"]` is code that draws and need not be read. It must run as plain Python too.
The header may add `# exhibit: NAME` where the exhibit is not called like the file.
The arc: problem → idea with its equation (a fenced block of plain Unicode) → the reference, read together
→ predict → outputs compared across the paths → cost as n grows, with the fitted exponent → claims
re-created → where it fails → your turn. At most 60 s on 2 cores, 10 s with `--quick`.

    # ---
    # minutes: 4
    # ---
    # %% [markdown]
    # # Landmark attention: a signpost after every block
    # Reading all n keys for each query costs n². What if each block had a *landmark*?
    #
    # ```math
    # wⱼ = p(landmark of j's block) · softmax_block(s)ⱼ
    # ```
    # %%
    import numpy as np
    from attnlab import lesson, registry
    from attnlab.lesson import plots              # matplotlib, in colours all can tell apart

    landmark = registry.find("landmark")
    lesson.source("landmark/reference.py")        # a path, a dotted name, or a function
    # %%
    lesson.predict("Which block gets the weight?", ["the nearest", "the best landmark's"], 1,
                   because="landmarks and own tokens share one softmax.")
    # %%
    inputs = landmark.operation().sample(64, seed=lesson.seed(), dtype="float32")
    seen = landmark.run("attend", want=["weights"], **inputs)
    lesson.figure(plots.heat(seen.weights[0, 0], title="who reads whom"),
                  caption="Each row is a query. Past blocks light up as a whole, or not at all.",
                  alt="Lower-triangular heat map with bright blocks of eight columns")
    # %%
    lesson.compare("landmark", n=128)             # every path against the float64 reference
    lesson.cost("landmark", [256, 512, 1024], claimed=2.0)
    # %%
    def worst(weights): return float(np.abs(weights.sum(-1) - 1).max())
    error, half = worst(seen.weights), worst(seen.weights[..., ::2])
    lesson.claim("2", "All keys together: row sums are 1", expected="below 1e-6", seen=error,
                 holds=error < 1e-6, source="sheet",
                 control={"statement": "every other key alone", "seen": half, "failed": half > 1e-6})
    lesson.untried("1", "LLaMA-7B reads 32k tokens", reason="needs a 7B model", source="paper")
    lesson.exercise("landmark", "Write the grouped softmax yourself.")

Settings: `quick()`, `seed()`, `rng()`, `text()` (the reader's --text file or None), `train()`;
`track(items, label)` and `progress(label)` show how far a long loop is. Pieces: `figure`,
`table(rows, columns, title)`, `show(renderable)`, `predict`, `claim`, `untried`, `exercise`, `source`,
`compare`, `cost`. Terminal pictures, for `show` or as `figure(…, terminal=…)`: `heat`, `lines`, `bars`;
the same names in `plots` return matplotlib figures.
Code of `predict`, `source`, `untried` and `exercise` is not shown (it would give the answer away);
put `predict` in a cell of its own, before the cell with the result.
What a cell prints is kept, and so is the value of its last expression (end with `;` to drop it).

Claims are honest: `expected` is what was published, with `source` "paper", "sheet" (our own earlier run) or
"unverified" (never shown as the paper's); `holds` is computed from what was measured; a control is something
that must fail by the same measurement. Try it: `attnlab run lesson lessons/NAME.py --quick`, then
`--html page.html`, `--json -`, and 60 columns wide.
"""

from __future__ import annotations

import os

# Lessons draw to files, never to a window; a notebook sets its own backend before this.
os.environ.setdefault("MPLBACKEND", "Agg")

from attnlab.draw import bars, heat, lines
from attnlab.lesson.measure import compare, cost
from attnlab.lesson.say import (
    claim,
    exercise,
    figure,
    predict,
    progress,
    quick,
    rng,
    seed,
    show,
    source,
    table,
    text,
    track,
    train,
    untried,
)

__all__ = [
    "bars",
    "claim",
    "compare",
    "cost",
    "exercise",
    "figure",
    "heat",
    "lines",
    "predict",
    "progress",
    "quick",
    "rng",
    "seed",
    "show",
    "source",
    "table",
    "text",
    "track",
    "train",
    "untried",
]
