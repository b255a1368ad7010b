"""Where datasets lie, and the errors that readers raise."""

from __future__ import annotations

from pathlib import Path


class DatasetMissing(FileNotFoundError):
    """A dataset is not on this machine; the message says which and where it was looked for."""


class FormatError(ValueError):
    """A file is not in the format it should be in; the message has file, line and expectation.

    reason: the message without file and line.
    """

    def __init__(self, path: Path, line: int, expected: str, found: str) -> None:
        shown = found if len(found) <= 60 else found[:57] + "..."
        self.reason = f"expected {expected}, found {shown!r}"
        super().__init__(f"{path}:{line}: {self.reason}")


def locate(path: str | Path | None, *default: str) -> Path:
    """`path`, or else the file `default` (folder, name) among the shared datasets.

    DatasetMissing where there is no such file.
    """
    from attnlab.paths import shared_data

    if path is not None:
        found = Path(path)
        where = str(found)
    else:
        folder = shared_data()
        where = "/".join(default) + " in the folder shared/data beside a source checkout"
        found = folder.joinpath(*default) if folder is not None else Path(*default)
        if folder is None:
            raise DatasetMissing(f"no shared datasets here: {where} is needed, or a path")
    if not found.is_file():
        raise DatasetMissing(f"no file {where}")
    return found


def read_lines(path: Path) -> list[str]:
    """Lines without their ends; FormatError names the line that is no UTF-8."""
    data = path.read_bytes()
    try:
        lines = data.decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FormatError(path, line, "UTF-8 text", repr(data[error.start : error.end])) from error
    return lines[:-1] if lines[-1] == "" else lines
