"""An autograder for Gradescope: one zip with the course, its hidden vectors and attnlab itself.

    setup.sh           run once, when Gradescope builds the image: Python, bubblewrap, attnlab
    run_autograder     run for every submission: `python -m attnlab.course.autograder`
    attnlab.json       exercises and isolation
    requirements.txt   attnlab (the wheel beside it, or a version) and the course's packages
    course/            course.toml, hidden/ and public/ of these exercises

The zip holds the hidden vectors: it is for instructors. In Gradescope's container user namespaces
are often missing; then Landlock isolates, and the results say so.
"""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnlab import __version__
from attnlab.contract import InputError
from attnlab.course.autograder import SETTINGS
from attnlab.course.config import Course
from attnlab.course.outputs.text import write
from attnlab.paths import project_root

TIMEOUT = 600  # seconds: Gradescope's default for a submission
TORCH = "https://download.pytorch.org/whl/cpu"  # torch without the gigabytes for GPUs

SETUP = f"""\
#!/usr/bin/env bash
# Installs what grading needs, once, when the image is built. attnlab needs Python 3.11 or newer,
# which not every image has.
set -euo pipefail
ROOT="${{AUTOGRADER_ROOT:-/autograder}}"
export DEBIAN_FRONTEND=noninteractive

apt-get update
apt-get install -y --no-install-recommends bubblewrap ||
    echo "no bubblewrap: submissions will be isolated by Landlock"

fits() {{ "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }}
PYTHON=""
for each in python3 python3.13 python3.12 python3.11; do
    if ! fits "$each"; then
        apt-get install -y --no-install-recommends "$each" "$each-venv" >/dev/null 2>&1 || true
    fi
    if fits "$each"; then PYTHON="$each"; break; fi
done
if [ -z "$PYTHON" ]; then
    echo "no Python 3.11 or newer: choose a newer base image, such as Ubuntu 24.04" >&2
    exit 1
fi

"$PYTHON" -m venv "$ROOT/venv"
cd "$ROOT/source"
"$ROOT/venv/bin/python" -m pip install --no-cache-dir --extra-index-url {TORCH} -r requirements.txt
"$ROOT/venv/bin/python" -m attnlab.course.autograder --check "$ROOT"
"""

RUN = """\
#!/usr/bin/env bash
# Grades /autograder/submission; elsewhere: AUTOGRADER_ROOT and AUTOGRADER_PYTHON.
ROOT="${AUTOGRADER_ROOT:-/autograder}"
PYTHON="${AUTOGRADER_PYTHON:-$ROOT/venv/bin/python}"
cd "$ROOT" && exec "$PYTHON" -m attnlab.course.autograder "$ROOT"
"""


@dataclass(frozen=True)
class Packed:
    """The zip, and what an instructor should know of it."""

    path: Path
    exercises: tuple[str, ...]
    points: float
    notes: tuple[str, ...]


def package(
    folder: str | Path,
    course: Course,
    names: Sequence[str] = (),
    *,
    wheel: str | Path | None = None,
    requirement: str = "",
    isolation: str = "auto",
) -> Packed:
    """Write FOLDER/autograder.zip.

    names: exercises (the course's by default; InputError where it has none: a submission is
    graded on all of them). attnlab comes from the `wheel`, else from `requirement`
    ("attnlab==1.2"), else from a wheel built of the source checkout, else from the version here.
    """
    names = tuple(names) or course.exercises
    if not names:
        raise InputError(
            "--only: name the exercises, or give a course whose course.toml has exercises = [...]"
        )
    from attnlab.course.sandbox import LEVELS

    if isolation not in ("auto", *LEVELS):
        raise InputError(f"--isolation must be auto or one of {', '.join(LEVELS)}: {isolation!r}")
    files: dict[str, bytes] = {"setup.sh": SETUP.encode(), "run_autograder": RUN.encode()}
    needs = [requirement] if requirement else []
    if wheel is not None or not requirement:
        name, content = _wheel(Path(wheel)) if wheel is not None else _built()
        files |= {name: content} if content else {}
        needs = [f"./{name}" if content else f"attnlab=={__version__}"]
    files["requirements.txt"] = "".join(f"{n}\n" for n in [*needs, *course.packages]).encode()
    settings = {"attnlab": __version__, "exercises": list(names), "isolation": isolation}
    files[SETTINGS] = (json.dumps(settings, indent=1) + "\n").encode()
    files |= _course(course, names)
    path = write(Path(folder) / "autograder.zip", _zip(files))
    points = sum(course.assignment(n).points for n in names)
    return Packed(path, tuple(names), points, _notes(course, names))


def _wheel(path: Path) -> tuple[str, bytes]:
    if path.suffix != ".whl" or not path.is_file():
        raise InputError(f"--wheel: {path} is no wheel (a file attnlab-….whl)")
    if not path.name.startswith("attnlab-"):
        raise InputError(f"--wheel: {path.name} is no wheel of attnlab")
    return path.name, path.read_bytes()


def _built() -> tuple[str, bytes]:
    """A wheel of the checkout that this code lies in; no content where it is installed."""
    root = project_root()
    if root is None:
        return "", b""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", str(root)]
    if importlib.util.find_spec("hatchling"):  # then no network is needed
        command.append("--no-build-isolation")
    with tempfile.TemporaryDirectory() as made:
        done = subprocess.run([*command, "-w", made], capture_output=True, text=True)
        wheels = list(Path(made).glob("attnlab-*.whl"))
        if done.returncode or not wheels:
            why = (done.stderr.strip().splitlines() or ["pip wheel gave none"])[-1]
            raise InputError(
                f"--wheel: no wheel could be built of {root} ({why}); give one, or --from attnlab=={__version__}"
            )
        return wheels[0].name, wheels[0].read_bytes()


def _course(course: Course, names: Sequence[str]) -> dict[str, bytes]:
    """course.toml and the vectors of these exercises."""
    if course.folder is None:
        listed = ", ".join(f'"{n}"' for n in names)
        text = f'title = {json.dumps(course.title)}\ntrack = "{course.track}"\nexercises = [{listed}]\n'
        return {"course/course.toml": text.encode()}
    files = {"course/course.toml": (course.folder / "course.toml").read_bytes()}
    for which in ("hidden", "public"):
        for name in names:
            if (path := course.vectors(name, which)) is not None:
                for each in (path, path.with_suffix(".json")):
                    files[f"course/{which}/{each.name}"] = each.read_bytes()
    return files


def _zip(files: dict[str, bytes]) -> bytes:
    """The same bytes for the same files; scripts executable, everything at the root."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            mode = 0o755 if name in ("setup.sh", "run_autograder") else 0o644
            info.external_attr = (0o100000 | mode) << 16
            info.create_system = 3  # Unix, where the modes above mean something
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return made.getvalue()


def _notes(course: Course, names: Sequence[str]) -> tuple[str, ...]:
    notes = []
    longest = len(names) * (course.limits.budget + course.limits.start)
    if longest > TIMEOUT:
        notes.append(
            f"a submission may take up to {longest:.0f} s: raise Gradescope's timeout ({TIMEOUT} s)"
        )
    without = [n for n in names if course.vectors(n, "hidden") is None]
    if without:
        notes.append(f"no hidden vectors for {', '.join(without)}: their share goes to other items")
    return tuple(notes)
