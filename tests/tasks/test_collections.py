"""Rows as Hugging Face's datasets has them: in memory, on disk, folders of images, streams."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from task_support import own_registry

from hyperpelt import Example, Files, ImageFolder, Loaded, Saved, Splits, Streamed, Task, UserError, tasks
from hyperpelt.tasks import collections
from hyperpelt.tasks.template import Template

LABELS = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
ROWS = [{"text": f"text {i}", "label": i % 2} for i in range(6)]


def task_on(source: object, **fields: object) -> Task:
    fields = {"choices": ("bad", "good"), **fields}
    return Task(name="t/t", source=source, render=lambda row: Example(input=row["text"], label=row["label"]), **fields)


def make() -> datasets.DatasetDict:
    rows = datasets.Dataset.from_list(ROWS, features=LABELS)
    return datasets.DatasetDict(train=rows, test=rows.select([0, 1]))


def test_objects_in_memory_are_sources_and_change_with_their_content() -> None:
    task = task_on(Loaded(make()))
    assert task.source.splits(None) == ("train", "test")
    assert [e.target for e in task.examples("test")] == ["bad", "good"]
    assert len(task_on(Loaded(make()["train"])).examples("train")) == 6
    assert task_on(Loaded({"train": ROWS})).examples("train")[3].target == "good"
    with pytest.raises(UserError, match="Unknown source split 'test'"):
        task_on(Loaded(make()["train"])).examples("test")
    with pytest.raises(UserError, match=r"got IterableDataset for 'train'"):
        Loaded(make()["train"].to_iterable_dataset())


def test_a_data_frame_is_rows() -> None:
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": [1, 0, None]})
    splits = Splits(validation=None, test=None, drop={"label": None})
    for source in (Loaded(frame), Loaded({"train": frame, "test": frame[:1]})):
        assert [e.target for e in task_on(source, splits=splits).examples("train")] == ["good", "bad"]


def test_a_row_of_a_template_has_the_pictures_that_are_there() -> None:
    template = Template(input="{text}", label="label", images=("one", "further"))
    row = {"text": "a", "label": "x", "one": None, "further": [b"1", None, b"2"]}
    assert template(row).images == (b"1", b"2")
    assert template({**row, "one": {"bytes": b"0", "path": None}, "further": None}).images == (
        {"bytes": b"0", "path": None},
    )


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas", "arrow"])
def test_rows_are_plain_values_whatever_format_their_set_has(kind: str, tmp_path: Path) -> None:
    made = make()["train"].add_column("score", [n / 2 for n in range(6)])
    if kind == "torch":
        made.with_format(kind, columns=["label"]).save_to_disk(tmp_path / "saved")
    for source in (Loaded(made.with_format(kind)), *([Saved("saved", tmp_path)] if kind == "torch" else ())):
        rows = task_on(source, splits=Splits(drop={"label": 1, "score": 1.0})).rows("train")
        assert list(rows) == [
            {"text": "text 0", "label": 0, "score": 0.0},
            {"text": "text 4", "label": 0, "score": 2.0},
        ]
    louder = make()["train"].with_transform(lambda batch: {**batch, "text": [text.upper() for text in batch["text"]]})
    assert task_on(Loaded(louder)).examples("train")[1].input == "TEXT 1"


def test_nothing_that_a_column_holds_is_decoded(tmp_path: Path) -> None:
    """Sound, which needs a package of its own, and pictures inside of lists and structs, one of them damaged."""
    file = {"bytes": b"no such thing", "path": None}
    features = LABELS | {
        "sound": datasets.Audio(), "film": datasets.Video(), "pages": datasets.List(datasets.Image()),
        "seen": {"picture": datasets.Image()},
    }  # fmt: skip
    row = {"text": "a", "label": 1, "sound": file, "film": file, "pages": [file], "seen": {"picture": file}}
    rows = datasets.Dataset(pa.Table.from_pylist([row], schema=datasets.Features(features).arrow_schema))
    rows.to_parquet(tmp_path / "rows.parquet")
    for source in (Loaded(rows), Files({"train": "rows.parquet"}, base=tmp_path)):
        (read,) = task_on(source).rows("train")
        assert read == row
        assert [example.target for example in task_on(source).examples("train")] == ["good"]


def test_what_datasets_saved_is_read_whole_or_by_split(tmp_path: Path) -> None:
    make().save_to_disk(tmp_path / "both")
    make()["train"].save_to_disk(tmp_path / "one")
    both = Saved("both", tmp_path)
    assert both.splits(None) == ("test", "train")
    assert [e.target for e in task_on(both).examples("test")] == ["bad", "good"]
    assert len(task_on(Saved("one", tmp_path)).examples("train")) == 6
    with pytest.raises(UserError, match="no folder that `save_to_disk` wrote"):
        task_on(Saved("nothing", tmp_path)).examples("train")
    with pytest.raises(UserError, match="Unknown source split 'validation'"):
        task_on(both).examples("validation")


def test_images_in_folders_by_split_and_class(tmp_path: Path) -> None:
    for split, name, colour in (("train", "blue", 200), ("train", "red", 10), ("test", "red", 20)):
        folder = tmp_path / "photos" / split / name
        folder.mkdir(parents=True)
        Image.fromarray(np.full((4, 4, 3), colour, np.uint8)).save(folder / f"{colour}.png")
    source = ImageFolder("photos", tmp_path)
    assert source.splits(None) == ("train", "test")
    rows = source.read("train", None)
    assert rows.features["label"].names == ["blue", "red"]
    assert set(rows[0]["image"]) == {"bytes", "path"}, "left as they are stored"
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(flat / "1.png")
    assert len(ImageFolder("flat", tmp_path).read("train", None)) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="Found no images in"):
        ImageFolder("empty", tmp_path).read("train", None)
    with pytest.raises(UserError, match="There is no folder"):
        ImageFolder("absent", tmp_path).read("train", None)


def test_a_stream_gives_its_first_rows_and_their_features(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "texts"
    folder.mkdir(parents=True)
    make()["train"].to_parquet(folder / "train-00000-of-00001.parquet")
    source = Streamed("some/texts", rows=3)
    rows = source.read("train", tmp_path)
    assert [row["text"] for row in rows] == ["text 0", "text 1", "text 2"]
    assert rows.features["label"].names == ["bad", "good"]
    assert "streamed, 3 rows" in source.describe()


def test_a_stream_that_breaks_off_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        features = None

        def take(self, count: int) -> object:
            raise ConnectionError("the line is dead")

    monkeypatch.setattr(collections.Hub, "_ask_hub", lambda *_, **__: Broken())
    with pytest.raises(UserError, match=r"stream of some/texts broke off \(ConnectionError: the line is dead\)\."):
        Streamed("some/texts").read("train", None)


def test_yaml_tasks_name_these_sources_too(tmp_path: Path) -> None:
    make().save_to_disk(tmp_path / "both")
    head = 'name: my/saved\ninput: "{text}"\nchoices: [bad, good]\n'
    (tmp_path / "my.yaml").write_text(head + "source: {saved: both}\n", encoding="utf8")
    (tmp_path / "bad.yaml").write_text(head + "source: {saved: both, hub: a/b}\n", encoding="utf8")
    (tmp_path / "stream.yaml").write_text(head + "source: {hub: a/b, stream: 7}\n", encoding="utf8")
    with own_registry():
        tasks.load_plugin(tmp_path / "my.yaml")
        assert [e.target for e in tasks.get("my/saved").examples("test")] == ["bad", "good"]
    with own_registry():
        tasks.load_plugin(tmp_path / "stream.yaml")
        assert tasks.get("my/saved").source == Streamed("a/b", rows=7)
    with own_registry(), pytest.raises(UserError, match="source: expected one of 'hub'"):
        tasks.load_plugin(tmp_path / "bad.yaml")
