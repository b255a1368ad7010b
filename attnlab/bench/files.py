"""A run as JSON (raw samples and all) and as CSV (one row a point). Seconds and bytes throughout."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from typing import Any

from attnlab.bench.compare import Change
from attnlab.bench.records import Point, Results
from attnlab.bench.settings import headline_size
from attnlab.bench.summary import Summary, shares

COLUMNS = (
    "exhibit", "operation", "causal", "baseline", "backend", "n", "median_s", "p20_s", "p80_s",
    "samples", "first_call_s", "prepare_s", "fixed_s", "items_per_s", "peak_bytes", "flops",
    "flops_per_s", "share_of_gemm", "bytes", "bytes_per_s", "share_of_copy", "bound", "reason",
)  # fmt: skip


def row(point: Point, results: Results) -> dict[str, Any]:
    """The derived numbers of one point by column name; None where there is none."""
    table: dict[str, Any] = dict.fromkeys(COLUMNS)
    table |= {
        "exhibit": point.exhibit,
        "operation": point.operation,
        "causal": point.causal,
        "baseline": point.baseline,
        "backend": point.backend,
        "n": point.n,
        "samples": len(point.samples),
        "first_call_s": point.first,
        "prepare_s": point.prepare,
        "fixed_s": point.fixed,
        "peak_bytes": point.peak,
        "flops": point.flops,
        "bytes": point.bytes,
        "reason": point.reason,
    }
    if point.measured:
        low, high = point.quantiles()
        part = shares(point, results.rates, results.settings.dtype)
        table |= {
            "median_s": point.median,
            "p20_s": low,
            "p80_s": high,
            "items_per_s": point.items / point.median,
            "flops_per_s": part.flops,
            "share_of_gemm": part.of_flops,
            "bytes_per_s": part.bytes,
            "share_of_copy": part.of_bytes,
            "bound": part.bound,
        }
    return table


def as_csv(results: Results) -> str:
    """One row a point, those without times and their reasons included."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row(p, results) for p in results.points)
    return text.getvalue()


def as_json(results: Results, summaries: list[Summary], changes: list[Change] | None) -> str:
    """Everything, raw samples included; numbers that are not finite are null."""
    headline = headline_size(results.settings)
    table = {
        "kind": "attnlab bench",
        "command": results.settings.command(),
        "started": results.started,
        "seconds": results.seconds,
        "complete": not results.interrupted and len(results.points) >= results.planned,
        "interrupted": results.interrupted,
        "settings": asdict(results.settings),
        "machine": results.machine.as_dict(),
        "rates": asdict(results.rates),
        "notes": results.notes,
        "gates": [asdict(g) for g in results.gates],
        "points": [
            row(p, results) | {"samples": p.samples, "inner": p.inner, "peak_note": p.peak_note}
            for p in results.points
        ],
        "series": [_series(s) for s in summaries],
        "headline": None
        if headline is None
        else {
            "n": headline,
            "median_ms": {
                f"{s.target.title} {s.backend}": s.headline * 1e3
                for s in summaries
                if s.headline is not None
            },
        },
    }
    if changes is not None:
        table["comparison"] = [
            {
                "exhibit": c.point.exhibit,
                "operation": c.point.operation,
                "causal": c.point.causal,
                "backend": c.point.backend,
                "n": c.point.n,
                "old_s": c.old,
                "new_s": c.point.median,
                "ratio": c.ratio._asdict(),
                "verdict": c.verdict,
            }
            for c in changes
        ]
    return json.dumps(_finite(table), indent=1, allow_nan=False)


def _series(summary: Summary) -> dict[str, Any]:
    def grown(growth: Any) -> Any:
        if growth is None:
            return None
        return growth.fitted._asdict() | {
            "n": list(growth.used),
            "left_out": list(growth.left_out),
            "claim": growth.claim,
            "verdict": growth.verdict,
            "claimed_from": growth.claimed_from,
        }

    versus = summary.versus
    return {
        "exhibit": summary.target.exhibit,
        "operation": summary.target.operation,
        "causal": summary.target.causal,
        "baseline": summary.target.baseline,
        "backend": summary.backend,
        "time_exponent": grown(summary.time),
        "memory_exponent": grown(summary.memory),
        "faster_than_attention": None
        if versus is None
        else {
            "where": versus.where,
            "from_n": versus.n and versus.n._asdict(),
            "speedup": versus.speedup._asdict(),
            "at_n": versus.largest,
        },
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
