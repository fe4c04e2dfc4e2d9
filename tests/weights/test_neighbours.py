"""Embeddings made of other tasks': the equations, who is a neighbour, what it trains; settings."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import make_t5
from support import batch, describe

from hyperpelt import methods
from hyperpelt.errors import UserError
from hyperpelt.model.tuned import TunedModel

SMALL = {"name": "hyperformer++", "bottleneck": 4, "embedding_dim": 8}
WORDS = {"description_dropout": 0.5, "description_form": "neighbours"}


def model_of(*tasks: str, told: bool = True, **network: object) -> TunedModel:
    model = TunedModel.build(make_t5(), method={**SMALL, "hypernetwork": network}, tasks=list(tasks or "abc"), seed=3)
    return describe(model) if told else model


def network_of(model: TunedModel):
    return model.sources["hypernetwork"]


def mixture(own: list[float], every: list[list[float]], embeddings: torch.Tensor, but: int, b: float) -> torch.Tensor:
    """sum_s a_s z_s over s != but, one number after the other."""
    powers = {}
    for s, other in enumerate(every):
        if s != but:
            dot = sum(x * y for x, y in zip(own, other, strict=True))
            powers[s] = math.exp(math.exp(b) * dot / math.hypot(*own) / math.hypot(*other))
    made = sum(power * embeddings[s].double() for s, power in powers.items())
    return made / sum(powers.values())


def test_neighbours_by_words_are_the_equations():
    model = model_of(**WORDS).eval()
    network = network_of(model)
    with torch.no_grad():
        network.words.sharpness.fill_(0.7)
        found = network.by_words(torch.arange(3))
    vectors = network.words.vectors.double()
    read = [torch.cat([one[0], one[1:].mean(dim=0)]) for one in vectors]
    centre = sum(read) / 3
    x = [((one - centre) / network.words.scale.double()).tolist() for one in read]
    b = network.words.sharpness.item()
    for t in range(3):
        torch.testing.assert_close(found[t].double(), mixture(x[t], x, network.task_embeddings.detach(), t, b))


def test_what_stands_in_trains_the_embeddings_of_others_and_the_sharpness():
    model = model_of(**{**WORDS, "description_dropout": 1.0}).train()
    network = network_of(model)
    with torch.no_grad():  # heads start at zero, where embeddings have no gradient
        for parameter in network.heads.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model(**{**batch(), "task_ids": torch.zeros(4, dtype=torch.long)}).loss.backward()
    gradient = network.task_embeddings.grad
    assert gradient.flatten(1).any(dim=1).tolist() == [False, True, True]
    assert network.words.sharpness.grad != 0


def test_a_task_alone_is_its_own_neighbour():
    model = model_of("a", **WORDS)
    network, one = network_of(model), torch.tensor([0])
    assert torch.equal(network.by_words(one), network.task_embeddings)


def test_an_added_task_is_made_of_the_trained_ones_alone_also_after_saving(tmp_path):
    model = model_of(**WORDS).eval()
    network = network_of(model)
    before = network.by_words(torch.arange(3))
    for name in ("d", "e"):
        model.add_task(name)
        model.tell({name: network.words.vectors[1].clone()})  # the words of b
        model.start_task_described(name)
    assert torch.equal(network.by_words(torch.arange(3)), before)
    made = network.task_embeddings.detach()
    assert torch.equal(made[3], made[4])
    own = network.words._x(network.words._whole(network.words.vectors))
    b = network.words.sharpness.item()
    expected = mixture(own[3].tolist(), own[:3].tolist(), made, -1, b)
    torch.testing.assert_close(made[3].double(), expected)
    model.save_pretrained(tmp_path)
    again = network_of(TunedModel.from_pretrained(tmp_path, backbone=model.backbone))
    assert again.words.trained.tolist() == [True] * 3 + [False] * 2
    assert torch.equal(again.eval().by_words(torch.arange(5)), network.by_words(torch.arange(5)))


def test_a_named_method_takes_settings_of_its_hypernetwork_and_keeps_its_own():
    plain, changed = (
        methods.get({"name": "hyperformer++", **more}).source("hypernetwork").hypernetwork
        for more in ({}, {"hypernetwork": {"embedding_std": 0.1}})
    )
    assert changed.to_dict() == {**plain.to_dict(), "embedding_std": 0.1}
    again = methods.get(methods.get({**SMALL, "hypernetwork": WORDS}).to_dict())
    assert again.source("hypernetwork").hypernetwork.description_form == "neighbours"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"description_form": "neighbours"}, "no effect without `description_dropout`"),
        ({"described": True, "description_form": "neighbours"}, "no embeddings to mix"),
        ({"description_dropout": 0.5, "description_form": "neighbour"}, "Did you mean 'neighbours'"),
    ],
)
def test_a_bad_setting_is_named(settings, words):
    with pytest.raises(UserError, match=words):
        model_of(told=False, **settings)
