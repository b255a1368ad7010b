"""The wheel: installed in an empty folder, offline, it has its lessons and data."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_wheel_carries_lessons_and_data(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, str(ROOT), "-w", str(tmp_path)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("attnlab-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r});"
        "from attnlab import paths; assert paths.project_root() is None;"
        "from attnlab.cli import _main; sys.exit(_main(sys.argv[1:]))"
    )
    for arguments in (["run", "lesson", "--list"], ["run", "lesson", "--quick"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    assert "attention" in done.stdout
