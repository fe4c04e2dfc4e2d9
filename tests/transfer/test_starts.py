"""Where a new task starts: its words, its nearest neighbour, the one that explains the shots, a named one, the mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transfer_runs import trained_run

from hyperpelt import Generator
from hyperpelt import tasks as registry
from hyperpelt.errors import UserError
from hyperpelt.model.descriptions import read_tasks, read_texts, tell_tasks
from hyperpelt.model.starts import check_start, losses, start_task
from hyperpelt.model.tuned import TunedModel
from hyperpelt.transfer.fit import ShotData
from hyperpelt.weights.description import NUM_INPUTS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with trained_run(tmp_path_factory.mktemp("run")) as folder:
        yield folder


@pytest.fixture
def model(run):
    return TunedModel.from_pretrained(run)


def embedding(model: TunedModel, name: str) -> torch.Tensor:
    (network,) = model.described()
    return network.task_embeddings[model.task_id(name)].detach().clone()


def test_the_checkpoint_holds_the_words_of_its_tasks(run, model):
    tasks = [registry.get(name) for name in model.tasks]
    read = read_tasks(model.backbone, model.tokenizer, tasks, max_source_length=32)
    saved = load_file(run / "model.safetensors")["hypernetwork.description.vectors"]
    assert saved.shape == (2, 1 + NUM_INPUTS, 32)
    torch.testing.assert_close(saved, torch.stack([read[name] for name in model.tasks]))
    alone = read_texts(model.backbone, model.tokenizer, [tasks[0].description], 32)
    torch.testing.assert_close(alone[0], saved[0, 0], rtol=1e-4, atol=1e-5)  # padding plays no part


def test_in_training_a_dropped_id_means_the_embedding_of_the_words(model):
    (network,) = model.described()
    every = torch.arange(2)
    with torch.no_grad():
        own = network.task_embeddings.clone()
        assert torch.equal(network._embeddings(every), own)  # never in evaluation
        model.train()
        network.dropped = 1.0
        assert not torch.isclose(network._embeddings(every), own).any(dim=(1, 2)).all()
        network.dropped = 0.5
        torch.manual_seed(0)
        kept = [bool((network._embeddings(every)[0] == own[0]).all()) for _ in range(60)]
    assert 15 < sum(kept) < 45


def test_a_method_with_words_must_be_told_them(tiny_bart):
    method = {"name": "hyperformer++", "bottleneck": 4, "description_dropout": 0.3}
    model = TunedModel.build(tiny_bart, method=method, tasks=["a", "b"])
    ids = torch.ones(2, 4, dtype=torch.long)
    with pytest.raises(UserError, match="they were not given"):
        model(ids, labels=ids, task_ids=torch.tensor([0, 1]))
    model.eval()(ids, labels=ids, task_ids=torch.tensor([0, 1]))
    model.tell({name: torch.randn(1 + NUM_INPUTS, 32) for name in "ab"})
    model.train()(ids, labels=ids, task_ids=torch.tensor([0, 1])).loss.backward()
    (network,) = model.described()
    assert all(parameter.grad is not None for parameter in network.description.parameters())


def test_described_gets_weights_from_words_alone(model):
    word = registry.get("toy/word")
    twin, other = (
        replace(word, name="toy/twin"),
        replace(word, name="toy/other", description="Count the letters of it."),
    )
    for task in (word, twin, other):
        model.add_task(task)
    trained = ("toy/mood", "toy/truth")
    for task in (word, twin, other):
        assert start_task(model, task, "described", among=trained).task is None
    assert torch.equal(embedding(model, "toy/word"), embedding(model, "toy/twin"))
    assert not torch.isclose(embedding(model, "toy/word"), embedding(model, "toy/other")).any(dim=0).all()
    made = model.weights_of(torch.tensor([2, 4]))
    assert any(not torch.equal(values[0], values[-1]) for values in made.values())


def test_mean_and_named_and_nearest(model):
    word = registry.get("toy/word")
    mood, truth = embedding(model, "toy/mood"), embedding(model, "toy/truth")
    model.add_task(word)
    start_task(model, word, "mean")
    torch.testing.assert_close(embedding(model, "toy/word"), (mood + truth) / 2)
    assert start_task(model, word, "like:toy/truth").task == "toy/truth"
    assert torch.equal(embedding(model, "toy/word"), truth)
    twin = replace(registry.get("toy/mood"), name="toy/twin")
    model.add_task(twin)
    found = start_task(model, twin, "nearest", among=["toy/mood", "toy/truth"])
    assert found.task == "toy/mood"
    assert found.figures["toy/mood"] == pytest.approx(1, abs=1e-4)
    assert torch.equal(embedding(model, "toy/twin"), mood)
    assert torch.equal(embedding(model, "toy/mood"), mood)


def test_a_task_starts_with_the_state_that_the_values_it_takes_were_trained_with(tiny_bart):
    """Values at chosen positions are of use at those positions alone."""
    part = {"tuner": {"type": "entries", "share": 0.02}, "at": ["q", "v"]}
    tuned = TunedModel.build(tiny_bart, method={"parts": [part]}, tasks=["a", "b"]).eval()
    ids = torch.tensor([[2, 7, 8, 9, 1]])

    def said(task):
        return tuned(ids, labels=ids, task_ids=torch.tensor([tuned.task_id(task)])).logits

    with torch.no_grad():
        for name, values in tuned.sources.named_buffers():
            if name.endswith("positions"):
                values[1] += 5  # a course chose others for task b
        for _, parameter in tuned.trainable_parameters():
            parameter.add_(torch.arange(parameter.numel()).view_as(parameter) % 7 - 3.0)
        tuned.add_task("new")
        for name in ("b", "a", "b"):
            tuned.start_task("new", {name: 1.0})
            assert torch.equal(said("new"), said(name))
        assert not torch.equal(said("a"), said("b"))


def test_scored_takes_the_task_whose_weights_explain_the_shots_best(model, run, tiny_tokenizer):
    from test_choice_losses import tokens_of

    word = registry.get("toy/word")
    model.add_task(word)
    shots = ShotData(word, tokens_of("toy/word", tiny_tokenizer), None).in_order(model, [0, 3, 4, 9], 3)
    assert sum(len(batch["row_names"]) for batch in shots) == 4
    found = start_task(model, word, "scored", among=["toy/mood", "toy/truth"], shots=shots)
    assert found.task == min(found.figures, key=found.figures.get)
    assert torch.equal(embedding(model, "toy/word"), embedding(model, found.task))
    assert losses(model, ["toy/word"], shots)["toy/word"] == pytest.approx(found.figures[found.task], rel=1e-5)
    with pytest.raises(UserError, match="from shots alone"):
        start_task(model, word, "scored")


def test_mistakes_name_the_way_out(model, run):
    for name, said in (("means", "'mean'"), ("liketoy", "start of a new task")):
        with pytest.raises(UserError, match=said):
            check_start(name)
    word = registry.get("toy/word")
    model.add_task(word)
    with pytest.raises(UserError, match="Did you mean 'toy/truth'"):
        start_task(model, word, "like:toy/trut")
    bare = replace(word, name="toy/bare", description="")
    model.add_task(bare)
    with pytest.raises(UserError, match="has no description"):
        start_task(model, bare, "described")
    plain = TunedModel.build(model.backbone, method="lora", tasks=["toy/mood", "toy/word"])
    with pytest.raises(UserError, match="was trained without a map"):
        start_task(plain, word, "described")
    with pytest.raises(UserError, match="has no hypernetwork"):
        plain.train_only("hypernetwork", ["toy/word"])


def test_a_method_that_knows_tasks_by_their_descriptions_serves_one_that_has_no_rows(run, tmp_path):
    """Nobody reads a row of it: its source would raise."""
    trained = [registry.get(name) for name in TunedModel.from_pretrained(run).tasks]
    backbone = TunedModel.from_pretrained(run)
    spec = {"name": "text-to-lora", "rank": 2, "embedding_dim": 8, "hidden_dim": 16, "hyper_dim": 8}
    model = TunedModel.build(backbone.backbone, method=spec, tasks=trained, tokenizer=backbone.tokenizer)
    with pytest.raises(UserError, match="tell_tasks"):
        model.train()(torch.tensor([[5, 1]]), labels=torch.tensor([[5, 1]]), task_ids=torch.tensor([0]))
    tell_tasks(model, trained)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.1)

    def refuse(split):
        raise AssertionError("no row is read")

    new = replace(trained[0], name="toy/new", description="Say it in French.", source=Generator(refuse))
    twin = replace(new, name="toy/twin", description=trained[1].description)
    before = model.eval().weights_of(torch.arange(2))
    for task in (new, twin):
        model.add_task(task)
        start_task(model, task, "described", among=[one.name for one in trained])
    made = model.weights_of(torch.arange(4))
    for key, values in made.items():
        torch.testing.assert_close(values[:2], before[key])
        torch.testing.assert_close(values[3], values[1])
        if "up" in key:
            assert not torch.isclose(values[2], values[0]).any(dim=-1).all()
    with pytest.raises(UserError, match="nothing for single tasks"):
        model.train_only("embedding", ["toy/new"])
    model.save_pretrained(tmp_path)
    again = TunedModel.from_pretrained(tmp_path, backbone=backbone.backbone)
    assert all(torch.equal(values, made[key]) for key, values in again.weights_of(torch.arange(4)).items())
    start_task(model, new, "like:" + trained[1].name)
    assert all(torch.equal(v[2], v[1]) for v in model.weights_of(torch.arange(4)).values())
