"""JSB chorales: Bach's four-part chorales as chords at 16th-note steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from jaxtyping import Int

from attnlab.datasets.files import FormatError, locate

VOICES = 4
REST = 0  # no MIDI pitch of the data is 0

Piece = Int[np.ndarray, "steps voices"]


def jsb_chorales(path: str | Path | None = None) -> dict[str, list[Piece]]:
    """Pieces by split (train, valid, test): MIDI pitches, soprano first, REST where a voice is silent.

    The published JSON is split -> pieces -> chords -> pitches, a chord holding 0 to 4 pitches from
    high to low. Which voice rests is not recorded; here the lowest ones do. FormatError names the
    line of broken JSON, or the piece and chord that hold something else.
    """
    file = locate(path, "jsb_chorales", "jsb-chorales-16th.json")
    try:
        splits = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise FormatError(file, error.lineno, "JSON", error.msg) from error
    if not isinstance(splits, dict) or not splits:
        raise FormatError(file, 1, "an object: split -> pieces", str(type(splits).__name__))
    return {
        name: [_piece(file, f"{name}[{i}]", chords) for i, chords in enumerate(pieces)]
        for name, pieces in splits.items()
    }


def _piece(file: Path, name: str, chords: list[list[float]]) -> Piece:
    piece = np.full((len(chords), VOICES), REST)
    for step, chord in enumerate(chords):
        if not isinstance(chord, list) or len(chord) > VOICES:
            raise FormatError(file, 1, f"up to {VOICES} pitches in {name}[{step}]", str(chord))
        for voice, pitch in enumerate(chord):
            if not isinstance(pitch, int | float) or not 0 < pitch < 128:
                raise FormatError(file, 1, f"MIDI pitches 1-127 in {name}[{step}]", str(chord))
            piece[step, voice] = int(pitch)
    return piece


def serialise(piece: Piece) -> Int[np.ndarray, "tokens"]:
    """The voices of each step one after the other: the order in which a model writes them.

    As Huang et al., "Music Transformer", 2018, lay chorales out: step by step, soprano to bass.
    """
    return piece.reshape(-1)
