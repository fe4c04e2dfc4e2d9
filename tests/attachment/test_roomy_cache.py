"""The cache of generation: the same words as transformers' own, whatever happens to it, and less copied."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import ClassVar

import pytest
import torch
from small_models import make_bart, make_t5
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, EncoderDecoderCache

from hyperpelt.attachment.roomy_cache import RoomyLayer, joined_in_place
from hyperpelt.backbones.decoder_cache import CACHE
from hyperpelt.errors import UserError
from hyperpelt.model import inference
from hyperpelt.model.tuned import TunedModel

BACKBONES = {"t5": make_t5, "bart": make_bart}
WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampled": {"do_sample": True, "num_return_sequences": 2},
    "looked up": {"prompt_lookup_num_tokens": 2},
    "static": {"cache_implementation": "static"},
    "long": {"max_new_tokens": 70, "min_new_tokens": 70},
}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)
def test_words_are_those_of_the_usual_cache(make, way, monkeypatch):
    model = TunedModel.build(make(), method="hyperpelt", tasks=["a", "b"]).eval()
    for _, parameter in model.trainable_parameters():
        parameter.data.add_(0.05 * drawn(*parameter.shape))
    ids, written = torch.arange(3, 19).view(2, 8), []
    rows = 1 if "prompt_lookup_num_tokens" in way else 2
    for _ in range(2):
        torch.manual_seed(0)
        options = {"max_new_tokens": 7, "min_new_tokens": 7, **way}
        written.append(model.generate(ids[:rows], task_ids=torch.arange(rows), **options))
        monkeypatch.setattr(inference, "roomy_cache", lambda config: DynamicCache(config=config))
    assert torch.equal(*written)


@pytest.mark.parametrize("method", ["lora", {"name": "conv-adapter", "bottleneck": 4}, {"name": "lst", "reduction": 4}])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_decoder_may_have_more_or_fewer_layers_than_its_encoder(layers, method):
    """transformers itself counts a T5's encoder's, and writes nothing where the decoder has more."""
    model = TunedModel.build(make_t5(num_decoder_layers=layers), method=method, tasks=["a"]).eval()
    ids, options = torch.arange(3, 11)[None], {"task": "a", "max_new_tokens": 4, "min_new_tokens": 4}
    for beams in (1, 2):
        plain = model.generate(ids, **options, num_beams=beams, use_cache=False)
        assert torch.equal(model.generate(ids, **options, num_beams=beams), plain)


@pytest.mark.parametrize("option", [WAYS["static"], WAYS["looked up"]], ids=str)
def test_another_cache_is_refused_where_the_own_one_remembers_more_than_keys(option):
    """Tokens that are looked up and then not taken would stay in what a window looks back at."""
    model = TunedModel.build(make_t5(), method={"name": "conv-adapter", "bottleneck": 4}, tasks=["a"]).eval()
    with pytest.raises(UserError, match=rf"'conv-adapter' reads earlier positions.*without {next(iter(option))}"):
        model.generate(torch.arange(3, 11)[None], task="a", max_new_tokens=4, **option)


@pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)
def test_a_token_copies_no_keys_of_the_tokens_before_it(make):
    class Joins(TorchDispatchMode):
        seen: ClassVar[Counter[str]] = Counter()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen[func.overloadpacket.__name__] += func.overloadpacket.__name__ == "cat" and args[0][0].dim() == 4
            return func(*args, **(kwargs or {}))

    model = TunedModel.build(make(), method="hyperpelt", tasks=["a"]).eval()
    counts = []
    for length in (8, 16):
        Joins.seen.clear()
        with Joins():
            model.generate(torch.arange(3, 11)[None], task="a", max_new_tokens=length, min_new_tokens=length)
        counts.append(Joins.seen["cat"])
    assert counts[0] == counts[1], "joined while the first tokens are written, and never again"


def test_a_layer_is_what_transformers_layer_is_after_any_change():
    layer, usual = RoomyLayer(), DynamicCache().layer_class_to_replicate()
    changes = [
        lambda made: None,
        lambda made: made.batch_repeat_interleave(2),
        lambda made: made.batch_select_indices(torch.tensor([3, 0, 2, 2])),
        lambda made: made.crop(-2),
        lambda made: made.reorder_cache(torch.tensor([1, 0, 3, 2])),
        lambda made: made.reset(),
    ]
    rows = drawn(4, 2, 3, 5, seed=7)
    for number, change in enumerate(changes):
        for step in range(30):
            count = 1 + (number + step) % 2
            new = drawn(2 if number < 2 else 4, 2, count, 5, seed=100 * number + step)
            (keys, values), expected = layer.update(new, -new), usual.update(new, -new)
            assert torch.equal(keys, expected[0])
            assert torch.equal(values, expected[1])
            front = rows[: len(new)]
            assert torch.equal(joined_in_place(front, keys), torch.cat([front, keys], dim=2))
            assert torch.equal(joined_in_place(-front, values), torch.cat([-front, values], dim=2))
        change(layer)
        change(usual)


def test_a_prefix_that_changed_is_written_again_and_copies_of_a_cache_go_their_own_ways():
    layer = RoomyLayer()
    layer.lazy_initialization(drawn(2, 2, 3, 5), drawn(2, 2, 3, 5))  # as transformers does where it makes room early
    keys, _ = layer.update(drawn(2, 2, 3, 5), drawn(2, 2, 3, 5))
    rows = drawn(2, 2, 4, 5, seed=1)
    joined_in_place(rows, keys)
    rows.mul_(2)
    assert torch.equal(joined_in_place(rows, keys), torch.cat([rows, keys], dim=2))
    assert torch.equal(joined_in_place(rows[:, :, 1:] + 1, keys), torch.cat([rows[:, :, 1:] + 1, keys], dim=2))
    other = deepcopy(layer)
    new = drawn(2, 2, 1, 5, seed=2), drawn(2, 2, 1, 5, seed=3)
    one, two = layer.update(new[0], new[0])[0], other.update(new[1], new[1])[0]
    assert torch.equal(one, torch.cat([keys, new[0]], dim=2))
    assert torch.equal(two, torch.cat([keys, new[1]], dim=2))
    one, values = layer.keys, layer.values
    again, _ = layer.update(new[0], new[0])
    layer.keys, layer.values = one, values  # what was held before goes on otherwise
    other_end, _ = layer.update(new[1], new[1])
    assert torch.equal(again[:, :, :4], other_end[:, :, :4])
    assert torch.equal(again[:, :, 4:], new[0])


def test_a_cache_that_is_given_is_used():
    model = TunedModel.build(make_bart(), method="hyperpelt", tasks=["a"]).eval()
    config = model.backbone.config
    cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
    model.generate(torch.arange(3, 11)[None], task="a", max_new_tokens=4, min_new_tokens=4, **{CACHE: cache})
    assert cache.get_seq_length() == 4
