"""The visual methods against float64 transcriptions of their papers, from features to logits.

    vl-hyperpelt    HyperPELT (arXiv 2203.03878): z = W f + c + e_o per cell, h_I and heads as for tasks
    visual-tokens   VL-Adapter (2112.06825): LN(Linear(f)) after the text
    memvp           MemVP (2405.05615): FFN(x) + s phi(x (z + e1)^T)(z + e2), z = c P(f)

One reference a row: its own task, its own images, no padding, no batch.
"""

from __future__ import annotations

import pytest
import torch
from comparison import make_batch, make_rough, make_tuned, tensors_of
from reference_hypernetwork import _head, _hyper_embedding, by_operation, hyper_tensors
from test_references import Transcribed, relu

CELLS, WIDTH = 4, 5
OWNERS = torch.tensor([2, 0, 2, 1])  # row 3 has no image


def features():
    return torch.randn(4, CELLS, WIDTH, generator=torch.Generator().manual_seed(8), dtype=torch.float64) * 3 + 1


class Seeing(Transcribed):
    """With any number of parallel adapters and memories beside each feed-forward network."""

    image_adapters = ()
    memories = ()
    memory_scale = 1.0

    def sublayer(self, name, x, h, out):
        out = super().sublayer(name, x, h, out)
        for table in self.image_adapters:
            if name in table:
                t = table[name]
                out = out + t["scale"] * (relu(x @ t["down"] + t["down_bias"]) @ t["up"] + t["up_bias"])
        for table in self.memories if name.endswith("feed_forward") else ():
            out = out + self.memory_scale * relu(x @ table["keys"].T) @ table["values"]
        return out


def measured(source, values):
    return (values - source.feature_mean.double()) / source.feature_std.double()


def made_of_image(model, image, order):
    """(operation name, group key) -> tensor of the visual hypernetwork, one operation and one row at a time."""
    source = model.sources["visual"]
    values = {name: value.double() for name, value in source.state_dict().items()}
    z = measured(source, image) @ values["mapping"] + values["mapping_bias"] + values["order_embeddings"][order]
    values = {n.removeprefix("network."): v for n, v in values.items() if n.startswith("network.")}
    values["task_embeddings"] = z[None]
    config = source.config.network
    everything = list({op.name: op for group in source.groups.values() for op in group.operations}.values())
    made = {}
    for key, group in source.groups.items():
        name = key.replace(".", "__")
        for place, op in enumerate(group.operations):
            rows = [_hyper_embedding(config, values, everything, op, 0, g) for g in range(CELLS)]
            tensor = _head(config, values, group, op, rows)
            if f"{name}__mean" in values:
                tensor = values[f"{name}__mean"][place] + values[f"{name}__std"][place] * tensor
            made[op.name, key] = tensor
    return made


def projected(source, image, key, order):
    """The rows that the projector makes of an image for the tensor `key`."""
    values = {name: value.double() for name, value in source.state_dict().items()}
    rows, config, width = measured(source, image), source.config, source.groups[key].spec.shape[1]
    rows = rows @ values[f"projectors.{width}.weights.0"] + values[f"projectors.{width}.biases.0"]
    if config.hidden:
        rows = rows / (1 + torch.exp(-rows))
        rows = rows @ values[f"projectors.{width}.weights.1"] + values[f"projectors.{width}.biases.1"]
    if config.normalise:
        centred = rows - rows.mean(-1, keepdim=True)
        rows = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        rows = rows * values[f"projectors.{width}.norm.weight"] + values[f"projectors.{width}.norm.bias"]
    name = key.replace(".", "__")
    rows = rows * config.scale + values[f"places.{name}"][order]
    if f"{name}__mean" in values:  # one operation, the embedding
        rows = values[f"{name}__mean"][0] + values[f"{name}__std"][0] * rows
    return rows


@torch.no_grad()
def assert_rows_agree(model, reference_of):
    """Every row of a mixed batch has the logits of its own reference, to 1e-10 of their size."""
    rows, images = make_batch(), features()
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    got = model(**rows, visual=images, visual_rows=OWNERS).logits
    blind = model(**rows).logits
    for row in range(4):
        length = int(rows["attention_mask"][row].sum())
        ids, mask, targets = (rows[name][row : row + 1] for name in names)
        wanted = reference_of(
            int(rows["task_ids"][row]), images[row == OWNERS], ids[:, :length], mask[:, :length], targets
        )
        error = (got[row] - wanted[0]).abs().max() / wanted.abs().max()
        assert error < 1e-10, f"row {row}: logits differ by {error:.1e} of their size"
        change = (got[row] - blind[row]).abs().max() / wanted.abs().max()
        assert change < 1e-10 if row == 3 else change > 1e-4, row


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_vl_hyperpelt_is_its_equations_from_features_to_logits(kind):
    backbone = make_rough(kind)
    settings = {
        "prefix_length": 3, "bottleneck": 4, "visual_bottleneck": 3, "prefix_hidden": 6, "visual_prefix_hidden": 7,
        "embedding_dim": 5, "hidden_dim": 7, "hyper_dim": 6, "feature_dim": WIDTH, "cells": CELLS,
    }  # fmt: skip
    model = make_tuned(backbone, {"name": "vl-hyperpelt", **settings})
    model.standardise_features(features())

    def reference_of(task, images, ids, mask, targets):
        own = hyper_tensors(model, task)
        prefixes = {name: dict(tensors) for name, tensors in by_operation(own, "prefix").items()}
        seen = [made_of_image(model, image, order) for order, image in enumerate(images)]
        for table in (by_operation(made, "visual_prefix") for made in seen):
            for name, tensors in table.items():
                for what, value in tensors.items():
                    prefixes[name][what] = torch.cat([prefixes[name][what], value])
        reference = Seeing(
            backbone,
            prefixes=prefixes,
            adapters=by_operation(own, "adapter"),
            image_adapters=[by_operation(made, "visual_adapter") for made in seen],
            phi=relu,
            sequential=False,
        )
        assert len(reference.prefixes) == 6
        return reference.shifted(tensors_of(model, task, part="norms")).logits(ids, mask, targets)

    assert_rows_agree(model, reference_of)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_visual_tokens_are_projected_features_typed_after_the_text(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, {"name": "visual-tokens", "beside": "", "feature_dim": WIDTH, "cells": CELLS})
    model.standardise_features(features())

    def reference_of(task, images, ids, mask, targets):
        reference, source = Seeing(backbone), model.sources["projector"]
        tokens = [projected(source, image, "visual_tokens.rows", order) for order, image in enumerate(images)]
        vectors = torch.cat([reference.typed(ids)[0], *tokens])[None]
        return reference.decoded(reference.encoded(vectors, ids, torch.ones(vectors.shape[:2])), targets)

    assert_rows_agree(model, reference_of)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_memvp_is_projected_features_in_the_feed_forward(kind):
    backbone = make_rough(kind)
    spec = {"name": "memvp", "feature_dim": WIDTH, "cells": CELLS, "hidden": 6, "scale": 0.5, "projector_scale": 0.3}
    model = make_tuned(backbone, spec)

    def reference_of(task, images, ids, mask, targets):
        source = model.sources["projector"]
        memories = [
            {what: projected(source, image, f"visual_memory.{what}", order) for what in ("keys", "values")}
            for order, image in enumerate(images)
        ]
        reference = Seeing(backbone, memories=memories, memory_scale=0.5)
        return reference.logits(ids, mask, targets)

    assert_rows_agree(model, reference_of)
