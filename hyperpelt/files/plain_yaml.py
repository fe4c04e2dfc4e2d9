"""YAML from anywhere: plain values and nothing else, in bounded time and memory.

    node, values = parse_one(text, Loader)        Loader: Bounded, or a class of it; all YAML of this project is read so

A text of 500 bytes whose aliases (`*name`) double each other 20 times holds a million values, one that contains itself
has no end, and ten thousand brackets end Python's stack. So nesting is bounded, and so are the values that a text
stands for, each alias counted as all that it repeats.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from yaml.events import AliasEvent

LARGEST = 1 << 20  # bytes of a file; the longest file of tasks known to us has a tenth
DEEPEST = 64
MOST = 100_000  # values and keys of a document


class NotYaml(Exception):
    """A text that is no YAML, or more than is read. line: counted from 1, if it is known."""

    def __init__(self, problem: str, line: int | None) -> None:
        super().__init__(problem)
        self.problem, self.line = problem, line


class Bounded(yaml.SafeLoader):
    """A safe loader that stops where a document becomes too deep or too large, or contains itself."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.deep, self.count = 0, 0

    def compose_document(self) -> Any:
        self.deep, self.count = 0, 0
        return super().compose_document()

    def compose_node(self, parent: Any, index: Any) -> Any:
        alias, mark, before = self.check_event(AliasEvent), self.peek_event().start_mark, self.count
        if self.deep == DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested more than {DEEPEST} deep", mark)
        self.deep += 1
        node: Any = super().compose_node(parent, index)
        self.deep -= 1
        if alias and not hasattr(node, "size"):
            raise yaml.composer.ComposerError(None, None, "a value that contains itself", mark)
        self.count += node.size if alias else 1
        if not alias:
            node.size = self.count - before
        if self.count > MOST:
            raise yaml.composer.ComposerError(None, None, f"more than {MOST:,} values, aliases written out", mark)
        return node


def parse_one(text: str, loader: type[Bounded]) -> tuple[Any, Any]:
    """(node, values) of a text with one document; None twice for an empty one. Raises NotYaml.

    The node is as it was written: where values are made of it, `<<` is written out, and what it brings looks as if it
    stood there twice.
    """
    with _Problems():
        written, reading = loader(text), loader(text)
        try:
            node, filled = written.get_single_node(), reading.get_single_node()
            return node, None if filled is None else reading.construct_document(filled)
        finally:
            written.dispose()
            reading.dispose()


def parse_all(text: str, loader: type[Bounded]) -> Iterator[tuple[int, Any]]:
    """(line, values) of every document. Raises NotYaml."""
    with _Problems():
        reading = loader(text)
    try:
        while True:
            with _Problems():
                if not reading.check_node():
                    return
                node: Any = reading.get_node()
                values = reading.construct_document(node)
            yield node.start_mark.line + 1, values
    finally:
        reading.dispose()


class _Problems:
    """Turns what the library throws into NotYaml."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, yaml.YAMLError):
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or " ".join(str(error).split())
            raise NotYaml(problem, mark.line + 1 if mark else None) from None
        # The 30th of February, 5,000 digits, `!!int x`, `!!timestamp x`, a surrogate.
        if isinstance(error, (ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError)):
            raise NotYaml(f"a value that YAML cannot hold ({error}), put it in quotes", None) from None
