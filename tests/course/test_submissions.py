"""Submissions of every shape: read whole, read in part with reasons, refused with a reason."""

from __future__ import annotations

import os
import random
import struct
import time
import unicodedata
import zipfile
from pathlib import Path

import pytest

from attnlab.contract import InputError
from attnlab.course import submissions
from attnlab.course.outputs.canvas import canvas_id
from attnlab.course.submissions import Submission, find, read

CODE = b"def attend(q, k, v):\n    return q\n"


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def archive(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return path


def test_a_folder_and_a_zip_read_alike(tmp_path: Path) -> None:
    files = {"landmark.py": CODE, "tools/shapes.py": b"x = 1\n"}
    one = read(folder(tmp_path / "anna", files))
    two = read(archive(tmp_path / "ben.zip", files))
    assert (one.student, two.student) == ("anna", "ben")
    assert one.files == two.files == files
    assert one.content == two.content
    assert not one.problem
    assert not one.left_out


def test_wrapped_submissions_are_unwrapped(tmp_path: Path) -> None:
    litter = {"__MACOSX/hw/._landmark.py": b"\0\5", "hw/.DS_Store": b"\0", "hw/notes.txt": b"hi"}
    wrapped = {
        "hw/landmark.py": CODE,
        "hw/lib/a.py": b"",
        "hw/__pycache__/landmark.cpython.pyc": b"",
    }
    got = read(archive(tmp_path / "doejane_123_456_hw.zip", wrapped | litter))
    assert got.student == "doejane_123_456_hw"
    assert got.files == {"landmark.py": CODE, "lib/a.py": b""}
    deep = read(folder(tmp_path / "deep", {"a/b/landmark.py": CODE}))
    assert set(deep.files) == {"landmark.py"}
    (tmp_path / "moodle").mkdir()
    archive(tmp_path / "moodle" / "hw.zip", {"hw/landmark.py": CODE})
    assert set(read(tmp_path / "moodle").files) == {"landmark.py"}


def test_only_python_is_taken(tmp_path: Path) -> None:
    files = {"landmark.py": CODE, "data.npz": b"PK", "evil.so": b"\x7fELF", "landmark.ipynb": b"{}",
             ".git/hooks/x.py": b"", "venv/lib/site.py": b"", ".ipynb_checkpoints/landmark.py": b""}  # fmt: skip
    assert set(read(folder(tmp_path / "a", files)).files) == {"landmark.py"}


def test_case_of_names(tmp_path: Path) -> None:
    got = read(archive(tmp_path / "a.zip", {"Landmark.PY": CODE, "Utils.py": b"y = 1\n"}))
    assert got.files["landmark.py"] == CODE
    assert "utils.py" not in got.files  # no exercise: imports name it as it is
    both = read(archive(tmp_path / "b.zip", {"Landmark.py": b"x", "landmark.py": CODE}))
    assert both.files["landmark.py"] == CODE


def test_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.py"
    secret.write_text("answers = 42")
    root = folder(tmp_path / "class" / "anna", {"attention.py": CODE})
    (root / "landmark.py").symlink_to(secret)
    (root / "lib").symlink_to(tmp_path)
    (tmp_path / "class" / "ben").symlink_to(tmp_path)
    os.mkfifo(root / "moh.py")  # reading it would wait for ever
    anna, ben = find(tmp_path / "class")
    assert set(anna.files) == {"attention.py"}
    assert "symbolic link" in anna.left_out["landmark.py"]
    assert "symbolic link" in anna.left_out["lib"]
    assert anna.lacks("landmark") == (
        "malformed",
        "landmark.py was not taken: a symbolic link: none is followed",
    )
    assert anna.lacks("moh") == ("malformed", "moh.py was not taken: no plain file")
    assert "symbolic link" in ben.problem
    assert not ben.files


def test_links_inside_a_zip(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("hw/landmark.py")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr(entry, "/etc/passwd")
    got = read(tmp_path / "a.zip")
    assert not got.files
    assert got.lacks("landmark")[0] == "malformed"


@pytest.mark.parametrize("name", ["../landmark.py", "/tmp/landmark.py", "a/../../b.py", "..\\x.py", "C:\\x.py"])  # fmt: skip
def test_paths_out_of_a_zip(tmp_path: Path, name: str) -> None:
    got = read(archive(tmp_path / "a.zip", {"attention.py": CODE, name: CODE}))
    assert set(got.files) == {"attention.py"}
    assert "leads out" in next(iter(got.left_out.values()))


def test_backslashes_are_folders(tmp_path: Path) -> None:
    got = read(archive(tmp_path / "a.zip", {"hw\\landmark.py": CODE, "hw\\lib\\a.py": CODE}))
    assert set(got.files) == {"landmark.py", "lib/a.py"}


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = bytes(900 * 1024)  # within the size, but 1000 times what is stored
    got = read(archive(tmp_path / "ratio.zip", {"landmark.py": zeros, "attention.py": CODE}))
    assert "zip bomb" in got.left_out["landmark.py"]
    assert set(got.files) == {"attention.py"}
    large = os.urandom(submissions.MAX_FILE + 1)
    got = read(archive(tmp_path / "large.zip", {"landmark.py": large}))
    assert "larger than" in got.lacks("landmark")[1]
    assert (
        "larger than" in read(folder(tmp_path / "l", {"landmark.py": large})).lacks("landmark")[1]
    )
    monkeypatch.setattr(submissions, "MAX_FILES", 50)
    many = {f"f{i}.py": b"" for i in range(51)}
    assert "more than 50 files" in read(archive(tmp_path / "many.zip", many)).problem
    assert "more than 50 files" in read(folder(tmp_path / "many", many)).problem
    flood = archive(tmp_path / "flood.zip", {f"f{i}": b"" for i in range(201)})
    monkeypatch.setattr(zipfile, "ZipFile", None)  # not even opened
    assert "more than 50 files" in read(flood).problem


def test_total_and_archive_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "MAX_TOTAL", 1000)
    assert (
        "of Python"
        in read(folder(tmp_path / "a", {"a.py": b" " * 600, "b.py": b" " * 600})).problem
    )
    monkeypatch.setattr(submissions, "MAX_ARCHIVE", 100)
    assert "MiB" in read(archive(tmp_path / "b.zip", {"a.py": os.urandom(300)})).problem


def test_a_lying_header(tmp_path: Path) -> None:
    """The size in the directory is smaller than what is stored: no more is read, nothing raised."""
    raw = bytearray(archive(tmp_path / "a.zip", {"landmark.py": CODE * 9}).read_bytes())
    at = raw.index(b"PK\1\2")
    raw[at + 24 : at + 28] = struct.pack("<I", 5)
    (tmp_path / "a.zip").write_bytes(raw)
    got = read(tmp_path / "a.zip")
    assert got.lacks("landmark")[0] == "malformed"


def test_unreadable_archives(tmp_path: Path) -> None:
    (tmp_path / "empty.zip").write_bytes(b"")
    (tmp_path / "text.zip").write_text("my homework")
    (tmp_path / "cut.zip").write_bytes(
        archive(tmp_path / "x.zip", {"a.py": CODE}).read_bytes()[:-9]
    )
    for name in ("empty", "text", "cut"):
        got = read(tmp_path / f"{name}.zip")
        assert "no readable zip" in got.problem
        assert got.lacks("landmark") == ("malformed", got.problem)
    assert "neither" in read(tmp_path / "nowhere").problem


def test_encrypted_and_odd_compression(tmp_path: Path) -> None:
    raw = bytearray(archive(tmp_path / "a.zip", {"landmark.py": CODE}).read_bytes())
    raw[raw.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(raw)
    assert read(tmp_path / "a.zip").problem == "the zip is encrypted"
    got = read(archive(tmp_path / "b.zip", {"landmark.py": CODE}, zipfile.ZIP_LZMA))
    assert "method 14" in got.lacks("landmark")[1]


def test_a_damaged_member_costs_itself_alone(tmp_path: Path) -> None:
    files = {"attention.py": CODE, "landmark.py": b"x = 'stored'\n"}
    raw = archive(tmp_path / "a.zip", files, zipfile.ZIP_STORED).read_bytes()
    (tmp_path / "a.zip").write_bytes(raw.replace(b"'stored'", b"'chance'"))
    got = read(tmp_path / "a.zip")
    assert set(got.files) == {"attention.py"}
    assert "CRC" in got.lacks("landmark")[1]


def test_any_bytes_are_read(tmp_path: Path) -> None:
    """Neither noise nor a damaged directory raises."""
    whole = archive(tmp_path / "x.zip", {"landmark.py": CODE, "b.py": os.urandom(200)}).read_bytes()
    rng = random.Random(5)
    for trial in range(300):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 12)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        (tmp_path / "y.zip").write_bytes(raw)
        got = read(tmp_path / "y.zip")
        assert isinstance(got, Submission), trial
        assert got.content
        assert got.fingerprint("landmark")


def test_odd_names(tmp_path: Path) -> None:
    root = tmp_path / "class"
    folder(root / "Zoë Müller (2)", {"landmark.py": CODE, "größe.py": b"", "a\nb.py": b""})
    raw = os.fsencode(root) + b"/caf\xe9"
    os.mkdir(raw)
    (root / "decomposed").mkdir()
    (root / "decomposed").rename(root / unicodedata.normalize("NFD", "Renée"))
    Path(os.fsdecode(raw + b"/landmark.py")).write_bytes(CODE)
    Path(os.fsdecode(raw + b"/\xff.py")).write_bytes(CODE)
    found = {s.student: s for s in find(root)}
    assert set(found) == {"Zoë Müller (2)", "caf\\xe9", "Renée"}
    assert set(found["Zoë Müller (2)"].files) == {"landmark.py", "größe.py"}
    assert "printable" in next(iter(found["Zoë Müller (2)"].left_out.values()))
    assert set(found["caf\\xe9"].files) == {"landmark.py"}
    for got in found.values():
        got.student.encode()  # can be written to any file


def test_a_file_that_is_a_folder_too(tmp_path: Path) -> None:
    got = read(archive(tmp_path / "a.zip", {"landmark.py": CODE, "landmark.py/x.py": CODE}))
    assert set(got.files) == {"landmark.py"}


def test_find(tmp_path: Path) -> None:
    root = tmp_path / "class"
    folder(root / "ben", {"landmark.py": CODE})
    archive(root / "anna.zip", {"landmark.py": CODE})
    archive(root / "ben.zip", {"ben/landmark.py": CODE})  # the same, unpacked beside it
    folder(root, {"grades.csv": b"", ".DS_Store": b""})
    assert [s.student for s in find(root)] == ["anna", "ben"]
    assert submissions.strays(root) == ["grades.csv"]
    archive(root / "ben.zip", {"ben/landmark.py": CODE + b"#"})
    assert "of this name differ" in find(root)[1].problem


def test_find_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"SUBMISSIONS: .* is no folder"):
        find(tmp_path / "none")
    with pytest.raises(InputError, match="unpack it first"):
        find(archive(tmp_path / "all.zip", {}))
    (tmp_path / "all.zip").unlink()
    with pytest.raises(InputError, match="holds no folder or zip a student"):
        find(tmp_path)
    folder(tmp_path, {"landmark.py": CODE})
    with pytest.raises(InputError, match="one student's"):
        find(tmp_path)


def test_fingerprints_follow_what_an_exercise_uses() -> None:
    files = {"landmark.py": b"import helper\n", "attention.py": b"x = 1\n", "helper.py": b"y = 1\n"}

    def prints(**changed: bytes) -> tuple[str, str]:
        got = Submission("a", files | {f"{k}.py": v for k, v in changed.items()})
        return got.fingerprint("landmark"), got.fingerprint("attention")

    landmark, attention = prints()
    assert prints() == (landmark, attention)
    assert prints(attention=b"x = 2\n") == (landmark, prints(attention=b"x = 2\n")[1])
    assert prints(attention=b"x = 2\n")[1] != attention
    changed = prints(helper=b"y = 2\n")
    assert changed[0] != landmark
    assert changed[1] != attention


@pytest.mark.parametrize(
    "line",
    ["from attention import attend", "import numpy, attention", "import numpy, \\\n  attention",
     "if 1: import attention as a", "import importlib", "exec(open('attention' + '.py').read())",
     "from landmark2 import x"],
)  # fmt: skip
def test_fingerprints_follow_imports(line: str) -> None:
    """An exercise that imports another's file is graded again when that changes."""
    helper = {"landmark2.py": b"import attention\n"}
    before, after = (
        Submission("a", {"landmark.py": line.encode(), "attention.py": text} | helper)
        for text in (b"x = 1\n", b"x = 2\n")
    )
    assert before.fingerprint("landmark") != after.fingerprint("landmark")


def test_missing_names_what_is_there(tmp_path: Path) -> None:
    got = read(folder(tmp_path / "a", {"landmark (1).py": CODE, "attention.py": CODE}))
    assert got.lacks("attention") is None
    assert got.lacks("landmark") == ("missing", "no landmark.py (there is landmark (1).py)")
    assert got.lacks("moh") == ("missing", "no moh.py")


def test_reading_ends_with_nothing_unpacked(tmp_path: Path) -> None:
    """Deep nesting ends a parser, long lines a careless pattern; the reader minds neither."""
    began = time.process_time()
    for text in (b"(" * 500_000, b"import " * 70_000, b"\\\n" * 200_000, b"a" * 900_000):
        got = read(folder(tmp_path / "a", {"landmark.py": b"import attention\nx = " + text}))
        assert got.fingerprint("landmark")
    assert time.process_time() - began < 5
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_single_files_of_a_download_are_gathered_by_student(tmp_path: Path) -> None:
    folder(tmp_path, {
        "doejane_12345_67890_landmark.py": b"first",
        "doejane_12345_67999_landmark-1.py": CODE,  # handed in again
        "doejane_12345_67891_my_tools.py": b"x = 1\n",
        "roerick_LATE_222_333_moh.py": CODE,
        "Jane Doe_987_assignsubmission_file_landmark.py": CODE,
        "notes.py": b"", "doejane_12345_67892_plan.txt": b"", "ben/moh.py": CODE,
    })  # fmt: skip
    found = {s.student: s for s in find(tmp_path)}
    assert found.keys() == {
        "ben", "doejane_12345_67890", "roerick_LATE_222_333", "Jane Doe_987_assignsubmission_file",
    }  # fmt: skip
    assert found["doejane_12345_67890"].files == {"landmark.py": CODE, "my_tools.py": b"x = 1\n"}
    assert canvas_id("doejane_12345_67890") == "12345"
    assert set(found["Jane Doe_987_assignsubmission_file"].files) == {"landmark.py"}
    assert submissions.strays(tmp_path) == ["doejane_12345_67892_plan.txt", "notes.py"]
