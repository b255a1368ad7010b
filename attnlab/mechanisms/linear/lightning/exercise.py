"""Lightning attention as an exercise: hints, smaller steps, the mistakes that are often made."""

from __future__ import annotations

from attnlab.contract import Exercise

EXERCISE = Exercise(
    difficulty=2,
    minutes=40,
    hints=(
        "Keep one matrix KV per head. Each block needs two sums: over its own keys, masked and "
        "decayed, and over everything before it, which KV already holds.",
        "Row i of a block (from 0) is i + 1 steps after the block's end that KV belongs to, so the "
        "second sum fades by lambda^(i+1).",
        "Before the next block KV fades by lambda^m, and key i joins with lambda^(m-1-i): m is the "
        "number of rows in this block, which the last block may not fill.",
    ),
    prerequisites=("attention",),
)
