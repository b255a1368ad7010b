"""Internal consistency and head isolation as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=2,
    minutes=40,
    prerequisites=("attention",),
    hints=(
        "Scale the heads' outputs before Wo: after Wo there are no heads any more.",
        "Head j reads key/value head j // (H / Hkv); rot(z) puts -z[dim/2:] before z[:dim/2].",
        "keep_head = -1 is the last head: add H to a negative number first.",
    ),
    questions=(
        "neg_variance and neg_entropy_bits of the survey's worked sets",
        "a block-diagonal Wo for which (7) and (8) agree",
        "a set in which count, joint and mean elect three different winners",
    ),
)
