"""A tuned model beside its float64 reference: rough backbones, batches, and the values that both use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from reference_backbones import Reference
from small_models import make_bart, make_t5
from torch import Tensor
from transformers import MBartConfig, MBartForConditionalGeneration, PreTrainedModel

from hyperpelt.model.tuned import TunedModel

BACKBONES = ("t5", "t5-gated", "bart", "mbart")
TASKS = ["a", "b"]


def make_mbart(seed: int = 0) -> MBartForConditionalGeneration:
    """A random mBART: pre-norm, scaled embeddings, a norm at the end of each stack."""
    torch.manual_seed(seed)
    config = MBartConfig(
        vocab_size=128, d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=64, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=2, max_position_embeddings=64, dropout=0.0, init_std=0.1,
        scale_embedding=True, decoder_start_token_id=2,
    )  # fmt: skip
    return MBartForConditionalGeneration(config).eval()


def make_rough(kind: str, seed: int = 0) -> PreTrainedModel:
    """A float64 backbone in which nothing is zero or one: biases, norms and position biases play a part."""
    makers = {
        "t5": lambda: make_t5(seed),
        "t5-gated": lambda: make_t5(seed, feed_forward_proj="gated-gelu", d_kv=6, tie_word_embeddings=False),
        "bart": lambda: make_bart(seed),
        "mbart": lambda: make_mbart(seed),
    }
    backbone = makers[kind]().double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            size = 1.0 if "relative_attention_bias" in name else 0.15
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * size)
    return backbone


def make_batch(rows: int = 4, source: int = 9, target: int = 6, seed: int = 1) -> dict[str, Tensor]:
    """Rows of different lengths and tasks, padded on the right; ids 1 and 2, of which one is EOS, stand in each."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 128, (rows, source), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, :3], ids[2, :3] = 2, 1
    for row in range(rows):
        length = source - 2 * row
        ids[row, [length // 2, length - 1]] = torch.tensor([1, 2])
        mask[row, length:] = 0
    targets = torch.randint(3, 128, (rows, target), generator=generator)
    tasks = torch.arange(rows) % len(TASKS)
    return {
        "input_ids": ids.masked_fill(mask == 0, 0),
        "attention_mask": mask,
        "decoder_input_ids": targets,
        "task_ids": tasks,
    }


def make_tuned(backbone: PreTrainedModel, method: object, *, size: float = 0.3) -> TunedModel:
    """A tuned model of two tasks whose tensors were all moved away from where they start."""
    model = TunedModel.build(backbone, method=method, tasks=TASKS, seed=3).eval()
    model.sources.double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * size)
    return model


@torch.no_grad()
def tensors_of(model: TunedModel, task: int = 0, *, part: str | None = None) -> dict[str, dict[str, Tensor]]:
    """Operation name -> tensor name -> the values that this task uses there, of one part or of all parts."""
    made = model.weights_of(torch.tensor([task]))
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for source in model.sources.values():
        for key, group in source.groups.items():
            if part not in (None, group.part):
                continue
            for index, operation in ((i, op) for i, place in enumerate(group.places) for op in place):
                assert group.tensor not in found[operation.name], f"two tensors {group.tensor!r} at {operation.name}"
                found[operation.name][group.tensor] = made[key][0, index].double()
    return dict(found)


@torch.no_grad()
def assert_agrees(model: TunedModel, references: Sequence[Reference], *, tolerance: float = 1e-10) -> None:
    """In a mixed-task batch every row has the logits of its task's reference, to 1e-10 of their size."""
    batch = make_batch()
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    got = model(**batch).logits
    for task, reference in enumerate(references):
        rows = batch["task_ids"] == task
        wanted = reference.logits(*(batch[name][rows] for name in names))
        error = (got[rows] - wanted).abs().max() / wanted.abs().max()
        assert error < tolerance, f"task {task}: logits differ by {error:.1e} of their size"
    bare = Reference(model.backbone).logits(*(batch[name] for name in names))
    change = (got - bare).abs().amax(dim=(1, 2)) / bare.abs().max()
    assert change.min() > 1e-5, "the tuner changes some row so little that agreement would mean nothing"
