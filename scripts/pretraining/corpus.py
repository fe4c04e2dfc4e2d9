"""Text files in, one flat array of token ids out.

A file is `.txt` or `.txt.xz` in UTF-8: one paragraph a line, an empty line between articles. An article's paragraphs
stand one after another, closed by the tokenizer's end token. The array is cached under the SHA-256 of the files and
of the tokenizer, so a resumed run starts at once.
"""

from __future__ import annotations

import hashlib
import lzma
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyperpelt.errors import UserError

Encode = Callable[[list[str]], list[list[int]]]
_CHUNK = 2000  # articles encoded at a time


@dataclass(frozen=True, slots=True)
class Corpus:
    """`tokens` uint16 [N]; `starts` int64 [A + 1]: article a is tokens[starts[a]:starts[a + 1]]."""

    tokens: np.ndarray
    starts: np.ndarray

    def article_at(self, position: int) -> int:
        return int(np.searchsorted(self.starts, position, side="right")) - 1


def read_articles(paths: Sequence[Path]) -> Iterator[str]:
    """Each article's paragraphs, joined by line ends."""
    for path in paths:
        if not path.is_file():
            raise UserError(f"Expected a text file (.txt or .txt.xz) but {path} does not exist.")
        if not path.name.endswith((".txt", ".txt.xz")):
            raise UserError(f"Expected a text file (.txt or .txt.xz), got {path}.")
        opener = lzma.open if path.suffix == ".xz" else open
        with opener(path, "rt", encoding="utf8") as file:
            paragraphs: list[str] = []
            for line in file:
                if line.strip():
                    paragraphs.append(line.strip())
                elif paragraphs:
                    yield "\n".join(paragraphs)
                    paragraphs = []
            if paragraphs:
                yield "\n".join(paragraphs)


def load_corpus(paths: Sequence[Path], *, encode: Encode, end: int, key: str, cache: Path) -> Corpus:
    """Tokenise, or read what an earlier call made.

    Args:
        encode: articles to ids, no special tokens.
        end: id that closes an article.
        key: what identifies the tokenizer (part of the cache's name).
    """
    folder = cache / f"{_fingerprint(paths, key)}"
    if not (folder / "starts.npy").is_file():
        _build(paths, encode=encode, end=end, folder=folder)
    return Corpus(np.load(folder / "tokens.npy", mmap_mode="r"), np.load(folder / "starts.npy"))


def _fingerprint(paths: Sequence[Path], key: str) -> str:
    digest = hashlib.sha256(key.encode())
    for path in paths:
        if not path.is_file():
            raise UserError(f"Expected a text file (.txt or .txt.xz) but {path} does not exist.")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:24]


def _build(paths: Sequence[Path], *, encode: Encode, end: int, folder: Path) -> None:
    pieces: list[np.ndarray] = []
    lengths: list[int] = []
    for articles in _chunks(read_articles(paths), _CHUNK):
        for ids in encode(articles):
            pieces.append(np.asarray([*ids, end], dtype=np.uint16))
            lengths.append(len(ids) + 1)
    if not pieces:
        raise UserError(f"No text in {', '.join(map(str, paths))}.")
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "tokens.npy", np.concatenate(pieces))
    _save(folder / "starts.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _save(path: Path, array: np.ndarray) -> None:
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.npy")
    np.save(partial, array)
    os.replace(partial, path)


def _chunks(items: Iterator[str], size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
