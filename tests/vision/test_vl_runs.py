"""Images through the whole program: joint training, evaluation, prediction, exact resume, bad images, blindness.

A small real backbone, the embedded image encoder, and three tasks of the suite: text, one image with open answers, two
images with choices.
"""

from __future__ import annotations

import io
import json
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm
from PIL import Image
from safetensors.torch import load_file
from small_models import make_t5

from hyperpelt import Example, Files, Generator, Task, TunedModel, UserError, evaluate, tasks, train, transfer
from hyperpelt.config import load_run
from hyperpelt.data import MicroBatches, MixtureSampler, TokenizedSet, lengths_of
from hyperpelt.data.seeing import Eye
from hyperpelt.evaluation.run import predict
from hyperpelt.vision import FeatureStore, load_image_encoder

METHOD = {
    "name": "vl-hyperpelt",
    "prefix_length": 3,
    "bottleneck": 4,
    "visual_bottleneck": 4,
    "prefix_hidden": 8,
    "embedding_dim": 8,
    "hidden_dim": 8,
    "hyper_dim": 8,
}
TASKS = ("tabletop/sentiment", "tabletop/vqa", "tabletop/pairs")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HYPERPELT_FEATURES", str(tmp_path / "features"))


@pytest.fixture
def settings(tmp_path: Path, tiny_tokenizer: Any) -> dict[str, Any]:
    backbone = tmp_path / "t5"
    make_t5(dropout_rate=0.1).save_pretrained(backbone)
    tiny_tokenizer.save_pretrained(backbone)
    return {
        "backbone": str(backbone),
        "method": METHOD,
        "tasks": list(TASKS),
        "image_grid": 2,
        "output_dir": str(tmp_path / "run"),
        "max_steps": 4,
        "save_steps": 2,
        "per_device_train_batch_size": 6,
        "gradient_accumulation_steps": 2,
        "train_limit": 40,
        "test_limit": 4,
        "max_source_length": 24,
        "max_target_length": 6,
        "learning_rate": 0.01,
        "frozen_row": False,
        "use_cpu": True,
    }


# ------------------------------------------------------------------------------------------------- the whole program


def test_joint_training_over_text_and_images_from_first_step_to_prediction(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    results = train(settings | {"frozen_row": True}, progress=False)
    assert set(results["tasks"]) == set(TASKS)
    assert all(task["rows"] == 4 and task["num_bad_images"] == 0 for task in results["tasks"].values())
    assert all(task["frozen"] is not None for task in results["tasks"].values())
    assert results["blind"] is False
    assert np.isfinite(results["training"]["loss"])
    stores = list((tmp_path / "features").iterdir())
    assert len(stores) == 1

    # Measured again from its folder, without encoding anything anew.
    before = {path: path.stat().st_mtime_ns for path in stores[0].glob("*.safetensors")}
    model = TunedModel.from_pretrained(settings["output_dir"])
    model.visual = replace(model.visual, encoder="not there any more")
    again = evaluate(model, list(TASKS), limit=4, max_source_length=24, max_target_length=6, progress=False).as_dict()
    assert {name: task["metrics"] for name, task in again["tasks"].items()} == {
        name: task["metrics"] for name, task in results["tasks"].items()
    }
    assert {path: path.stat().st_mtime_ns for path in stores[0].glob("*.safetensors")} == before


def test_accumulation_and_workers_change_nothing_with_images(settings: dict[str, Any], tmp_path: Path) -> None:
    def trained(name: str, **changes: Any) -> dict[str, torch.Tensor]:
        still = {"dropout": 0.0, "learning_rate": 1e-4, "adam_epsilon": 1e-3, "max_grad_norm": None, "warmup_steps": 0}
        train(settings | still | changes | {"max_steps": 2, "output_dir": str(tmp_path / name)}, progress=False)
        return load_file(tmp_path / name / "checkpoints" / "step-2" / "optimizer.safetensors")

    once = trained("once", per_device_train_batch_size=12, gradient_accumulation_steps=1)
    thrice = trained("thrice", per_device_train_batch_size=4, gradient_accumulation_steps=3)
    workers = trained("workers", per_device_train_batch_size=4, gradient_accumulation_steps=3, dataloader_num_workers=2)
    assert any(name.startswith("visual") and value.abs().max() > 0 for name, value in once.items())
    for name, value in once.items():
        torch.testing.assert_close(thrice[name], value, rtol=1e-4, atol=1e-6, msg=name)
        assert torch.equal(workers[name], thrice[name]), name


def test_a_bfloat16_backbone_is_trained_on_images(settings: dict[str, Any], tmp_path: Path) -> None:
    exact = train(settings | {"dropout": 0.0, "max_steps": 1}, progress=False)
    half = train(settings | {"dropout": 0.0, "max_steps": 1, "precision": "bf16", "overwrite": True}, progress=False)
    assert half["training"]["loss"] == pytest.approx(exact["training"]["loss"], rel=0.02)


def test_an_image_changes_the_answer_s_probabilities_wherever_it_comes_from(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    train(settings, progress=False)
    model = TunedModel.from_pretrained(settings["output_dir"])
    pictures = [tasks.get("tabletop/pairs").examples("test")[n].images[0] for n in range(2)]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    content = (tmp_path / "0.png").read_bytes()

    def ask(*images: Any, **how: Any) -> dict[str, float]:
        example = Example(input="there is a ball", choices=("false", "true"), images=images)
        return predict(model, "tabletop/pairs", [example], **how)[0]["probabilities"]

    first = ask(pictures[0], pictures[1])
    assert ask(tmp_path / "0.png", str(tmp_path / "1.png")) == first
    assert ask(content, pictures[1]) == first
    assert ask(pictures[1], pictures[0]) != first  # the order of the two counts
    assert ask(pictures[0], pictures[1], blind=True) != first
    with pytest.raises(UserError, match=r"tabletop/pairs row 0: cannot read the image gone.png"):
        ask("gone.png", pictures[0])
    with pytest.raises(UserError, match="URLs are only fetched if allowed"):
        ask("http://127.0.0.1:9/picture.png")
    caption = Example(input="describe the picture", images=(content,))
    beams = predict(model, "tabletop/vqa", [caption], num_beams=3, max_target_length=4)
    assert set(beams[0]) == {"answer"}


def test_the_predict_command_takes_paths_and_names_bad_lines(settings: dict[str, Any], tmp_path: Path) -> None:
    plugin = tmp_path / "seen.py"
    plugin.write_text(PLUGIN, encoding="utf8")
    train(settings | {"tasks": ["seen/shade"], "plugins": [str(plugin)], "max_steps": 1}, progress=False)
    tasks.remove("seen/shade")
    Image.new("RGB", (9, 9), (250, 250, 250)).save(tmp_path / "light.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = [{"image": name} for name in ("light.png", "bad.png", "absent.png", "http://127.0.0.1:9/x.png")]
    command = [warm.python(), "-m", "hyperpelt.cli", "predict", settings["output_dir"], "--task", "seen/shade"]
    answer = subprocess.run(
        command, input="\n".join(map(json.dumps, rows)), capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert answer.returncode == 2, answer.stderr
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    assert set(lines[0]["probabilities"]) == {"dark", "light"}
    assert "no image that can be read" in lines[1]["error"]
    assert "cannot read the image absent.png" in lines[2]["error"]
    assert "URLs are only fetched if allowed (--allow-urls" in lines[3]["error"]


def test_a_resumed_run_with_images_ends_bit_identical(settings: dict[str, Any], tmp_path: Path) -> None:
    whole, other = tmp_path / "whole", tmp_path / "other"
    train(settings | {"output_dir": str(whole)}, progress=False)
    resumed = {"output_dir": str(other), "resume": str(whole / "checkpoints" / "step-2")}
    train(settings | resumed, progress=False)
    for name in (
        "model.safetensors",
        "checkpoints/step-4/model.safetensors",
        "checkpoints/step-4/optimizer.safetensors",
    ):
        one, two = load_file(whole / name), load_file(other / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one), name
    assert any(key.startswith("visual") for key in one)


def test_a_trained_run_is_transferred_to_a_task_with_images(settings: dict[str, Any], tmp_path: Path) -> None:
    train(settings | {"tasks": ["tabletop/pairs", "tabletop/sentiment"], "max_steps": 2}, progress=False)
    cells = {"shots": [0, 4], "seeds": [0], "adapt": ["embedding", "scratch", "lora"], "limit": 4, "steps": 2}
    options = {"output": str(tmp_path / "transfer"), "batch_size": 2, "choose": "last"}
    found = transfer(settings["output_dir"], tasks=[shades()], progress=False, **cells, **options)
    done = {(cell["adapt"], cell["shots"]): cell for cell in found["cells"]}
    assert {adapt for adapt, _ in done} >= {"zero-shot", "embedding", "scratch", "lora"}
    assert all(0 <= cell["score"] <= 100 for cell in done.values())
    assert len(FeatureStore(None, TunedModel.from_pretrained(settings["output_dir"]).visual)) >= 12


def test_an_upper_size_that_a_run_needs_more_than_ends_it_before_the_first_step(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"need .* of features or more, .* may hold 10\.0 kB: raise features_max_size"):
        train(settings | {"features_max_size": "10kB"}, progress=False)
    assert not (tmp_path / "run").exists()
    train(settings | {"features_max_size": "5MB", "max_steps": 1}, progress=True)
    shown = " ".join(capsys.readouterr().err.split())
    assert "training images" in shown
    assert "of at most 5.0 MB in" in shown
    with pytest.raises(UserError, match="expected a size such as 500MB or 20GB"):
        load_run(None, ["tasks=tabletop/vqa", "output_dir=x", "features_max_size=large"])


# ------------------------------------------------------------------------------------------------------ refused, blind

PLUGIN = """
from PIL import Image

from hyperpelt import Example, Generator, Task, register


def rows(split, count=None):
    return [{"shade": n * 9 % 250, "label": int(n * 9 % 250 > 120)} for n in range(24 if split == "train" else 6)]


def shade(row):
    image = row["image"] if "image" in row else Image.new("RGB", (8, 8), (row["shade"],) * 3)
    return Example(input="is it dark", label=row["label"], images=(image,))


register(Task(name="seen/shade", source=Generator(rows), render=shade, choices=("dark", "light"),
              modalities=("text", "image"), description="Dark or light?"))
"""


def test_a_method_that_reads_no_images_is_refused_or_blind(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"tabletop/vqa has images, and this method reads none.*blind: true"):
        train(settings | {"method": "lora"}, progress=False)
    results = train(settings | {"method": "lora", "blind": True, "max_steps": 1}, progress=False)
    assert results["blind"] is True


def test_a_blind_run_has_the_same_trainable_count_and_touches_no_image(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    small = settings | {"max_steps": 1, "tasks": ["tabletop/pairs"]}
    blind = train(small | {"output_dir": str(tmp_path / "blind"), "blind": True}, progress=False)
    assert not list((tmp_path / "features").rglob("*.safetensors"))
    seeing = train(small | {"output_dir": str(tmp_path / "seeing")}, progress=False)
    assert list((tmp_path / "features").rglob("*.safetensors"))
    assert seeing["training"]["trainable"] == blind["training"]["trainable"]
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("seeing", "blind"))
    visual = [name for name in before if name.startswith("visual")]
    assert any(not torch.equal(before[name], after[name]) for name in visual)


# ---------------------------------------------------------------------------------------------------------- bad images


def encoded(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 255 - shade, 90)).save(stream, "PNG")
    return stream.getvalue()


class Shades:
    """Rows with encoded images; those of the numbers `bad` are damaged."""

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        self.bad = bad

    def __call__(self, split: str) -> list[dict[str, Any]]:
        images = [encoded(10 * n)[: 30 if n in self.bad else None] for n in range(12)]
        return [{"text": f"row {n}", "label": n % 2, "image": image} for n, image in enumerate(images)]


def looking(row: Any) -> Example:
    return Example(input=row["text"], label=row["label"], images=(row["image"],))


def shades(*bad: int) -> Task:
    fields = {"choices": ("no", "yes"), "modalities": ("text", "image"), "description": "Is it so?"}
    return Task(name="test/shades", source=Generator(Shades(bad)), render=looking, **fields)


@pytest.fixture
def eye(tmp_path: Path) -> Eye:
    encoder = load_image_encoder("mini-vision", grid=2)
    return Eye(FeatureStore(tmp_path / "store", encoder.spec), lambda: encoder)


def test_a_bad_training_image_is_named_or_its_row_left_out_and_counted(eye: Eye, tiny_tokenizer: Any) -> None:
    lengths = {"max_source_length": 16, "max_target_length": 4}
    with pytest.raises(UserError, match=r"test/shades train row 3: .* on_bad_image: skip"):
        TokenizedSet.load_or_build(shades(3, 7), "train", tiny_tokenizer, eye=eye, **lengths)
    eye.on_bad_image = "skip"
    tokens = TokenizedSet.load_or_build(shades(3, 7), "train", tiny_tokenizer, eye=eye, **lengths)
    assert tokens.numbers.tolist() == [n for n in range(12) if n not in (3, 7)]
    assert tokens.num_bad_images == 2
    assert tokens.name_of(3) == "test/shades train row 4"
    again = TokenizedSet.load_or_build(shades(3, 7), "train", tiny_tokenizer, eye=eye, **lengths)
    assert again.num_bad_images == 2
    with pytest.raises(UserError, match="every row of its split 'train' has a bad image"):
        TokenizedSet.load_or_build(shades(*range(12)), "train", tiny_tokenizer, eye=eye, **lengths)


def test_tokens_remember_images_whose_features_come_back_when_they_are_lost(
    eye: Eye, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    lengths = {"max_source_length": 16, "max_target_length": 4}
    tokens = TokenizedSet.load_or_build(shades(), "train", tiny_tokenizer, eye=eye, **lengths)
    assert len(set(tokens.image_keys())) == len(eye.store) == 12
    encoder = load_image_encoder("mini-vision", grid=2)
    expected = encoder.encode([Image.open(io.BytesIO(encoded(50)))])
    assert torch.equal(eye.features(tokens[5].images), expected)
    fresh = Eye(FeatureStore(tmp_path / "another", encoder.spec), lambda: encoder)
    TokenizedSet.load_or_build(shades(), "train", tiny_tokenizer, eye=fresh, **lengths)
    assert torch.equal(fresh.features(tokens[5].images), expected)


def test_an_image_that_is_another_one_by_now_is_seen_anew(eye: Eye, tiny_tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("image,label\na.png,0\nb.png,1\nc.png,0\n")
    for name, content in (("a", encoded(1)), ("b", encoded(2)), ("c", b"no image")):
        (tmp_path / f"{name}.png").write_bytes(content)
    task = Task(
        name="test/files", source=Files({"train": "rows.csv"}, base=tmp_path), choices=("no", "yes"),
        render=lambda row: Example(input="?", label=row["label"], images=(row["image"],)), modalities=("text", "image"),
    )  # fmt: skip
    eye.on_bad_image = "skip"

    def keys() -> list[str]:
        lengths = {"max_source_length": 16, "max_target_length": 4}
        return list(TokenizedSet.load_or_build(task, "train", tiny_tokenizer, eye=eye, **lengths).image_keys())

    one, two = keys()
    written = next((tmp_path / "cache").rglob("*.arrow")).stat().st_mtime_ns
    assert keys() == [one, two]
    assert next((tmp_path / "cache").rglob("*.arrow")).stat().st_mtime_ns == written, "nothing is made again"
    (tmp_path / "b.png").write_bytes(encoded(3) + b" ")
    assert keys()[0] == one
    assert keys()[1] not in (one, two)
    (tmp_path / "c.png").write_bytes(encoded(4))
    assert len(keys()) == 3, "what was no image may be one by now"
    made = keys()
    for name in "abc":
        (tmp_path / f"{name}.png").unlink()
    assert keys() == made, "what was seen is not needed any more"


def test_batches_carry_the_images_of_their_rows_only(eye: Eye, tiny_tokenizer: Any) -> None:
    lengths = {"max_source_length": 16, "max_target_length": 4}
    seen = TokenizedSet.load_or_build(shades(), "train", tiny_tokenizer, eye=eye, **lengths)
    text = TokenizedSet.load_or_build(tasks.get("tabletop/sentiment"), "train", tiny_tokenizer, limit=12, **lengths)
    sets = {"test/shades": seen, "tabletop/sentiment": text}
    sampler = MixtureSampler({"test/shades": 0.5, "tabletop/sentiment": 0.5}, lengths_of(sets), batch_size=8, window=1)
    rows = MicroBatches(sampler, sets, {"test/shades": 0, "tabletop/sentiment": 1}, 0, features=eye.store)
    batch = rows[0]
    with_images = (batch["task_ids"] == 0).nonzero().flatten()
    assert 0 < len(with_images) < 8
    assert batch["visual_rows"].tolist() == with_images.tolist()
    for row, features in zip(with_images.tolist(), batch["visual"], strict=True):
        number = int(batch["row_names"][row].rsplit(" ", 1)[1])
        assert torch.equal(features, eye.features(seen[number].images)[0])
    rows = MicroBatches(sampler, {**sets, "test/shades": text}, {"test/shades": 0, "tabletop/sentiment": 1}, 0)
    assert "visual" not in rows[0]


def test_evaluation_answers_rows_without_a_bad_image_and_counts_it(tiny_tokenizer: Any, tmp_path: Path) -> None:
    encoder = load_image_encoder("mini-vision", grid=2)
    options = {"method": METHOD, "tokenizer": tiny_tokenizer, "image_encoder": encoder.spec}
    model = TunedModel.build(make_t5(), tasks=["test/shades"], **options)
    how = {"features_dir": tmp_path / "store", "majority": False, "progress": False}
    with pytest.raises(UserError, match="test/shades test row 2: these bytes are no image"):
        evaluate(model, [shades(2)], **how)
    results = evaluate(model, [shades(2)], on_bad_image="skip", **how)
    found = results.tasks["test/shades"]
    assert (found.rows, found.num_bad_images) == (12, 1)
    assert any("1 bad images were skipped" in note for note in found.notes)
    assert results.as_dict()["tasks"]["test/shades"]["num_bad_images"] == 1


# ------------------------------------------------------------------------------------------------------ drawn targets


class Several:
    """Rows with three targets of different lengths."""

    def __call__(self, split: str) -> list[dict[str, Any]]:
        return [{"text": f"row {n}"} for n in range(8)]


TARGETS = (("yes", 1.0), ("no no", 0.6), ("maybe a b c", 0.0), ("true", 0.4))


def answered(row: Any) -> Example:
    return Example(input=row["text"], label=("yes",) * 3, targets=TARGETS)


def several() -> Task:
    return Task(name="test/several", source=Generator(Several()), render=answered, kind="generation", answer=())


def test_targets_are_drawn_by_score_and_weigh_by_it(tiny_tokenizer: Any) -> None:
    tokens = TokenizedSet.load_or_build(several(), "train", tiny_tokenizer, max_source_length=16, max_target_length=8)
    texts: Counter[str] = Counter()
    for step in range(500):
        row = tokens.drawn(step % 8, seed=1, step=step)
        text = tiny_tokenizer.decode(row.labels, skip_special_tokens=True)
        texts[text] += 1
        assert row.weight == pytest.approx(dict(TARGETS)[text])
    assert set(texts) == {"yes", "no no", "true"}
    for text, score in TARGETS:
        assert texts[text] / 500 == pytest.approx(score / 2, abs=0.06)


def test_a_draw_depends_on_seed_step_and_row_alone(tiny_tokenizer: Any) -> None:
    tokens = TokenizedSet.load_or_build(several(), "train", tiny_tokenizer, max_source_length=16, max_target_length=8)
    sampler = MixtureSampler({"test/several": 1.0}, lengths_of({"test/several": tokens}), batch_size=8, seed=3)

    def drawn(num_micro: int, world: int) -> list[Any]:
        """(step, row, label tokens, weight, label tokens of the global batch) of every row, in order."""
        found = []
        for rank in range(world):
            parts = {"num_micro": num_micro, "rank": rank, "world": world}
            rows = MicroBatches(sampler, {"test/several": tokens}, {"test/several": 0}, 0, **parts)
            for number in range(6 * num_micro):
                batch = rows[number]
                for name, ids, weight in zip(batch["row_names"], batch["labels"], batch["row_weights"], strict=True):
                    row = (number // num_micro, name, ids[ids >= 0].tolist(), float(weight))
                    found.append((*row, batch["num_global_tokens"]))
        return sorted(found)

    one = drawn(1, 1)
    assert drawn(4, 1) == one
    assert drawn(1, 2) == one
    for step in range(6):
        mine = [row for row in one if row[0] == step]
        assert {row[4] for row in mine} == {sum(len(row[2]) for row in mine)}
    assert len({tuple(row[2]) for row in one if row[1] == "test/several train row 0"}) > 1


def test_a_task_without_targets_or_images_keeps_its_file(tiny_tokenizer: Any) -> None:
    text = TokenizedSet.load_or_build(
        tasks.get("tabletop/sentiment"), "train", tiny_tokenizer, limit=5, max_source_length=16, max_target_length=4
    )
    assert not text.has_images
    assert not text.has_targets
    assert text[0].images == ()
    assert list(text.image_keys()) == []


def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="on_bad_image should be one of 'error', 'skip'"):
        load_run(None, ["tasks=vl/nlvr", "output_dir=x", "on_bad_image=ignore"])
