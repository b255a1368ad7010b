"""The canonical benchmark: one command, one currency, and what the numbers do not say.

settings   what was asked for: names, sizes, presets
plan       which operations on which backends, and what that will cost
inputs     the arguments of one point, and its floating-point operations and bytes
machine    what the numbers were measured on, its own measured rates included
gate       no timing on a path that disagrees with the reference
timing     first call apart, interleaved repeats, calibrated inner loops
memory     peak memory of one call in a process of its own
fit        exponents, crossovers and ratios, each with an interval
run        the loop: budget, reasons for what was left out, state that survives Ctrl-C
compare    this run against an earlier one, noise-aware
report, files, plot   tables for any width; CSV and JSON with raw samples; pictures
"""
