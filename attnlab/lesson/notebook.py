"""A lesson as a Jupyter notebook (nbformat 4.5) with the outputs of its run."""

from __future__ import annotations

import base64
import hashlib
import platform
from typing import Any

from attnlab.lesson import html, pieces, runner, script, terminal


def bundles(piece: pieces.Piece) -> list[dict[str, str]]:
    """The MIME bundles that show a piece in a notebook; each has a plain-text form."""
    if isinstance(piece, pieces.Picture):
        data = piece.data.decode() if piece.mime == "image/svg+xml" else ""
        picture = data or base64.b64encode(piece.data).decode()
        return [
            {piece.mime: picture, "text/plain": piece.alt},
            {"text/markdown": f"*{piece.caption}*", "text/plain": piece.caption},
        ]
    if isinstance(piece, pieces.Printed):
        return [{"text/plain": piece.text}]
    return [{"text/html": html.fragment(piece), "text/plain": terminal.plain(piece)}]


def _outputs(ran: runner.Ran) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for piece in ran.pieces:
        if isinstance(piece, pieces.Printed):
            made.append({"output_type": "stream", "name": "stdout", "text": _lines(piece.text)})
        elif isinstance(piece, pieces.Failure):
            made.append(
                {
                    "output_type": "error",
                    "ename": piece.kind,
                    "evalue": piece.message,
                    "traceback": terminal.plain(piece).splitlines(),
                }
            )
        else:
            made += [
                {
                    "output_type": "display_data",
                    "data": {mime: _lines(text) for mime, text in bundle.items()},
                    "metadata": {},
                }
                for bundle in bundles(piece)
            ]
    return made


def _metadata(cell: script.Cell) -> dict[str, Any]:
    """Tags; code that would give an answer away, or only draws, opens folded."""
    metadata: dict[str, Any] = {"tags": list(cell.tags)} if cell.tags else {}
    if not cell.markdown and (cell.hides_code or not runner.shown(cell)):
        metadata["jupyter"] = {"source_hidden": True}
    return metadata


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def notebook(run: runner.Run) -> dict[str, Any]:
    """The notebook's JSON. Cells that an error or Ctrl-C left unrun are there without outputs."""
    done = {id(ran.cell): ran for ran in run.cells}
    cells: list[dict[str, Any]] = []
    count = 0
    for index, cell in enumerate(run.lesson.cells):
        digest = hashlib.sha256(cell.text.encode()).hexdigest()[:8]
        made: dict[str, Any] = {
            "cell_type": "markdown" if cell.markdown else "code",
            "id": f"{index:03d}-{digest}",
            "metadata": _metadata(cell),
            "source": _lines(cell.text),
        }
        if not cell.markdown:
            ran = done.get(id(cell))
            count += ran is not None
            made["execution_count"] = count if ran is not None else None
            made["outputs"] = _outputs(ran) if ran is not None else []
        cells.append(made)
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "version": platform.python_version()},
            "title": run.lesson.title,
        },
        "cells": cells,
    }
