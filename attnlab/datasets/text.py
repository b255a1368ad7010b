"""Plain text for language models: Tiny Shakespeare and WikiText-2, by characters or by words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from attnlab.datasets.files import FormatError, locate, read_lines


@dataclass(frozen=True)
class SymbolText:
    """A text as ids into its symbols, which are in sorted order; the last tenth is held out."""

    symbols: tuple[str, ...]
    train: Int[np.ndarray, "n"]
    validation: Int[np.ndarray, "m"]

    def decode(self, ids: Int[np.ndarray, "n"]) -> str:
        """Symbols of the ids, joined."""
        return "".join(self.symbols[i] for i in ids)

    @classmethod
    def of(cls, symbols: str | list[str], share: float = 0.9) -> SymbolText:
        """Ids of a string's characters or a list's words; the first `share` of them for training."""
        known, ids = np.unique(np.array(list(symbols)), return_inverse=True)
        cut = int(len(ids) * share)
        return cls(tuple(str(s) for s in known), ids[:cut], ids[cut:])


def shakespeare(path: str | Path | None = None) -> SymbolText:
    """Tiny Shakespeare by characters: 1 115 394 of 65 kinds, 90 % for training.

    Any plain UTF-8 text can be read; FormatError when it is empty.
    """
    file = locate(path, "shakespeare", "tinyshakespeare.txt")
    lines = read_lines(file)
    if not lines:
        raise FormatError(file, 1, "text", "")
    return SymbolText.of("\n".join(lines) + "\n")


def wikitext2(path: str | Path | None = None) -> list[list[str]]:
    """WikiText-2: the words of each paragraph, headings (`= Title =`) and blank lines left out.

    `<unk>` stands for rare words, `@-@` for a hyphen within a word, as published.
    FormatError when no paragraph is left.
    """
    file = locate(path, "wikitext2", "valid.txt")
    lines = read_lines(file)
    paragraphs = [line.split() for line in lines if line.strip() and not _is_heading(line)]
    if not paragraphs:
        raise FormatError(file, 1, "paragraphs, one a line", lines[0] if lines else "")
    return paragraphs


def _is_heading(line: str) -> bool:
    words = line.split()
    return len(words) > 2 and words[0] == words[-1] == "="
