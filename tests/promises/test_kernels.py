"""What a step launches: on an accelerator each operation costs the host some microseconds, however small it is."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from small_models import make_bart, make_t5
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.t5.modeling_t5 import T5LayerNorm

from hyperpelt.model.tuned import TunedModel

BACKBONES = {
    "t5": lambda layers=2: make_t5(num_layers=layers, num_decoder_layers=layers),
    "bart": lambda layers=2: make_bart(encoder_layers=layers, decoder_layers=layers),
}


class Counting(TorchDispatchMode):
    """Counts what is launched, forward and backward, by the operation's name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def launched(make, method) -> Counter[str]:
    model = TunedModel.build(make(), method=method, tasks=["a", "b", "c"]).train()
    ids = torch.arange(3, 27).view(3, 8)
    with Counting() as counting:
        model(ids, torch.ones_like(ids), labels=ids[:, :3], task_ids=torch.tensor([0, 1, 2])).loss.backward()
    return counting.seen


@pytest.mark.parametrize("method", ["hyperblock", "hyperformer++", "hyperpelt", "ia3", "prefix-tuning", "layer-norm"])
@pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)
def test_a_view_of_what_is_shared_costs_nothing_backward(make, method):
    # tensor[0] would fill a whole gradient with zeros, and add it up.
    assert launched(make, method)["select_backward"] == 0


@pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)
def test_vectors_of_rows_are_picked_for_all_operations_at_once(make):
    """Doubling the layers doubles the picks of matrices, two an adapter, and adds none of the four vectors'."""
    counts = [launched(lambda layers=n: make(layers), "hyperformer++")["index_add"] for n in (2, 4)]
    adapters = 2 * (2 + 2)  # after self-attention and feed-forward network of two layers more in both stacks
    assert counts[1] - counts[0] == 2 * adapters


@pytest.mark.parametrize(("make", "norm"), [(make_t5, T5LayerNorm), (make_bart, torch.nn.LayerNorm)], ids=BACKBONES)
def test_a_norm_that_is_tuned_as_a_whole_is_not_computed_before(make, norm, monkeypatch):
    calls: list[object] = []
    plain = norm.forward
    monkeypatch.setattr(norm, "forward", lambda self, x: calls.append(self) or plain(self, x))
    model = TunedModel.build(make(), method="layer-norm", tasks=["a", "b"]).eval()
    ids = torch.arange(3, 19).view(2, 8)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, :3].contiguous()}
    tuned = [module for module in model.backbone.modules() if "forward" in vars(module)]
    assert len(tuned) == sum(isinstance(module, norm) for module in model.backbone.modules())
    with torch.no_grad():
        one = model(**batch, task_ids=torch.tensor([1, 1])).logits  # one task's tensors: the whole
        assert not calls
        model(**batch, task_ids=torch.tensor([0, 1]))  # each row's own: what they add
        assert len(calls) == len(tuned)
        twin = copy.deepcopy(model)
        model.detach()
        assert not [module for module in model.backbone.modules() if "forward" in vars(module)]
        assert torch.equal(model.backbone(**batch).logits, one)  # nothing is trained yet
        assert torch.equal(twin(**batch, task_ids=torch.tensor([1, 1])).logits, one)
