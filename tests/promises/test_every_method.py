"""Every method, in every form that it has, on every promised family: one matrix of the promises 1, 3, 4, 6, 8 and 12.

A form is a name: per-task tensors as the method has them, `shared-NAME`, `hyper-NAME`. Counts are in test_counts.py.

A column that a method's mathematics rules out is not left out here: it has its own sentence in the method's file.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from small_models import make_bart, make_t5
from support import REFUSED, TASKS, batch, decode_step_by_step, describe, disturb, forms, spec_of
from torch import Tensor
from transformers import PreTrainedModel

from hyperpelt import methods
from hyperpelt.errors import UserError
from hyperpelt.export.baking import bake
from hyperpelt.methods.assemble import count_trainable
from hyperpelt.model.inputs import inputs_of
from hyperpelt.model.tuned import TunedModel
from hyperpelt.operations import list_operations
from hyperpelt.training.checkpoints import (
    Checkpoint,
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
)
from hyperpelt.training.courses import Courses
from hyperpelt.training.objective import total_loss
from hyperpelt.training.optimisation import load_optimizer_state, optimizer_state

MAKERS = {"t5": make_t5, "t5-gated": lambda: make_t5(feed_forward_proj="gated-gelu"), "bart": make_bart}
# How methods start that do not start as the backbone: with what settings they would, how near it they are, or, where
# neither can be had (rows of random keys, weights of two bits), not at all.
BACKBONE_WITH = {
    **{name: {"prefix_length": 0} for name in ("apt", "hyperpelt", "hyperprefix", "mam", "prefix-tuning", "unipelt")},
    "lst": {"last_gate": -20.0},
    "unfreeze-with-care": {"prefix_length": 0},
    "prefix-tuning-mlp": {"prefix_length": 0},
    "prompt-tuning": {"length": 0},
    "self-pt": {"length": 0},
    "visual-tokens": {"beside": {"name": "hyperpelt", "prefix_length": 0, "bottleneck": 4}},
    "vl-hyperpelt": {"prefix_length": 0},
}
NEAR = {"compacter", "compacter++", "mixphm"}
RANDOM = {"alphatuning", "hyperprompt"}
STEPS = 4  # tokens written

CELLS = [(name, kind) for name in (*methods.names(), *forms()) for kind in MAKERS]
every_cell = pytest.mark.parametrize(("name", "kind"), CELLS, ids=["-on-".join(cell) for cell in CELLS])


@cache
def model_of(name: str, kind: str) -> TunedModel:
    """A model that was moved from its start, in evaluation mode; on a backbone of its own."""
    model = TunedModel.build(MAKERS[kind](), method=spec_of(name), tasks=TASKS, seed=3).eval()
    disturb(model)
    return describe(model)


def rows_for(model: TunedModel, **sizes: int) -> dict[str, Tensor]:
    """A batch of four rows and three tasks; where the method sees, the second and the last row have images."""
    rows = batch(**sizes)
    if model.visual is not None:
        features = torch.randn(3, model.visual.cells, model.visual.dim, generator=torch.Generator().manual_seed(4))
        rows |= {"visual": features, "visual_rows": torch.tensor([1, 3, 3])}
    return rows


def one_row(rows: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """Row `number` alone, without its padding."""
    length = int(rows["attention_mask"][number].sum())
    alone = {n: rows[n][number : number + 1] for n in ("input_ids", "attention_mask", "labels", "task_ids")}
    alone |= {name: alone[name][:, :length] for name in ("input_ids", "attention_mask")}
    if "visual" in rows:
        mine = rows["visual_rows"] == number
        alone |= {"visual": rows["visual"][mine], "visual_rows": torch.zeros(int(mine.sum()), dtype=torch.long)}
    return alone


def test_the_matrix_holds_every_method():
    assert {name for name, _ in CELLS} >= set(methods.names())
    with pytest.raises(UserError, match="rank_target=null"):
        methods.get("hyper-adalora")
    for name in REFUSED:
        with pytest.raises(UserError, match=r"changes stored tensors .* made by"):
            methods.get(name)


@every_cell
def test_start(name, kind):
    """The backbone bit for bit, or as the method's file says."""
    backbone = MAKERS[kind]()
    rows = batch()
    labels = rows["labels"].masked_fill(rows["labels"] == -100, 0)
    start = torch.full((len(labels), 1), backbone.config.decoder_start_token_id)
    inputs = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}
    inputs["decoder_input_ids"] = torch.cat([start, labels[:, :-1]], dim=1)
    base = name.removeprefix("hyper-").removeprefix("shared-") if name not in methods.names() else name
    with torch.no_grad():
        bare = backbone(**inputs).logits
        spec = spec_of(name) | BACKBONE_WITH.get(base, {})
        logits = (
            TunedModel.build(backbone, method=spec, tasks=TASKS, seed=3)
            .eval()(**inputs, task_ids=rows["task_ids"])
            .logits
        )
    away = (logits - bare).abs().max()
    assert away < (1e-3 if base in NEAR else torch.inf if base in RANDOM else 1e-30)
    assert away > 0 or base not in NEAR | RANDOM


@every_cell
@torch.no_grad()
def test_a_mixed_batch_gives_each_row_what_it_gets_alone(name, kind):
    model = model_of(name, kind)
    rows = rows_for(model)
    mixed = model(**rows)
    for number in range(4):
        alone = model(**one_row(rows, number))
        torch.testing.assert_close(mixed.logits[number : number + 1], alone.logits, atol=2e-4, rtol=1e-4)
    sources = {model.method.source(source).type for part in model.method.parts for source in part.sources}
    other = model(**{**rows, "task_ids": (rows["task_ids"] + 1) % 3})
    moved = (other.logits - mixed.logits).abs().amax(dim=(1, 2))
    assert moved.min() > 1e-5 if sources & {"per_task", "hypernetwork"} else moved.max() == 0


@every_cell
@torch.no_grad()
def test_a_saved_model_and_a_baked_task_answer_bit_equal(name, kind, tmp_path):
    model = model_of(name, kind)
    rows = rows_for(model)
    model.save_pretrained(tmp_path)
    loaded = TunedModel.from_pretrained(tmp_path, backbone=MAKERS[kind]())
    assert torch.equal(loaded(**rows).logits, model(**rows).logits)
    if name == "full":
        return
    one = {**rows, "task_ids": torch.ones(4, dtype=torch.long)}
    baked = bake(model, TASKS[1])
    assert torch.equal(baked(**{**one, "task_ids": torch.zeros(4, dtype=torch.long)}).logits, model(**one).logits)
    baked.detach()


@every_cell
@torch.no_grad()
def test_cached_and_beam_generation_equal_uncached_decoding(name, kind):
    model = model_of(name, kind)
    rows = rows_for(model)
    inputs = {key: rows[key] for key in rows if key != "labels"}
    ids, rest = inputs.pop("input_ids"), {"min_new_tokens": STEPS, "max_new_tokens": STEPS, "do_sample": False}
    if kind == "bart":
        rest["forced_bos_token_id"] = rest["forced_eos_token_id"] = None
    cached = model.generate(ids, **inputs, **rest)
    assert torch.equal(cached, decode_step_by_step(model, rows, STEPS)[:, : cached.shape[1]])
    beams = [model.generate(ids, **inputs, **rest, num_beams=3, use_cache=use) for use in (True, False)]
    assert torch.equal(*beams)


class Training:
    """Steps of training as the loop takes them: gradients, optimiser, courses; and checkpoints of them."""

    def __init__(self, model: TunedModel, total: int) -> None:
        self.model, self.rows = model.train(), rows_for(model)
        self.optimizer = torch.optim.AdamW([p for _, p in model.trainable_parameters()], lr=0.01)
        self.courses = Courses(model, total=total, seed=7, first=lambda count: iter([[self.batch(0)]] * count))
        self.learned: set[str] = set()

    def batch(self, number: int) -> dict[str, object]:
        rows = {**self.rows, "task_ids": (self.rows["task_ids"] + number) % len(TASKS)}
        tokens = int((rows["labels"] != -100).sum())
        return {**rows, "row_weights": torch.ones(4), "num_global_rows": 4, "num_global_tokens": tokens}

    def step(self, number: int) -> None:
        batch = self.batch(number)
        total_loss(self.model(**inputs_of(batch, torch.device("cpu"))), batch).backward()
        named = self.model.trainable_parameters()
        self.learned |= {label for label, p in named if p.grad is not None and p.grad.abs().max() > 0}
        self.optimizer.step()
        self.courses.after_step(number)
        self.optimizer.zero_grad()

    def save(self, folder: Path, step: int) -> Path:
        tensors, numbers = optimizer_state(self.optimizer, self.model.trainable_parameters())
        trainer = {"state": {"step": step}, "optimizer": numbers}
        rng = [random_states(torch.device("cpu"))]
        state = self.model.method_state()
        return save_checkpoint(folder, Checkpoint(step, state, tensors, self.courses.state(), rng, trainer))

    def restore(self, path: Path) -> None:
        saved, named = load_checkpoint(path), list(self.model.trainable_parameters())
        self.model.load_method_state(saved.model)
        self.courses.load_state(saved.course)
        load_optimizer_state(self.optimizer, named, saved.optimizer, saved.trainer["optimizer"])
        restore_random_states(saved.rng[0], torch.device("cpu"))


def composed(model: TunedModel, backbone: PreTrainedModel) -> TunedModel:
    """The model that is trained, where a course says before training what its method becomes."""
    if not any(course.composes for course in model.method.courses):
        return model
    courses = Training(model, total=3).courses
    method = courses.compose()
    model.detach()
    made = TunedModel.build(backbone, method=method, tasks=TASKS, seed=3)
    courses.settle(made)
    return made


@every_cell
def test_all_that_is_trained_learns_nothing_else_moves_and_a_resumed_training_ends_alike(name, kind, tmp_path):
    """Three steps: what is multiplied by a tensor that starts at zero learns from the second one on."""
    if name == "frozen":
        return
    backbone = MAKERS[kind]()
    before = {label: tensor.clone() for label, tensor in backbone.state_dict().items()}
    model = describe(TunedModel.build(backbone, method=spec_of(name), tasks=TASKS, seed=3))
    model = composed(model, backbone)
    assert model.num_trainable() == count_trainable(model.method, backbone, list_operations(backbone), len(TASKS))
    whole = Training(model, total=3)
    whole.courses.begin()
    for number in (1, 2):
        whole.step(number)
    checkpoint = whole.save(tmp_path, 2)
    whole.step(3)
    idle = {label for label, _ in model.trainable_parameters()} - whole.learned
    assert not idle, f"never learns: {sorted(idle)}"
    assert all(torch.equal(tensor, before[label]) for label, tensor in backbone.state_dict().items())
    assert not [label for label, parameter in backbone.named_parameters() if parameter.grad is not None]
    trained = {id(parameter) for _, parameter in model.trainable_parameters()}
    assert not [label for label, p in model.named_parameters() if p.requires_grad and id(p) not in trained]

    resumed = Training(TunedModel.build(MAKERS[kind](), method=model.method, tasks=TASKS, seed=3), total=3)
    disturb(resumed.model)
    resumed.restore(checkpoint)
    resumed.step(3)
    ends = [{**one.model.method_state(), **one.courses.state()} for one in (whole, resumed)]
    assert ends[0].keys() == ends[1].keys()
    assert not [label for label, tensor in ends[0].items() if not torch.equal(tensor, ends[1][label])]
