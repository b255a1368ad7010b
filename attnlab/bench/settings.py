"""What a run was asked for, and the presets whose shapes are frozen."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

DEFAULT_SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
ALL_SIZES = (128, 512, 1024, 2048)  # of all mechanisms at once: more would not fit in the budget


@dataclass(frozen=True)
class Settings:
    """Everything that changes what is measured; two runs with equal settings can be laid side by side.

    `sizes_set` overrides sizes and options of every operation that has them (dim, heads, batch …).
    `backends` is empty for those that can run here. `budget` is in seconds, for the whole run.
    """

    names: tuple[str, ...] = ()
    ns: tuple[int, ...] = DEFAULT_SIZES
    operation: str | None = None
    backends: tuple[str, ...] = ()
    sizes_set: Mapping[str, Any] = field(default_factory=dict)
    causal: bool = False
    dtype: str = "float32"
    seed: int = 0
    threads: int = 1
    repeat: int = 9
    budget: float = 300.0
    memory: bool = True
    preset: str = ""

    def key(self) -> str:
        """A short hash of all that changes the numbers; the budget only decides how many there are."""
        table = asdict(self) | {"budget": None, "sizes_set": dict(self.sizes_set)}
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]

    def command(self) -> str:
        """The command line that repeats the run, every choice spelled out."""
        return shlex.join(self.words())

    def words(self) -> list[str]:
        """The words of `command`."""
        words = ["attnlab", "bench", *self.names]
        if self.preset:
            words += ["--preset", self.preset]
        words += ["--seq-len", ",".join(map(str, self.ns))]
        if self.backends:
            words += ["--backend", ",".join(self.backends)]
        if self.operation:
            words += ["--operation", self.operation]
        for name, value in self.sizes_set.items():
            known = name in ("dim", "heads", "batch")
            words += [f"--{name}", str(value)] if known else ["--set", f"{name}={value}"]
        words += ["--causal"] if self.causal else []
        words += [] if self.memory else ["--no-memory"]
        words += ["--dtype", self.dtype, "--repeat", str(self.repeat)]
        words += ["--seed", str(self.seed), "--threads", str(self.threads)]
        return [*words, "--budget", f"{self.budget:g}"]


@dataclass(frozen=True)
class Preset:
    """A frozen shape. `headline` is the size whose median in milliseconds is the one currency."""

    ns: tuple[int, ...]
    backends: tuple[str, ...]
    repeat: int
    budget: float
    headline: int
    about: str


PRESETS = {
    "quick": Preset(
        (64, 256, 512, 1024, 2048),
        ("numba", "torch"),
        5,
        45.0,
        2048,
        "under a minute on two cores (of all mechanisms, time only)",
    ),
    "long": Preset(
        tuple(2**i for i in range(9, 17)), ("numba", "torch"), 7, 3600.0, 16384, "up to an hour"
    ),
    "gpu-long": Preset(
        tuple(2**i for i in range(10, 18)), ("cuda", "torch"), 9, 1800.0, 16384, "on a CUDA device"
    ),
}
# What a preset freezes beside the sizes: changing any of it takes the headline away.
FROZEN = {"sizes_set": {}, "causal": False, "dtype": "float32"}


def with_preset(name: str, asked: Mapping[str, Any]) -> Settings:
    """The preset's settings with what was asked for on top."""
    preset = PRESETS[name]
    base = Settings(
        ns=preset.ns,
        backends=preset.backends,
        repeat=preset.repeat,
        budget=preset.budget,
        preset=name,
    )
    return replace(base, **asked)


def headline_size(settings: Settings) -> int | None:
    """The preset's headline size while its shapes are untouched, else None."""
    preset = PRESETS.get(settings.preset)
    if preset is None or settings.ns != preset.ns:
        return None
    changed = any(getattr(settings, k) != v for k, v in FROZEN.items())
    return None if changed else preset.headline
