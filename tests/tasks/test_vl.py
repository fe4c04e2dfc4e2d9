"""Vision-and-language sets: on small files laid out as their hub repositories, and on real rows where there are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import vl_rows

from hyperpelt import UserError, check_task, metrics, tasks
from hyperpelt.vision.images import load_image

HUB = (
    "vl/vqav2", "vl/gqa", "vl/okvqa", "vl/vizwiz", "vl/textvqa", "vl/nlvr2", "vl/snli-ve", "vl/coco-caption",
    "vl/flickr30k", "vl/nocaps",
)  # fmt: skip
LOCAL = {  # split sizes on the mirror's rows
    "vl/nlvr": (823, 989, 990),
    "vl/daquar": (6116, 679, 5673),
    "vl/easy-vqa": (3600, 400, 1000),
    "vl/flickr8k": (800, 100, 100),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mirror")
    vl_rows.write_all(root)
    return root


def test_all_named_sets_are_there_and_say_what_they_ask() -> None:
    assert set(tasks.names("vl/*")) == {*HUB, *LOCAL}
    for name in (*HUB, *LOCAL):
        task = tasks.get(name)
        assert task.modalities == ("text", "image")
        assert task.description.endswith((".", "?"))
        assert all(task.kind in metrics.get(metric).kinds for metric in task.metrics), name
    assert [task.name for task in tasks.select("vl")] == ["vl/vqav2", "vl/gqa", "vl/coco-caption"]


@pytest.mark.parametrize("name", HUB)
def test_documented_columns_render_split_and_check(name: str, written: Path) -> None:
    report = check_task(name, data_root=written, limit=100)
    assert report.ok, str(report)
    assert set(report.sizes) == ({"test"} if name == "vl/nocaps" else {"train", "validation", "test"})
    assert not any("without its answer" in finding.message for finding in report.findings)
    example = tasks.get(name).examples("test", data_root=written)[0]
    assert [load_image(image).size for image in example.images] == [(6, 4)] * (2 if name == "vl/nlvr2" else 1)


@pytest.mark.parametrize("name", LOCAL)
def test_real_rows_have_their_sizes_and_no_error(name: str, data_root: Path) -> None:
    if not (data_root / tasks.get(name).source.repo).is_dir():
        pytest.skip(f"{tasks.get(name).source.repo} is not in the mirror")
    task = tasks.get(name)
    assert tuple(len(task.rows(split, data_root=data_root)) for split in task.splits.names()) == LOCAL[name]
    report = check_task(name, data_root=data_root, limit=60)
    assert report.ok, str(report)


@pytest.mark.parametrize(("name", "column"), [("vl/daquar", "image_id"), ("vl/easy-vqa", "image_id")])
def test_no_image_is_in_train_and_validation(name: str, column: str, data_root: Path) -> None:
    task = tasks.get(name)
    if not (data_root / task.source.repo).is_dir():
        pytest.skip(f"{task.source.repo} is not in the mirror")
    seen = [set(task.rows(split, data_root=data_root)[column]) for split in ("train", "validation")]
    assert not seen[0] & seen[1]


def test_vqa_keeps_every_answer_and_draws_by_score(written: Path) -> None:
    for name in ("vl/vqav2", "vl/okvqa", "vl/vizwiz", "vl/textvqa"):
        task = tasks.get(name)
        example = task.examples("test", data_root=written)[0]
        number = 6000 if name == "vl/vqav2" else 2000
        assert Counter(example.label) == {f"answer {number}": 3, "Yes.": 7}
        assert dict(example.targets) == pytest.approx({"yes": 1.0, f"answer {number}": 0.9})
        assert example.target == "yes"
        assert metrics.compute(task.metrics, ["YES"], [example.label]) == {"vqa_accuracy": 100.0}
        assert metrics.compute(task.metrics, [f"the answer {number}"], [example.label])[
            "vqa_accuracy"
        ] == pytest.approx(90)


def test_an_image_of_vqa_is_in_one_split(written: Path) -> None:
    for name, column in {"vl/vqav2": "image_id", "vl/okvqa": "id_image", "vl/textvqa": "image_id"}.items():
        train, validation = (tasks.get(name).rows(split, data_root=written) for split in ("train", "validation"))
        assert not set(train[column]) & set(validation[column])
        assert len(validation) == (5000 if name == "vl/vqav2" else 1000)


def test_nlvr2_groups_a_sentence_with_all_its_pairs(written: Path) -> None:
    task = tasks.get("vl/nlvr2")
    examples = list(task.examples("test", data_root=written))
    assert [e.group for e in examples[:4]] == ["dev-500-0", "dev-500-0", "dev-500-1", "dev-500-1"]
    assert [e.target for e in examples[:2]] == ["false", "true"]
    assert examples[0].input == "statement: Set 500 has statement 0."
    found = metrics.compute(task.metrics, [1] * 8, [e.label for e in examples], groups=[e.group for e in examples])
    assert found == {"accuracy": 50.0, "consistency": 0.0}


def test_snli_ve_asks_of_the_image_alone(written: Path) -> None:
    examples = list(tasks.get("vl/snli-ve").examples("train", data_root=written))
    assert [e.target for e in examples[:3]] == ["yes", "maybe", "no"]
    assert all("Two men" not in e.input for e in examples)


def test_coco_is_one_row_an_image_with_all_its_captions(written: Path) -> None:
    task = tasks.get("vl/coco-caption")
    assert len(task.rows("train", data_root=written)) == 6
    example = task.examples("train", data_root=written)[2]
    assert example.label == tuple(f"Caption {which} of 2." for which in range(5))
    assert example.targets == tuple((caption, 1.0) for caption in example.label)
    assert load_image(example.images[0]).getpixel((0, 0)) == (2, 0, 90)
    assert task.num_beams == 5


def test_a_row_to_predict_on_takes_a_path_or_bytes(written: Path) -> None:
    asked = {"question": "What is it?", "image": "photo.jpg"}
    for name in ("vl/vqav2", "vl/gqa", "vl/daquar", "vl/easy-vqa"):
        example = tasks.get(name).example(asked, answered=False)
        assert (example.images, example.label, example.targets) == (("photo.jpg",), None, ())
    pair = tasks.get("vl/nlvr2").example({"sentence": "Two.", "image0": "a.png", "image1": b"b"}, answered=False)
    assert pair.images == ("a.png", b"b")
    assert tasks.get("vl/nocaps").example({"image": "a.png"}, answered=False).input == "describe the image"
    with pytest.raises(UserError, match="Task vl/nlvr2: expected column 'image1'"):
        tasks.get("vl/nlvr2").example({"sentence": "Two.", "image0": "a.png"}, answered=False)


def test_a_damaged_image_is_named_with_its_row(tmp_path: Path) -> None:
    import datasets

    rows = vl_rows.snli_ve(4)
    encoded = [{**row, "image": {"bytes": vl_rows.picture(row["image"]), "path": None}} for row in rows]
    encoded[2]["image"]["bytes"] = encoded[2]["image"]["bytes"][:-30]
    folder = tmp_path / "sedrickkeh" / "snli-ve" / "data"
    folder.mkdir(parents=True)
    data = datasets.Dataset.from_list(encoded).cast_column("image", datasets.Image())
    for split in ("train", "validation", "test"):
        data.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    report = check_task("vl/snli-ve", data_root=tmp_path)
    found = [finding.message for finding in report.findings if finding.level == "error" and finding.split == "train"]
    assert any("1 of 4 rows" in line and "row 2: the image is" in line for line in found)
    assert not report.ok


def test_targets_must_be_texts_with_scores() -> None:
    from task_support import make_task

    for targets, message in {
        (("yes", 2.0),): "score in 0..1",
        (("yes", 0.0),): "above 0",
        ((3, 0.5),): "score in",
    }.items():
        rows = [{"text": "a", "targets": targets}]
        task = make_task(
            rows,
            kind="generation",
            choices=None,
            render=lambda row: tasks.Example(input=row["text"], label="yes", targets=row["targets"]),
        )
        with pytest.raises(UserError, match=message):
            task.examples("train")[0]
