"""The frame of every page that attnlab writes: one file, no script, no request, light and dark."""

from __future__ import annotations

from html import escape
from pathlib import Path


def document(title: str, body: str, css: str = "") -> str:
    """An HTML document around a body; `css` follows the style that all pages share."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}{css}</style>\n</head>\n<body>\n<main>\n"
        f"{body}</main>\n</body>\n</html>\n"
    )
