"""A step is device-clean and sync-free: nothing mixes devices, and nothing reads back what an accelerator holds.

Proven without an accelerator: the model's tensors are fakes on a stand-in device. Whatever would mix devices, or wait
for data (`item`, `tolist`, `nonzero`, a truth value), raises there. Host tensors stay real, as a batch's are.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import transformers.masking_utils
from small_models import make_bart, make_t5
from support import TASKS, batch, describe, small
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from transformers.modeling_outputs import BaseModelOutput

from hyperpelt import methods
from hyperpelt.backbones.decoder_cache import CACHE, cache_of
from hyperpelt.config import load_run
from hyperpelt.data.candidates import Candidate, lay_out
from hyperpelt.model.inputs import inputs_of
from hyperpelt.model.tuned import TunedModel
from hyperpelt.training.interrupts import Stop
from hyperpelt.training.loop import Loop
from hyperpelt.training.objective import total_loss
from hyperpelt.vision.spec import VisualSpec

AWAY = torch.device("meta")  # the stand-in: no CPU build of PyTorch has another device
SPEC = VisualSpec(dim=10, grid=(2, 2))
FAMILIES = {"t5": make_t5, "gated": partial(make_t5, feed_forward_proj="gated-gelu"), "bart": make_bart}
SEEING = [name for name in methods.names() if any(s.visual for s in methods.get(name).sources.values())]
TRAINING = [name for name in methods.names() if name != "frozen"]


class Waiting(TorchFunctionMode):
    """Raises at what a stand-in lets pass and CUDA waits for: host values that are copied while the host stands still,
    and operations whose size only the device knows."""

    MADE = (torch.tensor, torch.as_tensor, torch.asarray)
    SIZED = (torch.isin, torch.unique, torch.unique_consecutive, torch.nonzero, torch.masked_select, torch.bincount)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        given = kwargs or {}
        if func in self.MADE and torch.device(given.get("device") or "cpu") == AWAY:
            raise AssertionError(f"{func.__name__} on the device copies from the host, and waits")
        if func in self.SIZED and any(isinstance(x, torch.Tensor) and x.device == AWAY for x in args):
            raise AssertionError(f"{func.__name__} waits for the device")
        out = func(*args, **given)
        if func is torch.Tensor.to and args[0].device != AWAY and out.device == AWAY and not given.get("non_blocking"):
            raise AssertionError("to copies from the host, and waits")
        return out


@pytest.fixture(autouse=True)
def transformers_believes_in_the_device(monkeypatch):
    """transformers leaves reads out where it meets a fake tensor; a real accelerator would be read."""
    monkeypatch.setattr(transformers.masking_utils, "is_tracing", lambda tensor=None: False)


def away(model: TunedModel) -> TunedModel:
    """The model with every tensor on the stand-in device."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                moved = mode.from_tensor(parameter.detach().to(AWAY))
                module._parameters[name] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer.to(AWAY))
    return model


def model_of(family: str, method: str, **more: object) -> TunedModel:
    spec = SPEC if method in SEEING else None
    chosen = {**small(method), **more} if more else small(method)
    model = TunedModel.build(FAMILIES[family](), method=chosen, tasks=TASKS, image_encoder=spec)
    return away(describe(model).train())


def rows(**more: object) -> dict[str, object]:
    """A batch as the sampler's side makes it, on the host."""
    made = batch()
    tokens = int((made["labels"] != -100).sum())
    totals = {"num_global_tokens": tokens, "num_read_tokens": tokens, "num_global_rows": len(made["labels"])}
    return {**made, "row_weights": torch.ones(len(made["labels"])), "row_names": ["row"] * 4, **totals, **more}


def pictures() -> dict[str, object]:
    return {"visual": torch.randn(3, 4, 10), "visual_rows": torch.tensor([0, 0, 2])}


def wrong() -> dict[str, object]:
    labels = torch.tensor([[5, 6, 1], [9, 1, -100]])
    return {"wrong_labels": labels, "wrong_rows": torch.tensor([0, 2]), "num_global_wrong_tokens": 5}


def candidates() -> dict[str, object]:
    each = [[Candidate((5, 6), 2), Candidate((5, 7), 2)], [Candidate((8,), 1)], *[[Candidate((9,), 1)]] * 2]
    return {"candidates": lay_out(each, start=0, pad=0)}


def backward(model: TunedModel, made: dict[str, object]) -> None:
    with Waiting():
        loss = total_loss(model(**inputs_of(made, AWAY)), made)
        assert loss.device == AWAY
        loss.backward()


@pytest.mark.parametrize(
    ("family", "method"),
    [(family, method) for family in ("t5", "bart") for method in TRAINING] + [("gated", "hyperpelt"), ("gated", "ia3")],
)
def test_a_training_step_of_every_method_stays_on_its_device_and_waits_for_nothing(family, method):
    model = model_of(family, method)
    optimizer = torch.optim.AdamW([parameter for _, parameter in model.trainable_parameters()], lr=1e-3)
    backward(model, rows(**pictures() if method in SEEING else {}))
    torch.nn.utils.clip_grad_norm_([parameter for _, parameter in model.trainable_parameters()], 1.0)
    optimizer.step()


@pytest.mark.parametrize("form", ["map", "neighbours"])
def test_tasks_known_by_their_words_wait_for_nothing(form):
    network = {"description_dropout": 0.5, "description_form": form}
    backward(model_of("t5", "hyperformer++", hypernetwork=network), rows())


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("loss", [wrong, candidates], ids=["t-few", "ranking"])
@pytest.mark.parametrize("method", ["hyperpelt", "prompt-tuning", "vl-hyperpelt"])
def test_losses_over_choices_wait_for_nothing(family, method, loss):
    seen = pictures() if method in SEEING else {}
    backward(model_of(family, method), rows(**loss(), **seen))


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("method", ["hyperpelt", "lora", "prompt-tuning", "unipelt"])
def test_scoring_waits_for_nothing_before_its_scores_are_read(family, method):
    model, made = model_of(family, method).eval(), batch()
    ids, mask = made["input_ids"].to(AWAY), made["attention_mask"].to(AWAY)
    labels, owners = torch.tensor([[5, 6, 1], [5, 7, 1], [9, 1, -100]]), torch.tensor([0, 0, 3])
    found = model.token_log_probs(ids, mask, made["task_ids"], labels, owners)
    assert found.shape == (3, 3)
    assert found.device == AWAY


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("method", ["hyperpelt", "prompt-tuning", "hyperformer++"])
def test_writing_a_token_stays_on_its_device_and_waits_for_nothing(family, method):
    """The steps that `generate` takes; it reads by itself after each token whether all rows have ended."""
    model, made = model_of(family, method).eval(), batch()
    ids, mask = made["input_ids"].to(AWAY), made["attention_mask"].to(AWAY)
    with torch.no_grad(), model.running(made["task_ids"], ids, mask) as running:
        running.picked = {}
        inputs, mask = model.embedded(running, ids, mask)
        step = {"attention_mask": mask, "use_cache": True}
        first = model.backbone(**inputs, decoder_input_ids=ids[:, :1], **step)
        states = BaseModelOutput(last_hidden_state=first.encoder_last_hidden_state)
        token, cache = first.logits.argmax(-1), cache_of(first)
        second = model.backbone(encoder_outputs=states, decoder_input_ids=token, **{CACHE: cache}, **step)
    assert second.logits.device == AWAY


def test_a_task_that_is_added_lies_on_the_device_of_the_model():
    model = model_of("t5", "hyperpelt")
    model.add_task("new")
    made = rows(task_ids=torch.full((4,), model.task_id("new")))
    backward(model, made)
    assert all(parameter.device == AWAY for parameter in model.parameters())


class Nothing:
    """Whatever is asked of it, and nothing comes of it."""

    def __getattr__(self, name: str) -> object:
        return lambda *args, **kwargs: None


def test_twenty_steps_of_the_loop_between_two_log_lines_wait_for_nothing():
    model = model_of("bart", "hyperpelt")
    groups = [{"params": [parameter for _, parameter in model.trainable_parameters()], "scale": 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    settings = {"tasks": "tabletop/nli", "output_dir": ".", "learning_rate": 1e-3, "log_steps": 50, "max_steps": 100}
    config = load_run(None, list({**settings, "save_steps": None, "eval_steps": None}.items()))
    processes = SimpleNamespace(
        rank=0, world=1, device=AWAY, backward=lambda loss: loss.backward(), largest=lambda number: number,
        accumulating=lambda model, *, last: nullcontext(), sum_gradients=lambda parameters: None,
        add_up=lambda values: values,
    )  # fmt: skip
    loop = Loop(
        config=config, processes=processes, model=model, forward=model, optimizer=optimizer, sampler=Nothing(),
        total=100, folder=None, stop=Stop(), evaluate=Nothing(), about={}, first=lambda count: iter(()),
    )  # fmt: skip
    loop.screen = loop.callbacks = Nothing()
    loop.run(iter([[rows()]] * 20))
    assert loop.state.step == 20


def test_the_stand_in_does_see_a_read_and_a_mix():
    """What the tests above rest on."""
    model = model_of("t5", "lora")
    parameter = next(model.parameters())
    with pytest.raises(Exception, match="_local_scalar_dense"):
        float(parameter.sum())
    with pytest.raises(Exception, match="device"):
        parameter + torch.ones_like(parameter, device="cpu")
    with Waiting():
        torch.ones(2).to(AWAY, non_blocking=True)
        for waits in (
            lambda: torch.ones(2).to(AWAY),
            lambda: torch.tensor([1], device=AWAY),
            lambda: torch.unique(parameter),
        ):
            with pytest.raises(AssertionError, match="wait"):
                waits()
