"""Lays out a new exhibit: the files of the house with a small working mechanism in them.

The template is mean pooling over the past, so that everything runs before a line is changed:
`dev check` then complains only about what a template cannot know (vectors, the paper).
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from attnlab.contract import FAMILIES, InputError, suggest
from attnlab.paths import project_root
from attnlab.registry import names

TEMPLATES = Path(__file__).parent / "templates"
# template file -> where it goes, relative to the project
PLACES = {
    "card.py.txt": "attnlab/mechanisms/{family}/{name}/__init__.py",
    "exercise.py.txt": "attnlab/mechanisms/{family}/{name}/exercise.py",
    "reference.py.txt": "attnlab/mechanisms/{family}/{name}/reference.py",
    "cpu.py.txt": "attnlab/mechanisms/{family}/{name}/cpu.py",
    "cuda.py.txt": "attnlab/mechanisms/{family}/{name}/cuda.py",
    "torch.py.txt": "attnlab/mechanisms/{family}/{name}/torch.py",
    "lesson.py.txt": "lessons/{name}.py",
    "test.py.txt": "tests/mechanisms/{family}/test_{name}.py",
}


def lay_out(name: str, family: str, root: Path | None = None) -> list[Path]:
    """Write the files; what was written, relative to the project's root.

    Raises InputError for a bad or taken name, an unknown family, an installation that is no source
    checkout, or a file that is already there (nothing is overwritten, nothing half written).
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(
            f"name must be lower-case letters, digits and underscores, but is {name!r}"
        )
    if keyword.iskeyword(name):
        raise InputError(f"name {name!r} is a word of the Python language: no module may have it")
    if family not in FAMILIES:
        raise InputError(
            f"no family {family!r}{suggest(family, FAMILIES)} (families: {', '.join(FAMILIES)})"
        )
    if name in names():
        raise InputError(f"there is already an exhibit {name!r}")
    root = root or project_root()
    if root is None:
        raise InputError(
            "dev new works in a source checkout of attnlab; this is an installed package"
        )
    fill = {"name": name, "family": family, "title": name.replace("_", " ").capitalize()}
    targets = {t: Path(place.format(**fill)) for t, place in PLACES.items()}
    for path in targets.values():
        if (root / path).exists():
            raise InputError(f"{path} is already there")
    for template, path in targets.items():
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        for key, value in fill.items():
            text = text.replace(f"<<{key}>>", value)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return list(targets.values())
