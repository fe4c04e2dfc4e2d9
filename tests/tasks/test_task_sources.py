"""Sources: the hub's layout in a local mirror, files of every kind, generators; what is missing is named."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from hyperpelt import Example, Files, Generator, Hub, Splits, Task, UserError
from hyperpelt.tasks.reachable import reachable
from hyperpelt.tasks.sources import read_rows


def write_mirror(root: Path, repo: str, config: str, **splits: list[dict]) -> None:
    folder = root / repo / config
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")


def rows_of(count: int, start: int = 0) -> list[dict]:
    return [{"text": f"text {n}", "label": n % 2} for n in range(start, start + count)]


def test_mirror_is_found_by_argument_and_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mirror(tmp_path, "some/set", "part", train=rows_of(5))
    task = Task(
        name="test/mirror",
        source=Hub("some/set", "part"),
        render=lambda row: Example(input=row["text"], label=row["label"]),
        choices=("no", "yes"),
    )
    assert task.rows("train", data_root=tmp_path)[3]["text"] == "text 3"
    monkeypatch.setenv("HYPERPELT_DATA", str(tmp_path))
    assert len(task.examples("train")) == 5


def test_a_split_in_several_files_and_splits_with_a_common_beginning(tmp_path: Path) -> None:
    write_mirror(tmp_path, "some/set", "mnli", validation_matched=rows_of(2), validation_mismatched=rows_of(3))
    for part in (0, 1):
        table = datasets.Dataset.from_list(rows_of(4, start=4 * part))
        table.to_parquet(tmp_path / "some" / "set" / "mnli" / f"train-0000{part}-of-00002.parquet")
    source = Hub("some/set", "mnli")
    assert source.splits(tmp_path) == ("train", "validation_matched", "validation_mismatched")
    assert [row["text"] for row in read_rows(source, "train", tmp_path)] == [f"text {n}" for n in range(8)]
    assert len(read_rows(source, "validation_matched", tmp_path)) == 2


@pytest.mark.parametrize("folder", ["default", "data", "."])
def test_a_repository_with_one_configuration_may_call_its_folder_anything(tmp_path: Path, folder: str) -> None:
    write_mirror(tmp_path / folder / "x", "some/set", folder, train=rows_of(2))
    assert len(read_rows(Hub("some/set"), "train", tmp_path / folder / "x")) == 2


def test_paths_with_pattern_signs_are_read_literally(tmp_path: Path) -> None:
    root = tmp_path / "run[1]*"
    write_mirror(root, "some/set", "part", train=rows_of(2))
    assert len(read_rows(Hub("some/set", "part"), "train", root)) == 2
    (root / "rows.csv").write_text("text\nhello\n")
    for paths in ("*.csv", "../run*/*.csv"):
        assert len(read_rows(Files({"train": paths}, base=root), "train", None)) == 1
    assert len(read_rows(Files({"train": f"{tmp_path}/*/*.csv"}, base=root), "train", None)) == 1


def test_hosts_without_a_proxy_are_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperpelt.tasks.reachable.getproxies", lambda: {"no": "localhost"})
    assert not reachable("http://127.0.0.1:1")
    monkeypatch.setattr("hyperpelt.tasks.reachable.getproxies", lambda: {"https": "http://proxy", "no": "localhost"})
    assert reachable("http://127.0.0.1:1")


def test_what_a_mirror_lacks_is_named_with_what_it_has(tmp_path: Path) -> None:
    write_mirror(tmp_path, "some/set", "part", train=rows_of(2))
    for source, split, parts in [
        (Hub("other/set", "part"), "train", ["other/set", "It has: some/set", "HYPERPELT_DATA"]),
        (Hub("some/set", "prat"), "train", ["prat/<split>-*.parquet", "has: part"]),
        (Hub("some/set", "part"), "test", ["No split 'test'", "it has: train"]),
    ]:
        with pytest.raises(UserError) as error:
            read_rows(source, split, tmp_path)
        assert all(part in str(error.value) for part in parts), error.value


def test_a_data_root_that_is_no_folder_says_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(name="test/x", source=Hub("a/b"), render=lambda row: Example(input=""), choices=("a", "b"))
    monkeypatch.setenv("HYPERPELT_DATA", str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"absent \(from the environment variable HYPERPELT_DATA\) is not a folder"):
        task.rows("train")


def test_rows_that_a_copied_run_does_not_bring_are_looked_for_in_the_data_root(tmp_path: Path) -> None:
    base = tmp_path / "run" / "plugins" / "home-1a2b"
    base.mkdir(parents=True)
    (tmp_path / "run" / "run.yaml").write_text("{}")
    source = Files({"test": "rows.csv"}, base=base)
    with pytest.raises(UserError, match=r"keeps what its tasks are, not their rows: .* --data-root"):
        read_rows(source, "test", None)
    (tmp_path / "rows.csv").write_text("text\nhello\n")
    assert list(read_rows(source, "test", tmp_path)) == [{"text": "hello"}]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("train-00000-of-00003.parquet", "train-00002-of-00003.parquet"), "2 of the 3 files .* number 00001 is not"),
        (("train-00000-of-00001.parquet", "train-00000-of-00001-a09b74b3ef9c3b56.parquet"), "more than one upload"),
        (("train-00000-of-00001.parquet", "train-00000-of-00002.parquet"), "more than one upload"),
        (("train.parquet", "train-00000-of-00001.parquet"), "more than one upload"),
    ],
)
def test_a_split_that_is_there_in_part_or_twice_is_refused(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    (tmp_path / "some" / "set" / "data").mkdir(parents=True)
    for name in names:
        datasets.Dataset.from_list(rows_of(1)).to_parquet(tmp_path / "some" / "set" / "data" / name)
    with pytest.raises(UserError, match=words):
        read_rows(Hub("some/set"), "train", tmp_path)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (None, "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"),
        (None, "default/train/0000.parquet"),
        ("part", "part/train/0000.parquet"),
    ],
)
def test_other_layouts_of_the_hub_are_read(tmp_path: Path, config: str | None, name: str) -> None:
    file = tmp_path / "some" / "set" / name
    file.parent.mkdir(parents=True)
    datasets.Dataset.from_list(rows_of(2)).to_parquet(file)
    assert Hub("some/set", config).splits(tmp_path) == ("train",)
    assert len(read_rows(Hub("some/set", config), "train", tmp_path)) == 2


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    write_mirror(tmp_path, "some/set", "part", train=rows_of(200))
    file = next((tmp_path / "some" / "set" / "part").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"Could not read {file}"):
        read_rows(Hub("some/set", "part"), "train", tmp_path)


def test_the_hub_offline_is_one_clear_sentence(tmp_path: Path) -> None:
    code = "import hyperpelt.tasks as t\ntry: t.get('glue/rte').rows('train')\nexcept ValueError as e: print(e)"
    env = {k: v for k, v in os.environ.items() if k != "HYPERPELT_DATA"}
    env |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.startswith("Task glue/rte, split train: Could not read nyu-mll/glue rte from the hub (")
    assert "--data-root" in done.stdout
    assert "\n" not in done.stdout.strip()


def test_hub_ids_need_a_namespace() -> None:
    with pytest.raises(UserError, match="'namespace/name', such as 'nyu-mll/glue'; got 'glue'"):
        Hub("glue")


FILES = {
    "train.csv": 'text,label\n"one, two",1\nNA,0\n',
    "train.tsv": "text\tlabel\none, two\t1\nNA\t0\n",
    "train.jsonl": '{"text": "one, two", "label": 1}\n{"text": "NA", "label": 0}\n',
    "train.json": '[{"text": "one, two", "label": 1}, {"text": "NA", "label": 0}]',
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_every_kind_give_the_same_rows(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf8")
    rows = read_rows(Files({"train": name}, base=tmp_path), "train", None)
    one, zero = (1, 0) if "json" in name else ("1", "0")  # a table holds text and nothing else
    assert [dict(row) for row in rows] == [{"text": "one, two", "label": one}, {"text": "NA", "label": zero}]


def test_a_lone_quote_in_a_tsv_swallows_nothing(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text('text\tlabel\nsay "hi\t1\nbye\t0\n', encoding="utf8")
    rows = read_rows(Files({"train": "train.tsv"}, base=tmp_path), "train", None)
    assert [row["text"] for row in rows] == ['say "hi', "bye"]


def test_files_by_list_pattern_compressed_and_below_the_data_root(tmp_path: Path) -> None:
    for n in (1, 2):
        (tmp_path / f"part{n}.txt").write_text(f"line {n}\n", encoding="utf8")
    with gzip.open(tmp_path / "packed.jsonl.gz", "wt") as packed:
        packed.write('{"text": "packed"}\n')
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    source = Files(
        {"all": "part*.txt", "both": ["part2.txt", "part1.txt"], "packed": "packed.jsonl.gz"}, base=elsewhere
    )
    assert [row["text"] for row in read_rows(source, "all", tmp_path)] == ["line 1", "line 2"]
    assert [row["text"] for row in read_rows(source, "both", tmp_path)] == ["line 2", "line 1"]
    assert read_rows(source, "packed", tmp_path)[0]["text"] == "packed"


def test_paths_are_relative_to_the_file_that_names_them() -> None:
    source = Files({"train": Path(__file__).name})
    assert source.base == Path(__file__).parent
    assert source.state("train", None)[0][0] == __file__


def test_a_missing_file_names_the_folders_looked_in(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"No file 'train.csv' in {tmp_path}"):
        read_rows(Files({"train": "train.csv"}, base=tmp_path), "train", None)
    (tmp_path / "trian.csv").write_text("")
    with pytest.raises(UserError, match=r"Did you mean 'trian\.csv'\? Paths are relative"):
        read_rows(Files({"train": "train.csv"}, base=tmp_path), "train", None)
    (tmp_path / "table.xlsx").write_text("")
    with pytest.raises(UserError, match="expected files of one kind among"):
        read_rows(Files({"train": "table.xlsx"}, base=tmp_path), "train", None)


def test_malformed_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n{"text": ', encoding="utf8")
    with pytest.raises(UserError, match=r"Could not read .*train\.jsonl"):
        read_rows(Files({"train": "train.jsonl"}, base=tmp_path), "train", None)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    source = Files({"train": "train.jsonl"}, base=tmp_path)
    file.write_text('{"text": "a"}\n', encoding="utf8")
    first = read_rows(source, "train", None)
    assert read_rows(source, "train", None) is first
    file.write_text('{"text": "longer"}\n', encoding="utf8")
    assert read_rows(source, "train", None)[0]["text"] == "longer"


def make_rows(split: str, size: int = 2) -> list[dict]:
    return [{"text": f"{split} {n}", "label": 0} for n in range(size)]


def test_generator_takes_options_and_names_its_splits() -> None:
    source = Generator(make_rows, ("train", "test"), options={"size": 3})
    assert [row["text"] for row in read_rows(source, "test", None)] == ["test 0", "test 1", "test 2"]
    with pytest.raises(UserError, match="Known: test, train"):
        read_rows(source, "dev", None)


def test_reading_shows_no_progress_bar_and_leaves_the_users_setting(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    write_mirror(tmp_path, "some/set", "part", train=rows_of(5))
    capfd.readouterr()
    datasets.enable_progress_bars()
    task = Task(
        name="test/quiet",
        source=Hub("some/set", "part"),
        render=lambda row: Example(input=row["text"], label=row["label"]),
        choices=("no", "yes"),
        splits=Splits.fractions(validation=0.2, test=0.2, by="text"),
    )
    assert len(list(task.examples("train", data_root=tmp_path))) == 3
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


@pytest.mark.parametrize("mark", [";", "|"])
def test_columns_parted_by_another_mark_are_told_by_the_option_that_reads_them(tmp_path: Path, mark: str) -> None:
    (tmp_path / "train.csv").write_text(f"text{mark}label\ngood{mark}1\n", encoding="utf8")

    def first(**options: str) -> Example:
        source = Files({"train": "train.csv"}, base=tmp_path, options=options)
        splits = Splits(validation=None, test=None)
        return Task(
            name="my/parted",
            kind="generation",
            source=source,
            render=lambda row: Example(input=row["text"], target=row["label"]),
            splits=splits,
        ).examples("train")[0]

    with pytest.raises(UserError, match=re.escape(f"give its options: {{sep: '{mark}'}}")):
        first()
    assert first(sep=mark).input == "good"


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for name in ("a.csv", "b.csv", "notes.txt"):
        (tmp_path / "rows" / name).write_text("text,label\nx,0\n")
    source = Files({"train": "rows"}, base=tmp_path)
    with pytest.raises(UserError, match=r"rows is a folder, expected files: name those in it, such as rows/\*\.csv\."):
        source.read("train", None)


def test_rows_know_their_place_in_their_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("text\n" + "".join(f"{name}{n}\n" for n in range(5)))
    rows = Files({"train": "*.csv"}, base=tmp_path).read("train", None)
    picked = rows.select([8, 9, 1]).select([1, 2])
    assert [(row["text"], row.file.name, row.number) for row in picked] == [("b4", "b.csv", 4), ("a1", "a.csv", 1)]
    assert (picked[1].file.name, picked[1].number) == ("a.csv", 1)
