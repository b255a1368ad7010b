"""What ships inside the package: every folder has its card, and the sizes stay small."""

import re

import pytest

from attnlab.paths import data_dir

FOLDERS = sorted(p for p in data_dir().iterdir() if p.is_dir())
LIMIT = 2 * 1024**2  # bytes, all files of the language model together


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_every_folder_has_a_card(folder):
    card = (folder / "CARD.md").read_text(encoding="utf-8")
    for section in ("Origin", "Licence", "How it was made", "Limits"):
        body = re.search(rf"^## {section}\n(.+?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
        assert body, f"{folder.name}/CARD.md has no section {section}"
        assert len(body[1].split()) >= 10, f"section {section} of {folder.name} says too little"
    index = (data_dir() / "README.md").read_text(encoding="utf-8")
    assert f"`{folder.name}/`" in index


def test_the_language_model_is_at_most_two_megabytes():
    total = sum(p.stat().st_size for p in (data_dir() / "language_model").rglob("*"))
    assert 0 < total <= LIMIT
