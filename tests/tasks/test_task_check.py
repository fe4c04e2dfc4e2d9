"""check_task finds what would fail or mislead a run, and says nothing about what is right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from task_support import Rows, make_task

from hyperpelt import Example, Files, Splits, Task, UserError, check_task


def rows_of(count: int, start: int = 0, **columns: object) -> list[dict]:
    return [{"text": f"the text {n}", "label": n % 2, **columns} for n in range(start, start + count)]


def good() -> Rows:
    return Rows(train=rows_of(20), validation=rows_of(10, 20), test=rows_of(10, 30))


def found(task: Task, **options: object) -> list[str]:
    """Findings as text, notes left out."""
    report = check_task(task, **options)
    return [str(finding) for finding in report.findings if finding.level != "note"]


def test_a_sound_task_has_nothing_but_notes(tiny_tokenizer) -> None:
    report = check_task(make_task(good()), tokenizer=tiny_tokenizer)
    assert report.ok
    assert {finding.level for finding in report.findings} == {"note"}
    assert report.sizes == {"train": 20, "validation": 10, "test": 10}
    assert report.balance["test"] == {"no": 5, "yes": 5}
    assert [row["row"] for row in report.rendered["train"]] == [0, 1, 2]
    json.dumps(report.as_dict())


def test_the_report_prints_rendered_rows_and_the_verdict() -> None:
    text = str(check_task(make_task(good())))
    assert "input   text: the text 0\n    target  no" in text
    assert text.endswith("ok: 0 errors, 0 warnings, 3 notes")


def test_long_rows_and_rows_of_several_lines_are_printed_to_be_read() -> None:
    train = rows_of(20)
    train[0]["text"], train[1]["text"] = "first\nsecond", "start " + "word " * 2000 + "end"
    report = check_task(make_task(Rows(train=train, test=rows_of(10, 30))))
    assert "input   text: first\n            second\n    target" in str(report)
    assert len(str(report)) < 6000
    assert "letters left out" in str(report)
    assert " end\n    target" in str(report)
    assert report.rendered["train"][1]["input"].endswith("word end")  # whole for a program that reads it


def test_files_that_no_split_is_made_of_are_told(tmp_path: Path) -> None:
    for name, rows in (("train", rows_of(20)), ("test", rows_of(10, 30))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    task = replace(make_task(good()), source=Files(paths))
    cut = replace(task, splits=Splits.fractions(validation=0.2, test=0.2))
    told = "the source names files for 'test', and the splits take nothing of them"
    assert any(told in line for line in found(cut))
    assert not any(told in line for line in found(replace(task, splits=Splits.held_out(0.2, test="test"))))


def test_rows_that_do_not_render_are_counted_and_the_first_ones_named() -> None:
    rows = good()
    for n in (3, 5, 7, 9):
        rows.splits["test"][n]["label"] = 2
    (finding,) = [f for f in check_task(make_task(rows)).findings if f.level == "error"]
    assert finding.split == "test"
    assert finding.message.startswith("4 of 10 rows do not render: row 3: unknown label 2")
    assert finding.message.endswith("(and 3 more)"), "a reason is said once"


def test_missing_columns_and_empty_splits_are_errors_that_do_not_stop_the_check() -> None:
    rows = Rows(train=[{"txt": "a", "label": 0}], validation=[], test=rows_of(4))
    errors = [line for line in found(make_task(rows)) if line.startswith("error")]
    assert any("expected column 'text', the row has 'txt'" in line for line in errors)
    assert any("validation: the split is empty" in line for line in errors)
    assert check_task(make_task(rows)).sizes == {"train": 1, "test": 4}


def test_data_that_is_not_there_is_a_finding(tmp_path) -> None:
    report = check_task("glue/rte", data_root=tmp_path)
    assert not report.ok
    assert "no folder" in report.findings[0].message


def test_a_name_with_a_typo_is_an_error() -> None:
    with pytest.raises(UserError, match="Did you mean 'glue/rte'"):
        check_task("glue/rtee")


def test_unknown_metrics_are_named_once(tiny_tokenizer) -> None:
    (told,) = found(make_task(good(), metrics=("acuracy",)), tokenizer=tiny_tokenizer)
    assert told.startswith("error    Unknown metric 'acuracy'. Did you mean 'accuracy'")


def test_metrics_for_another_kind_of_task_are_named(tiny_tokenizer) -> None:
    (told,) = found(make_task(good(), metrics=("pearson",)), tokenizer=tiny_tokenizer)
    assert "the metric 'pearson' is for regression tasks, and this is a classification task" in told


def test_metrics_of_other_libraries_are_known() -> None:
    assert not found(make_task(good(), metrics=("accuracy", "evaluate:accuracy")))


def in_files(folder: Path, first: list[dict], second: list[dict]) -> Task:
    """A task of two JSONL files, cut into its splits."""
    for name, rows in (("a", first), ("b", second)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Files({"train": [str(folder / "a.jsonl"), str(folder / "b.jsonl")]})
    return replace(make_task(good()), source=source, splits=Splits.fractions(validation=0.2, test=0.2))


def test_a_row_that_does_not_render_is_told_by_its_file(tmp_path: Path) -> None:
    second = rows_of(30, 20)
    del second[9]["label"]
    (error,) = found(in_files(tmp_path, rows_of(20), second))
    assert "(row 9 of b.jsonl): the row has no answer" in error


def test_blank_cells_are_told_by_their_file(tmp_path: Path) -> None:
    first = rows_of(20)
    first[7]["text"] = " "
    task = replace(
        in_files(tmp_path, first, rows_of(30, 20)),
        render=lambda row: Example(input=f"text: {row['text']}", label=row["label"]),
    )
    (finding,) = [finding for finding in check_task(task).findings if "nothing in the column" in finding.message]
    (row,) = finding.rows
    assert str(finding).startswith("note")
    assert finding.message == f"1 row with nothing in the column 'text' (row {row}): row 7 of a.jsonl"


def test_leaks_are_found_exactly_and_but_for_case_and_marks() -> None:
    rows = good()
    rows.splits["test"][0]["text"] = "the text 3"
    rows.splits["test"][1]["text"] = "The  TEXT, 5!"
    (line,) = found(make_task(rows))
    assert line == (
        "error    test: 2 of 10 rows (20.0%) also stand in train: 1 exactly, 1 but for case, spacing or punctuation"
    )


def test_letters_with_signs_are_the_same_however_they_are_put_together_and_others_without_them() -> None:
    rows = good()
    rows.splits["train"][0]["text"], rows.splits["train"][1]["text"] = "\u0915\u093f\u0924\u093e\u092c", "cafe\u0301"
    rows.splits["test"][0]["text"] = "\u0915\u094b\u0924\u0940\u092c"  # other vowels between the same letters
    assert found(make_task(rows)) == []
    rows.splits["test"][1]["text"] = "Caf\u00e9!"
    (line,) = found(make_task(rows))
    assert "1 of 10 rows (10.0%) also stand in train: 0 exactly, 1 but for case" in line


def test_few_leaks_are_a_warning() -> None:
    rows = Rows(
        train=rows_of(100), validation=rows_of(10, 100), test=[*rows_of(100, 200), {"text": "the text 3", "label": 1}]
    )
    assert found(make_task(rows)) == ["warning  test: 1 of 101 rows (1.0%) also stand in train"]


def test_the_same_text_with_other_choices_or_another_image_is_no_leak() -> None:
    question = {"text": "which one"}
    rows = Rows(**{s: [{**question, "own": (f"{s} a", f"{s} b"), "label": 0}] for s in ("train", "validation", "test")})

    def render(row: dict) -> Example:
        return Example(input=row["text"], choices=row["own"], label=row["label"])

    assert found(make_task(rows, choices=None, render=render)) == []

    def picture(row: dict) -> Example:
        image = Image.fromarray(np.full((2, 2), row["shade"], dtype=np.uint8))
        return Example(input="what is it", images=(image,), label=row["label"])

    shades = Rows(
        **{
            s: [{"shade": n + 10 * i, "label": n % 2} for n in range(4)]
            for i, s in enumerate(("train", "validation", "test"))
        }
    )
    assert found(make_task(shades, render=picture, modalities=("text", "image"))) == []
    shades.splits["test"][0]["shade"] = 0
    assert (
        "1 of 4 rows (25.0%) also stand in train"
        in found(make_task(shades, render=picture, modalities=("text", "image"), name="test/leaky"))[0]
    )


def test_class_balance_one_sided_and_absent_answers() -> None:
    rows = good()
    for row in rows.splits["train"]:
        row["label"] = 1
    lines = found(make_task(rows))
    assert "warning  train: no row has the answer 'no'" in lines
    assert "warning  train: always answering 'yes' gives 100.0% accuracy" in lines


def test_the_same_input_with_two_answers_is_a_warning() -> None:
    rows = good()
    rows.splits["train"] = [*rows_of(20), {"text": "the text 4", "label": 1}]
    assert found(make_task(rows)) == [
        "warning  train: 1 inputs occur with different answers, such as 'text: the text 4'"
    ]


def test_choices_that_share_a_first_token_or_begin_alike(tiny_tokenizer) -> None:
    lines = found(make_task(good(), choices=("not good", "not bad")), tokenizer=tiny_tokenizer)
    assert lines == ["warning  choices 'not good', 'not bad' share their first token: take words that differ at once"]
    lines = found(make_task(good(), choices=("not", "not bad")), tokenizer=tiny_tokenizer)
    assert "choice 'not' is the beginning of 'not bad'" in lines[0]
    scores = make_task(good(), kind="regression", choices=("0.0", "0.5", "1.0"), metrics=("pearson",))
    assert found(scores, tokenizer=tiny_tokenizer) == []


def test_cut_inputs_and_targets_that_cannot_be_written(tiny_tokenizer) -> None:
    task = make_task(good(), choices=("{no}", "yes"))
    lines = found(task, tokenizer=tiny_tokenizer, max_source_length=4, max_target_length=1)
    assert any("100.0% of inputs are cut at 4 tokens (the longest has" in line for line in lines)
    assert any("targets of up to" in line and "are cut at 1" in line for line in lines)
    assert any("with a target the tokenizer cannot write, such as '{no}'" in line for line in lines)


def test_a_task_that_cannot_render_a_question_cannot_predict() -> None:
    task = make_task(good(), render=lambda row: Example(input=row["text"], label=0 + row["label"]))
    (line,) = found(task)
    assert line.startswith("warning  test: a row without its answer (label) does not render")


def test_an_input_that_holds_the_answer_is_an_error() -> None:
    task = make_task(good(), render=lambda row: Example(input=f"{row['text']} {row['label']}", label=row["label"]))
    (line,) = found(task)
    assert line.startswith("error    test: the input changes when the answer (label) is missing")


def test_declared_images_must_be_there_and_inputs_not_empty() -> None:
    task = make_task(good(), render=lambda row: Example(input=" ", label=row["label"]), modalities=("text", "image"))
    lines = found(task)
    assert any("10 rows without an image, though the task declares images (row 0, 1, 2, ...)" in line for line in lines)
    assert any("20 rows with an empty input" in line for line in lines)


def test_limit_looks_at_a_sample_and_reports_true_sizes() -> None:
    report = check_task(make_task(good(), splits=Splits()), limit=4)
    assert report.sizes["train"] == 20
    assert sum(report.balance["train"].values()) == 4


# ------------------------------------------------------------------------------------- answers that mean another thing

SIGNS = ("awful dull", "fine sound", "strange odd")


def told(count: int, start: int, order: tuple[int, ...] = (0, 1, 2), share: int = 3) -> list[dict]:
    """Rows whose words tell the class; `order`: how this source numbers the classes; one row of `share` is class 0."""
    classes = [0 if n % share == 0 else 1 + n % 2 for n in range(start, start + count)]
    return [{"text": f"{SIGNS[c].split()[n % 2]} words {n} {n * 7}", "label": order[c]} for n, c in enumerate(classes)]


def three_answers(rows: Rows) -> Task:
    return make_task(rows, choices=("bad", "good", "odd"))


def test_answers_that_one_split_numbers_in_another_order_are_found() -> None:
    rows = Rows(train=told(300, 0), validation=told(150, 300), test=told(150, 450, order=(2, 0, 1)))
    (finding,) = [line for line in found(three_answers(rows)) if "exchanged" in line]
    assert finding.startswith("warning  test: answers look exchanged: by train's words 0% of 150 rows are right")
    assert "'odd' there is 'bad' in train" in finding
    assert "'bad' there is 'good' in train" in finding
    assert "'good' there is 'odd' in train" in finding


def test_other_shares_of_the_answers_and_words_that_tell_nothing_are_no_exchange() -> None:
    shifted = Rows(train=told(300, 0), validation=told(150, 300, share=150), test=told(150, 450, share=2))
    assert not [line for line in found(three_answers(shifted)) if "exchanged" in line]
    blank = Rows(
        **{split: [{"text": " ", "label": n % 2} for n in range(60)] for split in ("train", "validation", "test")}
    )
    mute = make_task(blank, render=lambda row: Example(input=row["text"], label=row["label"]))
    assert not [line for line in found(mute) if "exchanged" in line]
    silent = Rows(train=rows_of(300), validation=rows_of(150, 300), test=rows_of(150, 451))
    assert not [line for line in found(make_task(silent)) if "exchanged" in line]
