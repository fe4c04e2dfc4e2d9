"""SuperGLUE and the transfer sets: on real rows where there are some, else on small files in the hub's layout."""

from __future__ import annotations

from pathlib import Path

import builtin_rows
import pytest

from hyperpelt import UserError, check_task, tasks

WITHOUT_DATA = (
    "super_glue/wsc", "super_glue/record", "hellaswag", "winogrande", "commonsense_qa", "paws", "scitail", "snli",
    "anli/r1", "anli/r2", "anli/r3", "yelp_polarity",
)  # fmt: skip
WITH_DATA = {  # split sizes on the mirror's rows
    "super_glue/boolq": (2000, 1635, 1635),
    "super_glue/cb": (250, 28, 28),
    "super_glue/copa": (400, 50, 50),
    "super_glue/wic": (5428, 319, 319),
    "super_glue/multirc": (26248, 995, 4848),
    "imdb": (1707, 500, 500),
    "trec": (5441, 250, 250),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mirror")
    builtin_rows.write_all(root)
    return root


def test_all_named_sets_are_there() -> None:
    wanted = {*WITHOUT_DATA, *WITH_DATA, *tasks.names("glue/*")}
    assert wanted <= set(tasks.names())
    assert all(tasks.get(name).description for name in wanted)


@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_documented_columns_render_split_and_check(name: str, written: Path, tiny_tokenizer) -> None:
    report = check_task(name, data_root=written, tokenizer=tiny_tokenizer)
    assert report.ok, str(report)
    assert set(report.sizes) == {"train", "validation", "test"}
    assert not any("without its answer" in finding.message for finding in report.findings)


@pytest.mark.parametrize("name", WITH_DATA)
def test_real_rows_have_the_protocols_sizes_and_no_error(name: str, data_root: Path) -> None:
    task = tasks.get(name)
    assert tuple(len(task.rows(split, data_root=data_root)) for split in task.splits.names()) == WITH_DATA[name]
    report = check_task(name, data_root=data_root, limit=400)
    assert report.ok, str(report)
    assert not any("without its answer" in finding.message for finding in report.findings)


def first(name: str, root: Path, split: str = "test") -> tasks.Example:
    return tasks.get(name).examples(split, data_root=root)[0]


def test_wsc_marks_the_pronoun(written: Path) -> None:
    example = first("super_glue/wsc", written, "train")
    assert "in his book 0 . *He* was honest ." in example.input
    assert example.input.startswith("noun: Mark pronoun: He text: Mark told")


def test_wic_marks_the_word_in_both_sentences(data_root: Path) -> None:
    example = first("super_glue/wic", data_root, "train")
    assert example.input == (
        "word: place sentence1: Do you want to come over to my *place* later? "
        "sentence2: A political system with no *place* for the less prominent groups."
    )
    assert example.target == "no"


def test_record_ranks_entities_and_takes_any_accepted_answer(written: Path) -> None:
    task = tasks.get("super_glue/record")
    example = first("super_glue/record", written)
    assert (example.choices, example.label, example.target) == (("Rome", "Oslo"), ("Rome",), "Rome")
    assert example.input.endswith("Rome and Oslo. . Rome is warm . Oslo is cold")
    assert "was ___." in example.input
    row = {**task.rows("test", data_root=written)[0], "answers": ["Lima"]}
    with pytest.raises(UserError, match="the answer 'Lima' is not a choice"):
        task.example(row)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("super_glue/record", lambda row: row["idx"]["passage"]),
        ("hellaswag", lambda row: row["source_id"]),
        ("winogrande", lambda row: row["option1"]),
    ],
)
def test_rows_that_belong_together_are_held_out_together(name: str, key, written: Path) -> None:
    task = tasks.get(name)
    train, held = ({key(row) for row in task.rows(split, data_root=written)} for split in ("train", "validation"))
    assert not train & held
    assert len(task.rows("validation", data_root=written)) == 1000


def test_multirc_keeps_paragraphs_on_one_side_and_groups_answers_by_question(data_root: Path) -> None:
    task = tasks.get("super_glue/multirc")
    train, held = (
        {row["idx"]["paragraph"] for row in task.rows(split, data_root=data_root).select_columns("idx")}
        for split in ("train", "validation")
    )
    assert not train & held
    examples = list(task.examples("test", data_root=data_root, limit=200))
    questions = {}
    for example in examples:
        question = example.input.split(" answer: ")[0]
        assert questions.setdefault(example.group, question) == question
    assert len(questions) > 5


def test_copa_answers_with_the_text_of_a_choice(data_root: Path) -> None:
    example = first("super_glue/copa", data_root, "train")
    assert example.choices == ("The sun was rising.", "The grass was cut.")
    assert (example.label, example.target) == (0, "The sun was rising.")
    assert "question: cause choice1: The sun was rising. choice2:" in example.input


def targets(name: str, root: Path, split: str) -> list[str]:
    return [example.target for example in tasks.get(name).examples(split, data_root=root)[:2]]


def test_text_labels_become_choices(written: Path) -> None:
    assert targets("scitail", written, "train") == ["yes", "maybe"]
    assert targets("hellaswag", written, "test") == [
        "mix 2000.",
        "fly 2001.",
    ]
    assert targets("winogrande", written, "test") == ["Ann 1000", "Bea"]
    assert targets("commonsense_qa", written, "train") == [
        "bank",
        "library",
    ]


def test_hellaswag_and_yelp_lose_their_markup(written: Path) -> None:
    assert first("hellaswag", written).input == "context: Baking: How to bake cake 2000 you"
    assert first("yelp_polarity", written).input == "review: Review 1010. Good."


def test_snli_rows_without_gold_label_are_dropped(written: Path) -> None:
    assert [len(tasks.get("snli").rows(split, data_root=written)) for split in ("train", "validation", "test")] == [
        6,
        3,
        3,
    ]


def test_anli_rounds_read_their_own_splits(written: Path) -> None:
    inputs = {first(f"anli/r{n}", written, split).input for n in (1, 2, 3) for split in ("train", "validation", "test")}
    assert len(inputs) == 9


def test_cb_and_mnli_mean_the_same_by_their_words(data_root: Path) -> None:
    names = tasks.get("super_glue/cb").rows("test", data_root=data_root).features["label"].names
    mnli = dict(zip(("entailment", "neutral", "contradiction"), tasks.get("glue/mnli").choices, strict=True))
    assert tasks.get("super_glue/cb").choices == tuple(mnli[name] for name in names)


def test_trec_classes_follow_the_datas_order(data_root: Path) -> None:
    names = tasks.get("trec").rows("test", data_root=data_root).features["coarse_label"].names
    assert names == ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]
    assert tasks.get("trec").choices == ("abbreviation", "entity", "description", "human", "location", "number")
