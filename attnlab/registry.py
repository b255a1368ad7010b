"""Every exhibit by name. Nothing is imported before it is asked for.

Exhibits are the folders `mechanisms/FAMILY/NAME/`; the folder names are the index, so finding a
name costs one directory listing and importing its card.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from attnlab.contract import FAMILIES, Exhibit, InputError, suggest

_ROOT = Path(__file__).parent / "mechanisms"


@cache
def _families() -> dict[str, str]:
    """name -> family, in the order of FAMILIES and then of names; the baseline comes first."""
    found = {
        folder.name: family
        for family in FAMILIES
        for folder in sorted((_ROOT / family).glob("*/"))
        if (folder / "__init__.py").exists()
    }
    first = {"attention": found["attention"]} if "attention" in found else {}
    return first | found


def names(family: str | None = None) -> list[str]:
    """Exhibit names, all or of one family. Raises InputError for an unknown family."""
    if family is not None and family not in FAMILIES:
        raise InputError(
            f"no family {family!r}{suggest(family, FAMILIES)} (families: {', '.join(FAMILIES)})"
        )
    return [name for name, of in _families().items() if family in (None, of)]


def families() -> dict[str, list[str]]:
    """family -> exhibit names; families that are still empty are left out."""
    return {f: names(f) for f in FAMILIES if names(f)}


@cache
def find(name: str) -> Exhibit:
    """The exhibit called `name`. Raises InputError, with a suggestion, when there is none."""
    family = _families().get(name)
    if family is None:
        raise InputError(
            f"no exhibit {name!r}{suggest(name, _families())} (`attnlab list` shows all)"
        )
    exhibit = importlib.import_module(f"attnlab.mechanisms.{family}.{name}").EXHIBIT
    assert isinstance(exhibit, Exhibit)
    return exhibit


def exhibits(family: str | None = None) -> list[Exhibit]:
    """The exhibits, all or of one family, cards imported."""
    return [find(name) for name in names(family)]
