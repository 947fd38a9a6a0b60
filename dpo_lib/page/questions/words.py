"""Text as a notebook or a page shows it, and numbers as a reader would write them."""

import hashlib
import html
import os
import re
from collections.abc import Sequence

PIECES = re.compile(
    r"\$(?P<tex>[^$]+)\$|`(?P<code>[^`]+)`|\[(?P<link>[^\]]+)\]\((?P<page>\w+)\.ipynb(?P<at>#[\w-]+)?\)"
)


def rich(text: str) -> str:
    """HTML of a text in which code, TeX between dollars and links to chapters may stand.

    A notebook typesets dollars by itself; a built page wants the marks that Sphinx writes.
    """
    built = bool(os.environ.get("DPO_BOOK_BUILD"))

    def piece(match: re.Match) -> str:
        if match["code"]:
            return f"<code>{match['code']}</code>"
        if match["link"]:
            address = f"{match['page']}.{'html' if built else 'ipynb'}{match['at'] or ''}"
            return f'<a href="{address}">{match["link"]}</a>'
        if not built:
            return match[0]
        return rf'<span class="math notranslate nohighlight">\({match["tex"]}\)</span>'

    return PIECES.sub(piece, html.escape(text))


def paragraphs(text: str) -> str:
    """HTML of a text whose paragraphs are parted by empty lines."""
    return "".join(f"<p>{rich(part.strip())}</p>" for part in re.split(r"\n\s*\n", text.strip()))


def listed(texts: Sequence[str], mark: str) -> str:
    """HTML of a list whose class is `mark`."""
    return f'<ul class="{mark}">{"".join(f"<li>{rich(text)}</li>" for text in texts)}</ul>'


def folded(summary: str, text: str) -> str:
    """A text behind one word, or nothing if there is no text."""
    if not text:
        return ""
    mark = f"dpo-{summary.lower()}"
    return f'<details class="{mark}"><summary>{summary}</summary>{paragraphs(text)}</details>'


def number(value: float, digits: int = 3, unit: str = "") -> str:
    """A number in so many significant digits, whole ones in full, with its unit."""
    text = f"{value:.0f}" if value == round(value) and abs(value) < 1e9 else f"{value:.{digits}g}"
    if "e+" in text:
        text = f"{float(text):.0f}"
    return f"{text} {unit}".strip().replace("-", "−", text.startswith("-"))


def shuffled(texts: Sequence[str], name: str) -> list[str]:
    """An order that depends on the question's name alone, and is not the given one."""
    key = {text: hashlib.sha256(f"{name} {text}".encode()).digest() for text in texts}
    order = sorted(texts, key=key.get)
    return order if order != list(texts) else order[1:] + order[:1]
