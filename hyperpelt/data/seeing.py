"""From the images of rendered rows to features: the way of images through training, evaluation and prediction.

    eye = Eye(FeatureStore(folder, encoder.spec), encoder=lambda: encoder, on_bad_image="skip")
    for number, example in eye.see(enumerate(examples), where="vl/nlvr2 train"): ...     images are keys now
    eye.features(example.images)                                                         [N, G, Dv]

`see` reads each image once, names it by its content, and encodes those whose features are not there yet, some hundred
at a time; nothing but the keys stays in memory. An image that cannot be used ends it with task, split and row, or is
left out and counted. The encoder is asked for only when a feature is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from hyperpelt.data.parts import Stamp, stamp
from hyperpelt.errors import UserError, unknown
from hyperpelt.vision.images import BadImage, content_hash, file_of, load_image, source_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from hyperpelt.tasks import Example, Task
    from hyperpelt.vision.base import ImageEncoder

ON_BAD_IMAGE = ("error", "skip")
WINDOW_ROWS = 2048  # rows looked at before the images among them are encoded
WINDOW_IMAGES = 256  # new pictures encoded together, at most
WINDOW_PIXELS = 100_000_000  # and at most about so many pixels, decoded, in memory
Numbered = tuple[int, "Example"]


class Features(Protocol):
    """Where features are kept: a `FeatureStore`, or `Remembered`."""

    encoder: ImageEncoder | None

    def __contains__(self, key: str) -> bool: ...

    def refresh(self) -> None:
        """Take notice of what other processes have kept since."""
        ...

    def read(self, keys: Sequence[str]) -> Float[Tensor, "N G Dv"]:
        """The features that are kept under these keys, [N G Dv]; an error for one that is not."""
        ...

    def features(
        self, images: Sequence[Any], *, keys: Sequence[str] | None = None, load: Callable[[Any], Image] = load_image
    ) -> Float[Tensor, "N G Dv"]:
        """The features of images: kept ones, or encoded and kept. keys: of the images, where they are known."""
        ...


class Remembered:
    """Features in memory alone, for images that nobody will ask for again."""

    def __init__(self, encoder: ImageEncoder | None = None) -> None:
        self.encoder = encoder
        self._kept: dict[str, Tensor] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def refresh(self) -> None:
        """Nobody else keeps anything here."""

    def read(self, keys: Sequence[str]) -> Float[Tensor, "N G Dv"]:
        return torch.stack([self._kept[key] for key in keys])

    def features(
        self, images: Sequence[Any], *, keys: Sequence[str] | None = None, load: Callable[[Any], Image] = load_image
    ) -> Float[Tensor, "N G Dv"]:
        assert self.encoder is not None
        keys = [content_hash(image) for image in images] if keys is None else list(keys)
        self._kept |= zip(keys, self.encoder.encode([load(image) for image in images]), strict=True)
        return self.read(keys)


@dataclass
class Eye:
    """Sees the images of rows.

    - **store**: keeps the features
    - **encoder**: makes the encoder, when one is needed
    - **on_bad_image**: `error`, or `skip`: go on without it
    - **allow_urls**: whether images may be addresses
    - **num_bad**: images that were skipped
    - **files**: where it is wanted, gets the `stamp` of every file that an image was looked for in
    """

    store: Features
    encoder: Callable[[], ImageEncoder]
    on_bad_image: str = "error"
    allow_urls: bool = False
    num_bad: int = 0
    files: dict[str, Stamp] | None = None
    _bad: dict[str, str] = field(default_factory=dict)  # why, by key: the same bytes are not decoded again

    def __post_init__(self) -> None:
        if self.on_bad_image not in ON_BAD_IMAGE:
            raise unknown("on_bad_image", self.on_bad_image, ON_BAD_IMAGE)

    def features(self, keys: Sequence[str]) -> Float[Tensor, "N G Dv"]:
        """Features of images that were seen, float32."""
        return self.store.read(keys)

    def lacks(self, keys: Iterable[str]) -> bool:
        """Whether features of some of these images are not there."""
        self.store.refresh()
        return any(key not in self.store for key in keys)

    def see(self, rows: Iterable[Numbered], *, where: str, drop_bad: bool = False) -> Iterator[Numbered]:
        """The rows with the key of each image in its place; its features are kept by then.

        - **rows**: (number, example); **where**: names them in messages, such as 'vl/nlvr2 train'
        - **drop_bad**: leave out a row with a bad image; else it goes on with the images that are good

        Raises:
            UserError: an image is bad and not to be skipped, or an address; with the row.
        """
        self.store.refresh()  # another process may have encoded them a moment ago
        for window in self._windows(rows, where):
            for number, example in self._encoded(window, where):
                if not (drop_bad and any(key is None for key in example.images)):
                    yield number, replace(example, images=tuple(key for key in example.images if key is not None))

    def _windows(self, rows: Iterable[Numbered], where: str) -> Iterator[list[tuple[Numbered, dict[str, Any]]]]:
        """Rows with keys for images (None: unreadable), and the sources of their new ones, cut where enough are new."""
        window: list[tuple[Numbered, dict[str, Any]]] = []
        new: set[str] = set()
        for number, example in rows:
            sources: dict[str, Any] = {}
            keys = [self._key(image, sources, f"{where} row {number}") for image in example.images]
            window.append(((number, replace(example, images=tuple(keys))), sources))
            new |= sources.keys()
            if len(window) == WINDOW_ROWS or len(new) >= WINDOW_IMAGES:
                yield window
                window = []
                new = set()
        yield window

    def _key(self, image: Any, sources: dict[str, Any], where: str) -> str | None:
        """The image's key; where its features are missing, `sources` gets its content."""
        file = None if self.files is None else file_of(image)
        if self.files is not None and file is not None:
            self.files[str(file)] = stamp(file)  # before it is read
        try:
            source = source_of(image, allow_urls=self.allow_urls)
            key = content_hash(source)
            if key in self._bad:
                raise BadImage(self._bad[key])
        except BadImage as problem:
            return self._skip(problem, where)
        except UserError as problem:
            raise UserError(f"{where}: {problem}") from None
        if key not in self.store:
            sources[key] = source
        return key

    def _skip(self, problem: BadImage, where: str) -> None:
        if self.on_bad_image == "error":
            raise UserError(f"{where}: {problem}. To go on without such images set on_bad_image: skip.") from None
        self.num_bad += 1

    def _encoded(self, window: list[tuple[Numbered, dict[str, Any]]], where: str) -> Iterator[Numbered]:
        pictures: dict[str, Image] = {}
        for (number, _), sources in window:
            for key, source in sources.items():
                self._decode(key, source, pictures, f"{where} row {number}")
        self._encode(pictures)
        for (number, example), _ in window:
            keys = [None if key in self._bad else key for key in example.images]
            yield number, replace(example, images=tuple(keys))

    def _decode(self, key: str, source: Any, pictures: dict[str, Image], where: str) -> None:
        if key in self._bad:
            self.num_bad += 1
        elif key not in pictures and key not in self.store:
            try:
                pictures[key] = load_image(source)
            except BadImage as problem:
                self._skip(problem, where)
                self._bad[key] = str(problem)
        if sum(picture.width * picture.height for picture in pictures.values()) > WINDOW_PIXELS:
            self._encode(pictures)
            pictures.clear()

    def _encode(self, pictures: dict[str, Image]) -> None:
        if pictures:
            self.store.encoder = self.store.encoder or self.encoder()
            self.store.features(list(pictures.values()), keys=list(pictures), load=lambda picture: picture)


def refuse(task: str) -> UserError:
    """The error of a task with images where nothing reads them."""
    return UserError(
        f"{task} has images, and this method reads none: take one with a visual part (vl-hyperpelt, visual-tokens, "
        "memvp), set blind: true to withhold the images, or leave the task out."
    )


def seen(task: Task, where: str, rows: Iterable[Numbered], eye: Eye | None, *, blind: bool) -> list[Example]:
    """The examples with keys for images, whose features are known by now; without them if they are withheld."""
    if "image" not in task.modalities:
        return [example for _, example in rows]
    if blind:
        return [replace(example, images=()) if example.images else example for _, example in rows]
    if eye is None:
        raise refuse(task.name)
    return [example for _, example in eye.see(rows, where=where)]
