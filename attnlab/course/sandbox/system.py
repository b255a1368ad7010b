"""Which parts of this machine a confined process may read: libraries and Python, nobody's packages.

`roots` are the folders that Python and the libraries beneath it live in; `hidden` are folders that
may lie inside them and must not be seen: every site-packages, a virtual environment, attnlab's own
tree. bubblewrap mounts the roots and an empty folder over what is hidden; Landlock, which only
allows, gets the roots' parts that hold nothing hidden.
"""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
from pathlib import Path

FILES = ("/etc/ld.so.cache", "/etc/alternatives")


def python() -> Path:
    """The interpreter itself, behind whatever a virtual environment calls it."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


@functools.cache
def roots() -> tuple[Path, ...]:
    """Folders of libraries and of Python, none inside another."""
    places = [*Path("/").glob("lib*"), *Path("/usr").glob("lib*"), Path("/usr/local/lib")]
    places = [p for p in places if p.is_dir() and not p.is_symlink()]
    base = Path(sys.base_prefix).resolve()
    if base not in (Path("/usr"), Path("/usr/local"), Path("/")):
        places.append(base)
    places.append(Path(sysconfig.get_path("stdlib")).resolve())
    return tuple(p for p in places if not any(q in p.parents for q in places))


@functools.cache
def links() -> tuple[tuple[str, str], ...]:
    """(target, path) of the top-level links to libraries (/lib -> usr/lib)."""
    return tuple((os.readlink(p), str(p)) for p in Path("/").glob("lib*") if p.is_symlink())


@functools.cache
def hidden() -> tuple[Path, ...]:
    """Folders inside a root that must not be seen."""
    names = [*site.getsitepackages(), site.getusersitepackages()]
    names += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    places = {Path(name).resolve() for name in names}
    for root in (*roots(), Path("/usr/lib"), Path("/usr/local/lib")):
        for pattern in ("python3*/*-packages", "lib/python3*/*-packages"):
            places |= {p.resolve() for p in root.glob(pattern)}
    if sys.prefix != sys.base_prefix:
        places.add(Path(sys.prefix).resolve())
    places.add(Path(__file__).resolve().parents[3])
    inside = (p for p in places if p.is_dir() and any(r in p.parents for r in roots()))
    return tuple(sorted(inside))


@functools.cache
def visible() -> tuple[str, ...]:
    """Files and folders that together are the roots without what is hidden."""
    found: list[str] = []

    def walk(place: Path) -> None:
        if place in hidden():
            return
        if not any(place in h.parents for h in hidden()):
            found.append(str(place))
            return
        for entry in place.iterdir():
            if not entry.is_symlink():
                walk(entry)

    for root in roots():
        walk(root)
    return (*found, str(python()), *(f for f in FILES if Path(f).exists()))
