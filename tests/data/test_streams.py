"""Streamed splits: drawn in an order that seed and shards alone decide, resumed exactly, shared out among processes."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import warm
from safetensors.torch import load_file
from small_runs import forget_tasks, write_run

from hyperpelt import Example, Files, Hub, Splits, Stream, Task, UserError
from hyperpelt import tasks as registry
from hyperpelt.config import load_run
from hyperpelt.data import Choices, MicroBatches, MixtureSampler, StreamedSet
from hyperpelt.tasks.streams import JsonShard
from hyperpelt.tasks.yaml import load_yaml
from hyperpelt.training import train

SIZES = (70, 40, 55, 1, 64)  # rows of the shards
SPLITS = Splits(validation=None, test="test")
WORDS = ["good", "bad", "true", "false", "maybe", "yes", "no", "sentence", "the", "a"]


def rows_of(shard: int, size: int) -> list[dict[str, Any]]:
    return [{"text": " ".join(WORDS[(n + j) % 10] for j in range(1 + n % 5)), "label": n % 2, "id": f"{shard}-{n}"}
            for n in range(size)]  # fmt: skip


def write_shards(folder: Path, kind: str = "jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for shard, size in enumerate(SIZES):
        rows, file = rows_of(shard, size), folder / f"part-{shard}.{kind}"
        if kind == "parquet":
            datasets.Dataset.from_list(rows).to_parquet(file, batch_size=16)
        else:
            lines = "\n\n".join(map(json.dumps, rows)).encode()
            file.write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows_of(9, 8))), encoding="utf8")
    return folder


def stream_of(folder: Path, kind: str = "jsonl", **fields: Any) -> Task:
    source = Stream(Files({"train": f"part-*.{kind}", "test": "test.jsonl"}, base=folder), rows={"train": 230})
    return Task(
        name="my/stream",
        source=source,
        render=lambda row: Example(input=f"say: {row['text']} {row['id']}", label=row["label"]),
        choices=("no", "yes"),
        **{"splits": SPLITS, **fields},
    )


def set_of(task: Task, tokenizer: Any, **options: Any) -> StreamedSet:
    how = {"max_source_length": 24, "max_target_length": 8, "seed": 5, **options}
    return StreamedSet(task, "train", tokenizer, **how)


def drawn(rows: StreamedSet, start: int, stop: int) -> list[tuple]:
    rows.hold(start, stop)
    return [(rows.name_of(n), rows[n].input_ids.tolist(), rows[n].labels.tolist()) for n in range(start, stop)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes and blocks of which a few hundred rows need several."""
    monkeypatch.setattr("hyperpelt.data.streamed.LANES", 3)
    monkeypatch.setattr("hyperpelt.data.streamed.BLOCK", 16)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_a_draw_depends_on_seed_and_shards_alone(small: None, tmp_path: Path, tiny_tokenizer: Any, kind: str) -> None:
    task = stream_of(write_shards(tmp_path, kind), kind)
    whole = drawn(set_of(task, tiny_tokenizer), 0, 700)
    rows = set_of(task, tiny_tokenizer)
    pieces = [row for start in range(0, 700, 70) for row in drawn(rows, start, start + 70)]
    assert pieces == whole
    for start in (0, 33, 160, 333, 690):  # back, ahead, and into later epochs
        assert drawn(set_of(task, tiny_tokenizer), start, start + 10) == whole[start : start + 10]
        assert drawn(rows, start, start + 10) == whole[start : start + 10]
    assert drawn(set_of(task, tiny_tokenizer, seed=6), 0, 700) != whole
    text = tiny_tokenizer(f"say: {rows_of(0, 70)[3]['text']} 0-3")["input_ids"]
    assert next(ids for name, ids, _ in whole if name == f"my/stream train row 3 of part-0.{kind}") == text


def test_every_row_of_a_lane_comes_once_an_epoch_in_a_new_order(
    small: None, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    names = [name for name, *_ in drawn(set_of(stream_of(write_shards(tmp_path)), tiny_tokenizer), 0, 3 * 2 * 134)]
    lane = names[0::3]  # parts 0 and 3: 71 rows
    epochs = [lane[start : start + 71] for start in (0, 71, 142)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len(set(epochs[0])) == 71
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != sorted(epochs[0])
    assert set(Counter(names[1::3])) == {
        f"my/stream train row {n} of part-{s}.jsonl" for s in (1, 4) for n in range(SIZES[s])
    }


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_shards_without_a_row_are_none(small: None, tmp_path: Path, tiny_tokenizer: Any, kind: str) -> None:
    """As programs that write in parallel leave them; one may have a lane of its own."""
    task = stream_of(write_shards(tmp_path, kind), kind)
    whole = drawn(set_of(task, tiny_tokenizer), 0, 40)
    for name in ("part-00", "part-11"):
        if kind == "parquet":
            datasets.Dataset.from_list(rows_of(0, 1)).select([]).to_parquet(tmp_path / f"{name}.parquet")
        else:
            (tmp_path / f"{name}.{kind}").write_bytes(gzip.compress(b"\n") if kind.endswith("gz") else b"\n")
    assert drawn(set_of(task, tiny_tokenizer), 0, 40) == whole
    for file in tmp_path.glob("part-[0-4].*"):
        file.unlink()
    with pytest.raises(UserError, match="has no shard with a row"):
        set_of(task, tiny_tokenizer)


def test_rows_that_are_left_out_are_not_drawn(small: None, tmp_path: Path, tiny_tokenizer: Any) -> None:
    task = stream_of(write_shards(tmp_path), splits=Splits(validation=None, test="test", drop={"label": 0}))
    whole = drawn(set_of(task, tiny_tokenizer), 0, 300)
    assert {tuple(labels) for *_, labels in whole} == {tuple(tiny_tokenizer("yes")["input_ids"])}
    assert drawn(set_of(task, tiny_tokenizer), 200, 230) == whole[200:230]


def test_going_on_reads_no_row_twice_and_skipping_parses_none(
    small: None, tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    read = JsonShard.read

    def watched(self: JsonShard, start: int = 0) -> Iterator[tuple[int, Any]]:
        for number, row in read(self, start):
            parsed.append(f"{self.name} {number}")
            yield number, row

    task = stream_of(write_shards(tmp_path))
    rows = set_of(task, tiny_tokenizer)
    monkeypatch.setattr(JsonShard, "read", watched)
    for start in range(0, 100, 20):
        rows.hold(start, start + 20)
    assert len(set(parsed)) == len(parsed) <= 100 + 3 * 16
    parsed.clear()
    set_of(task, tiny_tokenizer).hold(90, 99)
    assert len(parsed) <= 3 * 32


def _share(rank: int, folder: Path, tokenizer: Any, pipes: Any, answers: Any) -> None:
    opened: set[str] = set()
    read = JsonShard.read

    def watched(self: JsonShard, start: int = 0) -> Iterator[tuple[int, Any]]:
        opened.add(self.name)
        return read(self, start)

    def gather(value: Any) -> list[Any]:
        pipes[rank].send(value)
        other = pipes[rank].recv()
        return [value, other] if rank == 0 else [other, value]

    rows = set_of(stream_of(folder), tokenizer, rank=rank, world=2, gather=gather)
    JsonShard.read = watched  # type: ignore[method-assign]
    answers.put((rank, [row for start in (0, 60, 120) for row in drawn(rows, start, start + 60)], opened))


def test_processes_share_the_shards_and_draw_what_one_does(small: None, tmp_path: Path, tiny_tokenizer: Any) -> None:
    folder = write_shards(tmp_path)
    context = multiprocessing.get_context("fork")
    pipes, answers = context.Pipe(), context.Queue()
    sharing = [context.Process(target=_share, args=(r, folder, tiny_tokenizer, pipes, answers)) for r in range(2)]
    for process in sharing:
        process.start()
    found = {rank: (rows, opened) for rank, rows, opened in (answers.get(timeout=60) for _ in sharing)}
    for process in sharing:
        process.join()
    whole = drawn(set_of(stream_of(folder), tiny_tokenizer), 0, 180)
    assert found[0][0] == found[1][0] == whole
    assert found[0][1] == {"part-0.jsonl", "part-3.jsonl", "part-2.jsonl"}  # lanes 0 and 2
    assert found[1][1] == {"part-1.jsonl", "part-4.jsonl"}


def test_a_row_that_does_not_render_ends_every_process_with_its_shard(tmp_path: Path, tiny_tokenizer: Any) -> None:
    folder = write_shards(tmp_path)
    (folder / "part-3.jsonl").write_text('{"text": "a", "label": 7, "id": "x"}', encoding="utf8")
    told: list[Any] = []

    def gather(value: Any) -> list[Any]:
        told.append(value)
        return [value]

    with pytest.raises(UserError, match=r"my/stream, split train, row 0 of part-3.jsonl: .*7"):
        set_of(stream_of(folder), tiny_tokenizer, gather=gather).hold(0, 40)
    assert len(told) == 1, "the others are told, and do not wait"
    (folder / "part-1.jsonl").write_text('{"text": ', encoding="utf8")
    with pytest.raises(UserError, match=r"part-1.jsonl, row 0: expected a JSON object"):
        set_of(stream_of(folder), tiny_tokenizer, seed=1).hold(0, 400)


def test_batches_of_a_stream_and_a_split_that_is_read_whole(small: None, tmp_path: Path, tiny_tokenizer: Any) -> None:
    """Rows bring their own choices, which a streamed row cannot be asked for again."""

    def pick(row: Any) -> Example:
        return Example(input=row["text"], choices=(f"good {row['id']}", "bad"), label=row["label"])

    task = Task(name="my/stream", source=stream_of(write_shards(tmp_path)).source, render=pick, splits=SPLITS)
    rows = set_of(task, tiny_tokenizer)
    order = MixtureSampler({"my/stream": 1.0}, {"my/stream": rows.lengths}, 8, 3, window=4, streams={"my/stream": rows})
    choices = Choices({task.name: task}, tiny_tokenizer, 8)
    batches = MicroBatches(order, {"my/stream": rows}, {"my/stream": 0}, 0, choices=choices)
    names = [name for step in range(9) for name in batches[step]["row_names"]]
    assert names == [name for step in range(9) for name in batches[step]["row_names"]]
    assert sorted(names[:64]) == sorted(name for name, *_ in drawn(set_of(task, tiny_tokenizer), 0, 64))
    batch = batches[5]
    assert len(batch["wrong_rows"]) == 8
    assert batch["num_global_tokens"] == int((batch["labels"] >= 0).sum())


def test_the_hubs_shards_are_read_by_number(small: None, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(shards: list[int]) -> Iterator[dict[str, Any]]:
        for shard in shards:
            yield from rows_of(shard, SIZES[shard])

    stream = datasets.IterableDataset.from_generator(made, gen_kwargs={"shards": list(range(len(SIZES)))})
    monkeypatch.setattr(Hub, "stream", lambda self, split: stream)
    monkeypatch.delenv("HYPERPELT_DATA", raising=False)
    source = Stream(Hub("some/texts"), rows={"train": 230})
    task = Task(name="my/stream", source=source, render=stream_of(Path()).render, choices=("no", "yes"), splits=SPLITS)
    whole = drawn(set_of(task, tiny_tokenizer), 0, 300)
    assert drawn(set_of(task, tiny_tokenizer), 250, 260) == whole[250:260]
    assert whole[0][0].endswith("of 5")
    assert len(task.rows("train")) == 230


YAML = """
name: my/stream
source: {files: {train: part-*.jsonl, test: test.jsonl}, stream: {train: 230}}
input: "say: {text} {id}"
choices: ["no", "yes"]
splits: {validation: null}
"""


def test_what_a_stream_lacks_is_said(tmp_path: Path, tiny_tokenizer: Any) -> None:
    folder = write_shards(tmp_path)
    files = Files({"train": "part-*.jsonl"}, base=folder)
    for rows in ({"train": None}, {}, {"train": 0}, "train"):
        with pytest.raises(UserError, match=r"A stream must state how many rows it has \(rates and epochs"):
            Stream(files, rows=rows)
    with pytest.raises(UserError, match=r"source split 'train' is streamed, so nothing can be cut out of it"):
        stream_of(folder, splits=Splits.held_out(10, test=None))
    with pytest.raises(UserError, match="a streamed task has text alone"):
        stream_of(folder, modalities=("text", "image"))
    (folder / "part-0.csv").write_text("text,label\na,1\n", encoding="utf8")
    with pytest.raises(UserError, match=r"Cannot stream .*part-0.csv: expected JSONL"):
        set_of(stream_of(folder, "csv"), tiny_tokenizer)
    (folder / "my.yaml").write_text(YAML.replace("{train: 230}", "5"), encoding="utf8")
    with pytest.raises(UserError, match="files are streamed with their number of rows"):
        load_yaml(folder / "my.yaml")


def torchrun(processes: int, settings: list[str]) -> None:
    command = [warm.python(), "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "hyperpelt.cli", "train", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture
def settings(tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict]]:
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    common = write_run(tmp_path, tiny_tokenizer)
    (write_shards(tmp_path / "shards") / "my.yaml").write_text(YAML, encoding="utf8")
    common += ["tasks=my/stream,toy/mood", f"plugins={tmp_path / 'toy_plugin.py'},{tmp_path / 'shards' / 'my.yaml'}"]

    def run(name: str, *more: str, processes: int = 1) -> dict[str, Any]:
        settings = [*common, "max_steps=6", "save_steps=2", "length_window=2", f"output_dir={tmp_path / name}", *more]
        if processes == 1:
            train(load_run(None, settings), progress=False)
        else:
            torchrun(processes, settings)
        return load_file(tmp_path / name / "model.safetensors")

    yield run
    forget_tasks()
    registry.remove("my/stream")


def test_a_run_on_a_stream_resumes_exactly(small: None, settings: Callable[..., dict], tmp_path: Path) -> None:
    whole = settings("whole", "save_total_limit=9")
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert registry.show_task("my/stream")["sizes"] == {"train": 230, "test": 8}
    told = next(row for row in results["training"]["mixture"] if row["task"] == "my/stream")
    assert told["rows"] == 230
    assert told["num_cut_sources"] is None
    again = settings("again", f"resume={tmp_path / 'whole' / 'checkpoints' / 'step-2'}")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    with pytest.raises(UserError, match="train_limit samples splits that are read whole"):
        settings("limited", "train_limit=5")


def test_two_processes_go_on_with_a_stream_where_one_stopped(settings: Callable[..., dict], tmp_path: Path) -> None:
    still = ["max_grad_norm=null", "adam_epsilon=1e-3", "learning_rate=1e-4", "save_total_limit=9"]
    settings("whole", *still)
    resumed = [*still, f"resume={tmp_path / 'whole' / 'checkpoints' / 'step-2'}", "per_device_train_batch_size=4"]
    settings("shared", *resumed, processes=2)
    one, two = (
        load_file(tmp_path / name / "checkpoints" / "step-6" / "optimizer.safetensors") for name in ("whole", "shared")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=name)
