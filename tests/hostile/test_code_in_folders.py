"""Nothing that a folder brings is run: code beside a backbone, plugins of a run from the hub."""

from __future__ import annotations

import ast
import io
import json
import re
from pathlib import Path

import pytest
from small_runs import forget_tasks, write_run
from transformers import T5Tokenizer

from hyperpelt import cli
from hyperpelt.backbones import load_backbone, load_config, load_tokenizer
from hyperpelt.config import load_run
from hyperpelt.errors import UserError
from hyperpelt.vision.towers import load_tower

ROOT = Path(__file__).parents[2]
EVIL = "from pathlib import Path\nPath({mark!r}).write_text('run')\nclass Evil: pass\n"
LOADERS = re.compile(r"^(Auto\w+|kind|tower\w*|_tower_class|_model_class)$")


def calls_that_may_run_code(path: Path) -> list[str]:
    """Calls of transformers' loaders without `trust_remote_code=False`, as file:line."""
    found, text = [], path.read_text(encoding="utf8")
    for node in ast.walk(ast.parse(text)) if "from_pretrained(" in text or "from_config(" in text else ():
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value.func if isinstance(node.func.value, ast.Call) else node.func.value
        name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
        if node.func.attr in ("from_pretrained", "from_config") and LOADERS.match(name):
            given = {one.arg: ast.unparse(one.value) for one in node.keywords}
            if given.get("trust_remote_code") != "False":
                found.append(f"{path}:{node.lineno}")
    return found


def test_every_loader_of_transformers_is_told_to_run_nothing() -> None:
    paths = [path for room in ("hyperpelt", "scripts", "tasks") for path in (ROOT / room).rglob("*.py")]
    assert [line for path in paths for line in calls_that_may_run_code(path)] == []


def test_the_search_finds_a_loader_that_was_told_nothing(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("AutoTokenizer.from_pretrained('x')\n_tower_class(c).from_pretrained('x')\n", encoding="utf8")
    assert len(calls_that_may_run_code(path)) == 2


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder whose files ask for its own code in every way that transformers knows; the mark that the code leaves."""
    folder, mark = tmp_path / "evil", tmp_path / "mark"
    (folder / "custom_generate").mkdir(parents=True)
    for name in ("evil.py", "custom_generate/generate.py"):
        (folder / name).write_text(EVIL.format(mark=str(mark)), encoding="utf8")
    classes = ("AutoConfig", "AutoTokenizer", "AutoModel", "AutoModelForSeq2SeqLM", "AutoImageProcessor")
    asked = {"auto_map": {kind: "evil.Evil" for kind in classes}, "model_type": "evil"}
    for name in ("config", "tokenizer_config", "preprocessor_config"):
        (folder / f"{name}.json").write_text(json.dumps(asked), encoding="utf8")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 50))
    return folder, mark


def test_a_backbones_code_is_not_run_whatever_stands_on_stdin(evil: tuple[Path, Path]) -> None:
    folder, mark = evil
    for load in (load_config, load_tokenizer, load_backbone, lambda path: load_tower(str(path))):
        with pytest.raises(UserError, match=r"never done|cannot be loaded"):
            load(folder)
    assert not mark.exists()


@pytest.mark.parametrize("command", ["train", "plan", "methods"])
def test_no_command_runs_a_backbones_code(
    command: str,
    evil: tuple[Path, Path],
    tmp_path: Path,
    tiny_tokenizer: T5Tokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, mark = evil
    overrides = [*write_run(tmp_path / "toy", tiny_tokenizer), f"backbone={folder}"]
    arguments = ["methods", "list", "--backbone", str(folder)] if command == "methods" else [command, *overrides]
    assert cli.run(arguments) == 2
    forget_tasks()
    assert "code of their own" in capsys.readouterr().err
    assert not mark.exists()


# ---------------------------------------------------------------------------------------------------- runs of the hub


@pytest.fixture
def on_the_hub(tmp_path: Path, tiny_tokenizer: T5Tokenizer, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """(id, mark) of a run in the hub's cache whose run.yaml names a plugin that is here; the plugin leaves the mark."""
    from hyperpelt import TunedModel, tasks
    from hyperpelt.config import to_yaml

    mark, commit = tmp_path / "mark", "0" * 40
    config = load_run(None, write_run(tmp_path, tiny_tokenizer))
    tasks.load_plugin(config.plugins[0])
    model = TunedModel.build(config.backbone, method=config.method, tasks=["toy/mood", "toy/truth"])
    forget_tasks()
    place = tmp_path / "hub" / "models--me--run"
    folder = place / "snapshots" / commit
    model.save_pretrained(folder)
    plugin = tmp_path / "evil.py"
    plugin.write_text(EVIL.format(mark=str(mark)), encoding="utf8")
    text = to_yaml(config.model_copy(update={"plugins": [str(plugin)], "data_root": "/nowhere"}))
    (folder / "run.yaml").write_text(text, encoding="utf8")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit, encoding="utf8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place.parent))
    monkeypatch.setattr("sys.stdin", io.StringIO("mood: good\n"))
    monkeypatch.chdir(tmp_path)
    return "me/run", mark


def test_a_run_from_the_hub_brings_no_plugins_for_any_command(on_the_hub: tuple[str, Path]) -> None:
    run, mark = on_the_hub
    for arguments in (
        ["predict", run, "--task", "toy/mood", "--raw"],
        ["evaluate", run, "--cpu"],
        ["transfer", run, "--tasks", "toy/mood", "--shots", "4", "--cpu"],
        ["train", "--add", "glue/rte", "--from", run, "max_steps=1", "use_cpu=true"],
        ["geometry", run, "--cpu"],
        ["export", run, "--task", "toy/mood", "--output", "out"],
        ["report", run],
    ):
        assert cli.run(arguments) in (0, 2), arguments
        assert not mark.exists(), arguments


def test_the_settings_of_a_run_from_the_hub_hold_no_plugins_and_no_paths(on_the_hub: tuple[str, Path]) -> None:
    from hyperpelt.model.saving import local_folder

    settings = load_run(local_folder(on_the_hub[0]))
    assert (settings.plugins, settings.data_root) == ([], None)
    assert load_run(local_folder(on_the_hub[0]) / "run.yaml").plugins == []


def test_whose_code_a_local_run_brings_is_said(
    on_the_hub: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hyperpelt.commands.common import load_plugins_of
    from hyperpelt.model.saving import local_folder

    local, mark = tmp_path / "local", on_the_hub[1]
    local.mkdir()
    (local / "run.yaml").write_text((local_folder(on_the_hub[0]) / "run.yaml").read_text(), encoding="utf8")
    load_plugins_of(str(local))
    assert mark.exists()
    said = r"Running the code of \S+evil.py, a plugin of \S+local\."
    assert re.search(said, capsys.readouterr().err)
    for verb in ("plan", "train"):
        assert cli.run([verb, str(local)]) == 2  # the plugin brings no task
        assert re.search(said, capsys.readouterr().err)
