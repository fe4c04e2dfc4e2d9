"""GLUE on its real rows: the protocol's sizes, targets as T5 writes them, no leak between splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperpelt import check_task, metrics, tasks
from hyperpelt.tasks.rows import evened

SMALL = ("cola", "mrpc", "rte", "stsb", "wnli")
LARGE = ("mnli", "qnli", "qqp", "sst2")
METRICS = {
    "cola": ("matthews",),
    "mrpc": ("accuracy", "f1"),
    "qqp": ("accuracy", "f1"),
    "stsb": ("pearson", "spearman"),
}


def source_sizes(name: str, root: Path) -> dict[str, int]:
    source = tasks.get(f"glue/{name}").source
    return {split: len(source.read(split, root)) for split in source.splits(root)}


def test_the_nine_tasks_and_the_mixture_of_eight() -> None:
    assert tasks.names("glue/*") == sorted(f"glue/{name}" for name in (*SMALL, *LARGE))
    assert {task.name for task in tasks.select("glue")} == set(tasks.names("glue/*")) - {"glue/wnli"}


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_metrics_are_glues(name: str) -> None:
    task = tasks.get(f"glue/{name}")
    assert task.metrics == METRICS.get(name, ("accuracy",))
    assert all(task.kind in metrics.get(metric).kinds for metric in task.metrics)


@pytest.mark.parametrize("name", SMALL)
def test_small_tasks_halve_validation(name: str, data_root: Path) -> None:
    task, sizes = tasks.get(f"glue/{name}"), source_sizes(name, data_root)
    assert len(task.rows("train", data_root=data_root)) == sizes["train"]
    assert len(task.rows("validation", data_root=data_root)) == sizes["validation"] // 2
    assert len(task.rows("test", data_root=data_root)) == sizes["validation"] - sizes["validation"] // 2


@pytest.mark.parametrize("name", LARGE)
def test_large_tasks_hold_1000_training_rows_out(name: str, data_root: Path) -> None:
    task, sizes = tasks.get(f"glue/{name}"), source_sizes(name, data_root)
    assert len(task.rows("validation", data_root=data_root)) == 1000
    assert len(task.rows("train", data_root=data_root)) == sizes["train"] - 1000
    test = "validation_matched" if name == "mnli" else "validation"
    assert len(task.rows("test", data_root=data_root)) == sizes[test]
    train, held = (set(task.row_numbers(split, data_root=data_root)) for split in ("train", "validation"))
    assert not train & held


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_no_text_is_on_both_sides_of_a_cut(name: str, data_root: Path) -> None:
    task = tasks.get(f"glue/{name}")
    sides = ("validation", "test") if name in SMALL else ("train", "validation")
    one, other = ({evened(e.input) for e in task.examples(split, data_root=data_root)} for split in sides)
    assert not one & other


@pytest.mark.parametrize("name", [*SMALL, "qqp"])
def test_the_check_finds_no_error(name: str, data_root: Path) -> None:
    report = check_task(f"glue/{name}", data_root=data_root)
    assert report.ok, str(report)


def test_labels_keep_their_meaning(data_root: Path) -> None:
    """Against label names that travel in the data, not against our own list."""
    words = {
        "unacceptable": "unacceptable", "acceptable": "acceptable", "negative": "negative", "positive": "positive",
        "not_equivalent": "different", "equivalent": "same", "not_duplicate": "different", "duplicate": "same",
        "entailment": "yes", "not_entailment": "no", "neutral": "maybe", "contradiction": "no",
    }  # fmt: skip
    for name in set(SMALL + LARGE) - {"stsb"}:
        task = tasks.get(f"glue/{name}")
        labels = task.rows("test", data_root=data_root).features["label"].names
        assert task.choices == tuple(words[label] for label in labels), name


def test_stsb_targets_are_the_nearest_fifth_and_labels_the_true_score(data_root: Path) -> None:
    task = tasks.get("glue/stsb")
    assert (len(task.choices), task.choices[0], task.choices[-1]) == (26, "0.0", "5.0")
    examples = list(task.examples("train", data_root=data_root))
    assert all(abs(float(example.target) - example.label) <= 0.1 + 1e-6 for example in examples)
    assert len({example.label for example in examples} - {float(choice) for choice in task.choices}) > 20
    for score, target in [(4.8, "4.8"), (2.499, "2.4"), (3.7, "3.6"), (0.09, "0.0"), (4.95, "5.0")]:
        assert task.example({"sentence1": "a", "sentence2": "b", "label": score}).target == target


def test_rendering_is_plain_fields_with_single_spaces(data_root: Path) -> None:
    row = {"sentence1": "A  cat \n sat. ", "sentence2": "A dog sat."}
    task = tasks.get("glue/rte")
    assert task.example(row, answered=False).input == "sentence1: A cat sat. sentence2: A dog sat."
    first = tasks.get("glue/sst2").examples("train", data_root=data_root)[0]
    assert first.input == "sentence: hide new secretions from the parental units"
    assert first.target == "negative"


def test_target_words_are_single_tokens_of_their_own(data_root: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data_root / "google-t5" / "t5-base")
    fixed = [t for t in tasks.select(["glue", "super_glue/*", "imdb", "paws", "snli", "scitail"]) if t.choices]
    for task in fixed:
        if task.kind == "classification":
            ids = [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in task.choices]
            assert all(len(tokens) == 1 for tokens in ids), task.name
            assert len({tokens[0] for tokens in ids}) == len(ids), task.name
