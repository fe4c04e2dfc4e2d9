"""Damaged files, devices, render functions that return anything: one sentence, never called a defect of ours."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5Tokenizer

from hyperpelt import Example, cli, tasks
from hyperpelt.errors import UserError, of_the_machine
from hyperpelt.files.damage import of_files
from hyperpelt.tasks.completing import complete
from hyperpelt.tasks.rendering import Naming
from hyperpelt.vision import images
from hyperpelt.vision.images import BadImage, load_image

HALF = "a \ud800"


@pytest.mark.parametrize(
    "fields",
    [
        {"input": HALF}, {"target": HALF}, {"target": 5}, {"choices": ("x", HALF)}, {"choices": 5}, {"choices": (1, 2)},
        {"weight": float("nan")}, {"weight": float("inf")}, {"weight": "heavy"}, {"weight": None}, {"weight": -1},
        {"targets": 5}, {"targets": ("yes",)}, {"targets": (("yes", "much"),)}, {"targets": (("yes", None),)},
        {"targets": ((HALF, 1),)}, {"ending": 5}, {"images": 5}, {"images": "photo.jpg"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["classification", "generation"])
def test_a_render_value_of_a_wrong_kind_is_said(fields: dict[str, Any], kind: str) -> None:
    with pytest.raises(UserError, match=r"expected|half a character"):
        complete(
            kind,
            Example(**{"input": "a", "label": "yes", **fields}),
            ("yes", "no") if "choices" not in fields else None,
        )


class Odd(BaseException):
    """What no `except Exception` catches."""


@pytest.mark.parametrize("error", [SystemExit(3), Odd("odd")])
def test_whatever_a_plugin_raises_is_said(error: BaseException, tmp_path: Path) -> None:
    plugin = tmp_path / "odd.py"
    plugin.write_text("class Odd(BaseException): pass\nraise " + repr(error), encoding="utf8")
    with pytest.raises(UserError, match=r"odd\.py failed to load"):
        tasks.load_plugin(plugin)
    assert cli.run(["tasks", "list", "--plugin", str(plugin)]) == 2
    with pytest.raises(UserError, match="Task t, split train, row 3: rendering failed"), Naming("t", "train", 3):
        raise error


def test_what_a_render_function_does_ends_check_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = ("raise GeneratorExit", "return Example(input='a', label=0, choices=('other',))")
    for number, body in enumerate(bodies):
        plugin = tmp_path / f"render_{number}.py"
        plugin.write_text(
            "from hyperpelt import Example, Generator, task\n"
            f"@task(name='odd/{number}', source=Generator(lambda split: [{{'a': 1}}]), choices=('no', 'yes'))\n"
            f"def odd(row):\n    {body}\n",
            encoding="utf8",
        )
        assert cli.run(["tasks", "check", f"odd/{number}", "--plugin", str(plugin)]) in (0, 2)
        tasks.remove(f"odd/{number}")
        assert "defect" not in capsys.readouterr().err


def test_an_interruption_is_no_fault_of_a_plugin() -> None:
    with pytest.raises(KeyboardInterrupt), Naming("t", "train", 3):
        raise KeyboardInterrupt


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b'{"tasks": 5}', b"[" * 100_000])
@pytest.mark.parametrize("name", ["results.json", "summary.json", "config.json", "run.yaml"])
def test_a_report_of_damaged_files_ends_in_a_sentence(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("tasks: glue/rte\noutput_dir: x\n", encoding="utf8")
    (tmp_path / name).write_bytes(content)
    assert cli.run(["report", str(tmp_path), "--output", str(tmp_path / "out.html")]) in (0, 2)
    assert "defect" not in capsys.readouterr().err


def test_a_backbone_whose_generation_settings_are_none_is_refused(tmp_path: Path) -> None:
    from small_models import make_t5

    from hyperpelt.backbones import load_backbone

    make_t5().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text("null", encoding="utf8")
    with pytest.raises(UserError, match=str(tmp_path)):
        load_backbone(tmp_path)


def test_damaged_tensors_end_in_a_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def fail(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("hyperpelt.report.write_report", fail)
    assert cli.run(["report", "."]) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_what_libraries_say_of_a_full_disk_is_a_sentence(tiny_tokenizer: T5Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="os error 28") as caught:
        tiny_tokenizer.backend_tokenizer.save("/dev/full")
    assert of_files(caught.value) == f"A file could not be read or written ({caught.value})."
    with pytest.raises(OSError, match="No space") as full:
        Path("/dev/full").write_text("x", encoding="utf8")
    assert "No space left" in str(of_files(full.value))
    assert of_files(FileNotFoundError(2, "No such file", "a/b")).startswith("Cannot use a/b: No such file.")
    assert of_files(Exception("anything else")) is None


def test_too_little_memory_and_lost_processes_are_no_defects(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_with(work: Callable[[], object]) -> str:
        monkeypatch.setattr("hyperpelt.report.write_report", lambda *_, **__: work())
        assert cli.run(["report", "."]) == 2
        return capsys.readouterr().err

    for work in (lambda: torch.empty(1 << 60), lambda: bytearray(1 << 60)):
        assert "The memory is too small for this" in run_with(work)
    nobody = {"port": 9, "is_master": False, "timeout": timedelta(milliseconds=1)}
    assert "cannot reach each other" in run_with(lambda: torch.distributed.TCPStore("127.0.0.1", **nobody))
    gloo = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    assert "one of them ended" in str(of_the_machine(gloo))


# -------------------------------------------------------------------------------------------------- what is no file


def test_an_image_that_is_no_regular_file_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    for path in (tmp_path / "fifo.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(BadImage, match="no regular file"):
            load_image(path)


def test_an_image_larger_than_any_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(30 << 30)  # holes: it takes no room
    with pytest.raises(BadImage, match=r"has 32,212,254,720 bytes"):
        load_image(path)
    assert images.MAX_BYTES < 1 << 30


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("tasks: glue/rte\noutput_dir: x\n", encoding="utf8")
    return tmp_path / "run"


def test_a_device_is_written_to_and_never_replaced(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for device, status in (("/dev/null", 0), ("/dev/full", 2)):
        before = os.stat(device)
        assert cli.run(["report", str(run), "--output", device]) == status
        assert os.stat(device).st_rdev == before.st_rdev
    assert "/dev/full" in capsys.readouterr().err


def test_a_pipe_is_not_replaced(run: Path, tmp_path: Path) -> None:
    from hyperpelt.files.atomic import write_json

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_json(pipe, {"a": 1})
    assert json.loads(os.read(reader, 100)) == {"a": 1}
    os.close(reader)
    assert pipe.is_fifo()
