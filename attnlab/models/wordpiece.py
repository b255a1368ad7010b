"""WordPiece, the tokens of BERT: words cut into the longest pieces that the vocabulary has.

Sources: Wu et al., "Google's neural machine translation system", 2016; Devlin et al., "BERT", 2019
(cleaning, lower-casing, accents, punctuation). A piece that goes on a word begins with ##.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from attnlab.models.classifier import Encoded

LONGEST_WORD = 100  # characters; longer words are [UNK]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordPiece:
    """Encodes texts for BERT: [CLS], the pieces, [SEP]."""

    def __init__(self, vocabulary: Sequence[str], lowercase: bool = True) -> None:
        self.vocabulary, self.lowercase = list(vocabulary), lowercase
        self.ids = {piece: i for i, piece in enumerate(self.vocabulary)}
        missing = [token for token in SPECIAL if token not in self.ids]
        if missing:
            raise ValueError(f"the vocabulary lacks the special tokens {', '.join(missing)}")
        self._special = re.compile("(" + "|".join(map(re.escape, SPECIAL)) + ")")

    @classmethod
    def load(cls, folder: Path) -> WordPiece:
        """From vocab.txt, or else from tokenizer.json."""
        settings = folder / "tokenizer_config.json"
        found = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        lowercase = bool(found.get("do_lower_case", True))
        if (folder / "vocab.txt").is_file():
            text = (folder / "vocab.txt").read_text(encoding="utf-8")
            return cls(text.removesuffix("\n").split("\n"), lowercase)
        file = folder / "tokenizer.json"
        try:
            model = json.loads(file.read_text(encoding="utf-8"))["model"]
            if model.get("type", "WordPiece") != "WordPiece":
                raise ValueError(f"its tokens are of type {model['type']}")
            return cls(sorted(model["vocab"], key=model["vocab"].__getitem__), lowercase)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: not a WordPiece vocabulary ({error})") from error

    def encode(self, text: str, longest: int = 512) -> Encoded:
        """The tokens of a text; what does not fit `longest` tokens is cut off.

        ValueError for a text without any token.
        """
        pieces = [
            (piece, place)
            for place, word in enumerate(text.split())
            for part in self.parts(word)
            for piece in self.cut(part)
        ][: longest - 2]
        if not pieces:
            raise ValueError(f"the text {text!r} has no word")
        tokens = ("[CLS]", *(piece for piece, _ in pieces), "[SEP]")
        places = np.array([-1, *(place for _, place in pieces), -1])
        return Encoded(
            tokens=tokens,
            ids=np.array([self.ids[token] for token in tokens], dtype=np.int64),
            special=places < 0,
            words=places,
        )

    def parts(self, word: str) -> Iterator[str]:
        """Words and punctuation marks in what stands between two spaces; special tokens whole."""
        for part in self._special.split(word):
            if part in SPECIAL:
                yield part
                continue
            found = "".join(c for c in part if not _control(c))
            if self.lowercase:
                found = unicodedata.normalize("NFD", found)
                found = "".join(c for c in found if unicodedata.category(c) != "Mn").lower()
            alone = "".join(f" {c} " if _punctuation(c) or _chinese(c) else c for c in found)
            yield from alone.split()

    def cut(self, word: str) -> list[str]:
        """The longest pieces from the left; [UNK] where no pieces make up the word."""
        if word in self.ids:
            return [word]
        if len(word) > LONGEST_WORD:
            return ["[UNK]"]
        pieces, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.ids:
                    pieces.append(piece)
                    start = end
                    break
            else:
                return ["[UNK]"]
        return pieces


def _control(c: str) -> bool:
    return c == "\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs")


def _punctuation(c: str) -> bool:
    """Unicode's, and every sign of ASCII that is no letter or digit."""
    return unicodedata.category(c).startswith("P") or (c.isascii() and not c.isalnum())


def _chinese(c: str) -> bool:
    """Ideographs, each a word of its own."""
    return (
        "\u4e00" <= c <= "\u9fff"
        or "\u3400" <= c <= "\u4dbf"
        or "\uf900" <= c <= "\ufaff"
        or "\U00020000" <= c <= "\U0002ceaf"
        or "\U0002f800" <= c <= "\U0002fa1f"
    )
