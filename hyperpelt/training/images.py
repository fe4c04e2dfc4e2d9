"""What a run prepares where its tasks have images: the encoder, the features of every image, and their measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hyperpelt import methods
from hyperpelt.config import RunConfig
from hyperpelt.config.sizes import num_bytes
from hyperpelt.data import TokenizedSet
from hyperpelt.data.making import see_again
from hyperpelt.data.seeing import Eye, refuse
from hyperpelt.model.eye import eye_of
from hyperpelt.training.checks import evaluated
from hyperpelt.vision.store import FeatureStore

if TYPE_CHECKING:
    import torch

    from hyperpelt.model.tuned import TunedModel
    from hyperpelt.tasks import Task
    from hyperpelt.vision.base import ImageEncoder

MEASURED = 512  # images whose features give the mean and deviation that the model measures features in


def choose_encoder(config: RunConfig, device: torch.device) -> ImageEncoder | None:
    """The run's image encoder; None if its method reads no images, or takes its model over from another run."""
    sources = methods.get(config.method).sources.values()
    if config.from_run is not None or all(source.visual is None for source in sources):
        return None
    from hyperpelt.vision import load_image_encoder

    return load_image_encoder(config.image_encoder, grid=config.image_grid, device=device)


def make_eye(config: RunConfig, model: TunedModel, tasks: Sequence[Task], encoder: ImageEncoder | None) -> Eye | None:
    """What sees the images of the run's tasks; None if there are none, or if they are withheld.

    Raises UserError for images that the method cannot read.
    """
    seen = [task for task in tasks if "image" in task.modalities]
    if config.blind or not seen:
        return None
    size = config.features_max_size
    eye = eye_of(
        model,
        features_dir=config.features_dir,
        max_bytes=None if size is None else num_bytes(size, where="features_max_size"),
        on_bad_image=config.on_bad_image,
    )
    if eye is None:
        raise refuse(seen[0].name)
    if encoder is not None:
        eye.encoder = lambda: encoder
    return eye


def see_evaluations(config: RunConfig, tasks: Sequence[Task], eye: Eye | None, show: bool) -> None:
    """Encode what evaluations will need, so that a bad image is found now and not after hours of training."""
    if eye is None:
        return
    for task in tasks:
        for split, limit in evaluated(config, task) if "image" in task.modalities else ():
            see_again(task.examples(split, data_root=config.data_root, limit=limit), eye, progress=show)


def features_of(
    config: RunConfig, model: TunedModel, sets: Mapping[str, TokenizedSet], eye: Eye | None
) -> FeatureStore | None:
    """The features of all training images, to be read without an encoder; the model learns what they measure."""
    if eye is None:
        return None
    assert model.visual is not None
    store = FeatureStore(config.features_dir, model.visual)
    if config.from_run is None:  # a model that is taken over keeps its measures
        measure(model, store, sets.values(), seed=config.seed)
    return store


def stored(eye: Eye) -> FeatureStore:
    """The store of an eye that keeps features on disk, as a run's does."""
    assert isinstance(eye.store, FeatureStore)
    return eye.store


def told(sets: Mapping[str, TokenizedSet], eye: Eye | None) -> str | None:
    """One line on the run's images and the store of their features."""
    if eye is None:
        return None
    store, count = stored(eye), len({key for tokens in sets.values() for key in tokens.image_keys()})
    room = f"; {store.removed} older shards made room" if store.removed else ""
    return f"{count:,} training images, {store.misses:,} images encoded now; features: {store.told()}{room}."


def measure(model: TunedModel, store: FeatureStore, sets: Iterable[TokenizedSet], *, seed: int) -> None:
    """Let the model measure features in units of those of some training images, drawn by the seed."""
    keys = sorted({key for tokens in sets for key in tokens.image_keys()})
    chosen = np.random.default_rng([seed, 5]).permutation(len(keys))[:MEASURED]
    if len(chosen):
        model.standardise_features(store.read([keys[place] for place in sorted(chosen)]))
