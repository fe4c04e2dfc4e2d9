"""What a tuned model does with image features.

Features of N images come with the row of the batch that each belongs to; rows without images are not named. The visual
weight sources make the tensors of all operations for the N images in one batched matmul, as the others do for tasks.

Legend: N images, G grid cells, Dv width of a feature, B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hyperpelt.attachment.row_images import RowImages
from hyperpelt.data.host import OnHost, sent, unwrapped
from hyperpelt.errors import UserError
from hyperpelt.methods.base import Method, Part
from hyperpelt.operations import Operation, select
from hyperpelt.vision.base import ImageEncoder
from hyperpelt.vision.spec import VisualSpec
from hyperpelt.weights import Sources


def spec_of(encoder: ImageEncoder | VisualSpec | str | Path | None) -> VisualSpec | None:
    """What an encoder's features are: from its description, itself, or its name."""
    if encoder is None or isinstance(encoder, VisualSpec):
        return encoder
    from hyperpelt.vision import load_image_encoder

    return (encoder if isinstance(encoder, ImageEncoder) else load_image_encoder(encoder)).spec


class Sight:
    """From image features to the tensors of a pass, through a model's visual sources.

    - **spec**: the features the model was made for; None if its method reads no images
    """

    def __init__(self, method: str, sources: Sources, given: VisualSpec | None) -> None:
        self.method, self.sources = method, sources
        self.spec = self._spec(given)

    def _spec(self, given: VisualSpec | None) -> VisualSpec | None:
        """The features of the visual sources, with the encoder's name where one was given."""
        sources = self.sources.of_images()
        if not sources:
            return None
        config = sources[0].config
        if given is not None:
            assert (given.dim, given.cells) == (config.feature_dim, config.cells), "the method was made for this spec"
            return given
        return VisualSpec(dim=config.feature_dim, grid=(1, config.cells))

    def standardise(self, features: Float[Tensor, "N G Dv"]) -> None:
        """See `TunedModel.standardise_features`."""
        self._check(features)
        for source in self.sources.of_images():
            source.standardise(features)

    def _check(self, features: Tensor) -> None:
        if self.spec is None:
            raise UserError(
                f"Method {self.method!r} reads no images, got features of {len(features)}: choose a method with a "
                "visual part (vl-hyperpelt, visual-tokens, memvp) or give no images."
            )
        if features.dim() != 3 or features.shape[1:] != (self.spec.cells, self.spec.dim):
            raise UserError(
                f"Expected image features of shape [images, {self.spec.cells}, {self.spec.dim}] (encoder "
                f"{self.spec.encoder or 'unnamed'!r}), got {list(features.shape)}."
            )

    def row_images(
        self,
        visual: Tensor | None,
        visual_rows: Int[Tensor, " N"] | OnHost | None,
        num_rows: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> RowImages | None:
        """The images of a batch of `num_rows` rows with the tensors made of them, in `dtype`; None if there are none.

        - **visual** [N G Dv]: features, in this order
        - **visual_rows**: the row of each image; several of one row in their order. None: one image a row, in order

        Raises:
            UserError: features of another shape, a row that is not there, more images a row than the method takes.
        """
        if visual is None or len(visual) == 0:
            return None
        self._check(visual)
        rows = list(range(len(visual))) if visual_rows is None else unwrapped(visual_rows).tolist()
        owned: list[list[int]] = [[] for _ in range(num_rows)]
        if visual_rows is None and len(visual) != num_rows:
            raise UserError(f"Give `visual_rows`: {len(visual)} images for {num_rows} rows are not one each.")
        if len(rows) != len(visual) or not all(0 <= row < num_rows for row in rows):
            raise UserError(f"Expected a row from 0 to {num_rows - 1} for each of {len(visual)} images, got {rows}.")
        order: list[int] = []
        for image, row in enumerate(rows):
            order.append(len(owned[row]))
            owned[row].append(image)
        for source in self.sources.of_images():
            source.check_images(max(order) + 1)
        made = self._seen(sent(visual, device), sent(order, device), dtype)
        return RowImages(owned, made, num_images=len(visual), device=device)

    def _seen(
        self, features: Float[Tensor, "N G Dv"], order: Int[Tensor, " N"], dtype: torch.dtype
    ) -> dict[str, Sequence[Tensor]]:
        made: dict[str, Tensor] = {}
        for source in self.sources.of_images():
            made |= source(features.to(source.feature_mean.dtype), order)
        return {name: values.to(dtype).unbind(1) for name, values in made.items()}

    def tied(self, row_loss: Float[Tensor, " B"], images: RowImages | None) -> Float[Tensor, " B"]:
        """The same losses. Where a batch has no images, what reads them gets a gradient of zero instead of none.

        So a process whose share of a batch is text alone still takes part when gradients are averaged, and one process
        does what several do.
        """
        if images is not None or self.spec is None or not torch.is_grad_enabled():
            return row_loss
        trained = [p for source in self.sources.of_images() for p in source.parameters() if p.requires_grad]
        return row_loss + sum(p.flatten()[0] for p in trained) * 0.0 if trained else row_loss

    def image_encoder(self, *, device: str | torch.device | None = None) -> ImageEncoder:
        """See `TunedModel.image_encoder`."""
        from hyperpelt.vision import load_image_encoder

        if self.spec is None or not self.spec.encoder:
            raise UserError("This model names no image encoder: give features, or build it with `image_encoder=`.")
        where: dict[str, Any] = {"pooled": True} if self.spec.pooled else {"grid": self.spec.grid}
        dtype = getattr(torch, self.spec.precision)
        encoder = load_image_encoder(self.spec.encoder, **where, dtype=dtype, device=device)
        self.spec.require(encoder.spec)
        return encoder


def for_features(method: Method, spec: VisualSpec | None, operations: Sequence[Operation]) -> Method:
    """The method with its visual sources, and the rows of the tuners that draw rows from them, made for these features.

    - **operations**: of the backbone
    """
    if spec is None:
        return method
    sizes = {"feature_dim": spec.dim, "cells": spec.cells}
    parts = [
        replace(part, tuner=part.tuner.with_rows(spec.cells)) if _sees_rows(method, part, operations) else part
        for part in method.parts
    ]
    sources = {
        name: source if source.visual is None else replace(source, visual=replace(source.visual, **sizes))
        for name, source in method.sources.items()
    }
    return replace(method, parts=tuple(parts), sources=sources)


def _sees_rows(method: Method, part: Part, operations: Sequence[Operation]) -> bool:
    """Whether rows of the part's tuner (of a prefix, a memory) are those of images."""
    seen = {name for name in part.sources if method.source(name).visual is not None}
    every = (part.tuner.tensors(operation) for operation in select(operations, part.at)) if seen else ()
    return any(spec.row_wise and part.source_of(name) in seen for specs in every for name, spec in specs.items())
