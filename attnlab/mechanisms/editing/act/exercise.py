"""ACT: attention calibration as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=2,
    minutes=40,
    prerequisites=("attention",),
    hints=(
        "A key t is seen by n - t queries: divide the column sums by that, not by n.",
        "Drop the first detected index, whether or not it is token 0, before any editing.",
        "A sink ends at beta * a and every other key at a * (1 + free / rho): rows keep their sum.",
    ),
    questions=(
        "prove that rows still sum to 1",
        "the streaming form over a key-value cache",
        "compare with a logit bias log(beta) followed by renormalising",
    ),
)
