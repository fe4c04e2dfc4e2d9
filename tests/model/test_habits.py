"""What users of transformers and PEFT expect of a model: outputs, descriptions, state dicts, `Trainer` around it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_models import make_t5
from small_runs import PLUGIN, forget_tasks
from support import TASKS, batch, small, tuned
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Seq2SeqTrainer, Seq2SeqTrainingArguments

from hyperpelt import Collator, MixedRows, TunedModel, UserError
from hyperpelt import tasks as registry


def test_an_output_is_read_by_attribute_name_number_and_as_a_tuple(backbone: PreTrainedModel) -> None:
    output = tuned(backbone, small("hyperpelt"))(**batch())
    assert output[0] is output.loss is output["loss"]
    assert output[1] is output.logits
    assert [value is getattr(output, name) for name, value in output.items()] == [True] * 4
    assert len(output.to_tuple()) == 4
    unlabelled = {name: value for name, value in batch().items() if name != "labels"}
    bare = tuned(backbone, small("hyperpelt"))(**unlabelled, decoder_input_ids=torch.zeros(4, 1, dtype=torch.long))
    assert list(bare) == ["logits"]
    assert bare.loss is None


def test_generate_gives_scores_for_ids_and_for_texts(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    model = TunedModel.build(make_t5(), method=small("hyperpelt"), tasks=TASKS, tokenizer=tiny_tokenizer).eval()
    options = {"return_dict_in_generate": True, "output_scores": True, "max_new_tokens": 4}
    texts = model.generate(["good", "bad"], task="b", **options)
    assert texts.texts == model.generate(["good", "bad"], task="b", max_new_tokens=4)
    assert texts["scores"][0].shape == (2, model.config.vocab_size)
    rows = batch()
    ids = model.generate(**rows, **options)  # labels and all, as Trainer calls it
    asked = {name: rows[name] for name in ("attention_mask", "task_ids")}
    assert torch.equal(ids.sequences, model.generate(rows["input_ids"], **asked, max_new_tokens=4))
    with pytest.raises(UserError, match="generate needs inputs"):
        model.generate(task="b")


def test_score_takes_inputs_of_several_tasks(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    model = TunedModel.build(make_t5(), method=small("hyperpelt"), tasks=TASKS, tokenizer=tiny_tokenizer).eval()
    mixed = model.score(["good", "bad"], ["yes", "no"], task_ids=torch.tensor([2, 0]))
    alone = [model.score([text], ["yes", "no"], task=task)[0] for text, task in (("good", "c"), ("bad", "a"))]
    assert mixed == [pytest.approx(row, abs=1e-5) for row in alone]


def test_a_description_fits_a_screen_and_counts_as_peft_does(capsys: pytest.CaptureFixture[str]) -> None:
    model = TunedModel.build(make_t5(), method=small("hyperpelt"), tasks=[f"task-{i}" for i in range(50)])
    shown = repr(model)
    assert len(shown.splitlines()) < 12
    assert "task-7 and 42 more" in shown
    assert "prefix: Prefix(" in shown
    model.print_trainable_parameters()
    found = re.fullmatch(
        r"trainable params: ([\d,]+) \|\| all params: ([\d,]+) \|\| trainable%: ([\d.]+)\n", capsys.readouterr().out
    )
    trained, every, percent = (float(number.replace(",", "")) for number in found.groups())
    assert trained == model.num_trainable()
    assert every == sum(parameter.numel() for parameter in model.parameters())
    assert percent == pytest.approx(100 * trained / every, abs=1e-4)


@pytest.mark.parametrize("method", ["hyperpelt", "lora", "full"])
def test_the_state_dict_holds_what_is_trained_and_comes_back(method: str, tmp_path: Path) -> None:
    model = tuned(make_t5(), small(method))
    state = model.state_dict()
    inner = {name.removeprefix("sources."): value for name, value in state.items()}
    assert set(inner) == set(model.method_state())
    assert all(torch.equal(value, model.method_state()[name]) for name, value in inner.items())
    other = tuned(make_t5(), small(method), disturbed=False)
    before = other(**batch()).logits
    found = other.load_state_dict(state)  # strict: nothing frozen is missed
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert torch.equal(other(**batch()).logits, model(**batch()).logits)
    assert not torch.equal(other(**batch()).logits, before)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(dict(list(state.items())[1:]))
    whole = nn.Sequential(model)  # as DDP holds it
    assert set(whole.state_dict()) == {f"0.{name}" for name in state}
    assert not whole.load_state_dict(whole.state_dict()).missing_keys


def test_a_changed_copy_of_the_configuration_reaches_no_backbone() -> None:
    model = tuned(make_t5(), small("lora"))
    model.config.use_cache = not model.backbone.config.use_cache
    assert model.config.use_cache != model.backbone.config.use_cache
    assert model.config.d_model == 32


def test_layers_are_recomputed_all_or_refused() -> None:
    model = tuned(make_t5(), small("lora")).train()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model(**batch()).loss.backward()
    with pytest.raises(UserError, match="recomputes every layer"):
        model.activation_checkpointing_enable(every_n_layers=2)


# Trainer -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path: Path):
    plugin = tmp_path / "toy_plugin.py"
    plugin.write_text(PLUGIN, encoding="utf8")
    registry.load_plugin(str(plugin))
    yield
    forget_tasks()


NAMES = ["toy/mood", "toy/truth"]
LENGTHS = {"max_source_length": 32, "max_target_length": 8}


def trainer_of(folder: Path, tokenizer: PreTrainedTokenizerBase, rows: object, **settings: object) -> Seq2SeqTrainer:
    model = TunedModel.build(make_t5(), method=small("hyperpelt"), tasks=NAMES, tokenizer=tokenizer)
    given = {"max_steps": 2, "learning_rate": 0.01, "use_cpu": True, "remove_unused_columns": False, "optim": "sgd"}
    given |= {"max_grad_norm": 0.0, "lr_scheduler_type": "constant", "disable_tqdm": True}
    return Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(str(folder), **(given | settings)),
        data_collator=Collator(tokenizer),
        train_dataset=rows,
    )


def test_trainer_accumulates_to_the_gradient_of_one_batch(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Targets differ in length, so a mean of means is another number; the same Trainer is off by 4 with T5 itself."""
    rows = [
        {"input_ids": [5 + i, 7, 1], "labels": [9 + i, *[11] * (i % 4 * 3), 1], "task_ids": i % 2} for i in range(16)
    ]
    moves = []
    for size, steps in ((16, 1), (4, 4)):
        shape = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer = trainer_of(tmp_path / str(steps), tiny_tokenizer, rows, **shape, save_strategy="no", max_steps=1)
        before = {name: value.clone() for name, value in trainer.model.method_state().items()}
        loss = trainer.train().training_loss
        after = trainer.model.method_state()
        moves.append((loss, torch.cat([(after[name] - value).flatten() for name, value in before.items()])))
    (loss, moved), (again, moved_again) = moves
    assert again == pytest.approx(loss, rel=1e-5)
    assert moved.norm() > 1e-3
    assert (moved_again - moved).norm() < 1e-4 * moved.norm()


@pytest.mark.usefixtures("toy")
def test_trainer_saves_what_is_trained_resumes_from_it_and_generates(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    shape = {"per_device_train_batch_size": 8, "save_steps": 1, "optim": "adamw_torch"}
    rows = MixedRows(NAMES, tiny_tokenizer, num_rows=32, **LENGTHS)
    whole = trainer_of(tmp_path / "whole", tiny_tokenizer, rows, **shape)
    whole.train()
    saved = load_file(tmp_path / "whole" / "checkpoint-1" / "model.safetensors")
    assert set(saved) == set(whole.model.state_dict())
    resumed = trainer_of(tmp_path / "whole", tiny_tokenizer, rows, **shape, predict_with_generate=True)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    for name, value in whole.model.method_state().items():
        assert torch.equal(resumed.model.method_state()[name], value), name
    others = MixedRows(NAMES, tiny_tokenizer, split="validation", **LENGTHS)
    found = resumed.predict(others, max_new_tokens=3)
    assert found.predictions.shape[0] == len(others) == 16
    assert found.metrics["test_loss"] == pytest.approx(whole.evaluate(others)["eval_loss"], rel=1e-5)


@pytest.mark.usefixtures("toy")
def test_rows_are_drawn_by_rate_or_come_once_each(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    every = MixedRows(NAMES, tiny_tokenizer, limit=20)
    assert [every[i]["task_ids"] for i in range(len(every))] == [0] * 20 + [1] * 20
    drawn, again = (MixedRows(NAMES, tiny_tokenizer, num_rows=30, mixing="equal") for _ in range(2))
    assert sum(drawn[i]["task_ids"] for i in range(30)) == 15
    assert all(drawn[i]["input_ids"].tolist() == again[i]["input_ids"].tolist() for i in range(30))
    with pytest.raises(UserError, match="remove_unused_columns=False"):
        Collator(tiny_tokenizer)([{"input_ids": [5], "labels": [6]}])
    with pytest.raises(UserError, match="takes a list of tasks"):
        MixedRows("toy/mood", tiny_tokenizer)
    assert repr(every) == "MixedRows(40 rows of train: toy/mood 20, toy/truth 20)"


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("names", "options", "told"),
    [
        ([], {}, "one task or more, each once, got \\[\\]"),
        (["toy/mood", "toy/mood"], {}, "one task or more, each once"),
        (NAMES, {"num_rows": 0}, "num_rows of at least 1, or None for every row once, got 0"),
        (NAMES, {"mixing": "temprature"}, "Unknown mixing strategy 'temprature'. Did you mean 'temperature'"),
    ],
)
def test_rows_that_cannot_be_drawn_are_refused(
    tiny_tokenizer: PreTrainedTokenizerBase, names: list[str], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        MixedRows(names, tiny_tokenizer, **options)


@pytest.mark.usefixtures("toy")
def test_tasks_are_asked_for_and_taken_as_people_write_them(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    model = TunedModel.build(make_t5(), method="lora", tasks=NAMES, tokenizer=tiny_tokenizer)
    with pytest.raises(UserError, match="or the `task` of all of them: this model knows 2 tasks, toy/mood, toy/truth"):
        model.generate(["good"], max_new_tokens=2)
    listed = model.score(["good", "bad"], ["no", "yes"], task_ids=[1, 0])
    assert listed == model.score(["good", "bad"], ["no", "yes"], task_ids=torch.tensor([1, 0]))


def test_the_collator_brings_the_features_of_images(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    class Store:
        def read(self, keys: list[str]) -> torch.Tensor:
            return torch.tensor([[[float(key)]] for key in keys])

    rows = [{"input_ids": [5], "labels": [6], "task_ids": 0, "images": images} for images in (("3",), (), ("7", "8"))]
    made = Collator(tiny_tokenizer, features=Store())(rows)
    assert made["visual"].flatten().tolist() == [3, 7, 8]
    assert made["visual_rows"].tolist() == [0, 2, 2]
    assert "visual" not in Collator(tiny_tokenizer, features=Store())(rows[1:2])
