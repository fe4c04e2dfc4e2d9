"""Words with two meanings, and places where each of them is at home.

In senses.txt, one word a paragraph: the word, then three contexts of its first sense and three of its second. `{n}` is
a person (a woman where the context says "her"), `{c}` a colour, `{d}` a time.
"""

from __future__ import annotations

from pathlib import Path


def parse(text: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """{word: (contexts of the first sense, contexts of the second)}."""
    entries = [paragraph.splitlines() for paragraph in text.strip().split("\n\n")]
    return {lines[0]: (tuple(lines[1:4]), tuple(lines[4:7])) for lines in entries}


SENSES = parse(Path(__file__).with_name("senses.txt").read_text(encoding="utf8"))
