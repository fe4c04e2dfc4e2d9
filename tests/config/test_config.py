"""Run settings: what is accepted, and that every mistake is answered with the key, the place and what to write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hyperpelt.config import RunConfig, keys, load_run, to_yaml
from hyperpelt.config.text import read_yaml
from hyperpelt.errors import UserError

NEEDED = ["tasks=glue/rte", "output_dir=runs/x"]


def refused(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_run(path, [*NEEDED, *overrides])
    return str(caught.value)


def test_settings_survive_being_written_and_read(tmp_path):
    config = load_run(None, [*NEEDED, "learning_rate=1e-5", "mixing.strategy=capped", "mixing.cap=500", "resume=auto"])
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config), encoding="utf8")
    assert load_run(file) == config
    moved = config.model_copy(update={"output_dir": str(tmp_path)})
    assert load_run(tmp_path) == moved, "a run folder stands for its run.yaml, and for itself"
    assert all(f"\n{name}:" in "\n" + to_yaml(config) for name in RunConfig.model_fields), "every default is filled in"


def test_later_overrides_win_over_earlier_ones_and_over_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "tasks: [glue/rte]\noutput_dir: a\nmax_steps: 10\nmixing: {temperature: 3, cap: 7}\n", encoding="utf8"
    )
    config = load_run(file, ["max_steps=20", "mixing.temperature=5", "max_steps=30"])
    assert (config.max_steps, config.mixing.temperature, config.mixing.cap) == (30, 5.0, 7)


def test_method_options_and_task_rates_can_be_set_with_dots():
    config = load_run(None, [*NEEDED, "method=lora", "method.rank=4"])
    assert config.method == {"name": "lora", "rank": 4}
    assert load_run(None, [*NEEDED, "method.bottleneck=8"]).method == {"name": "hyperpelt", "bottleneck": 8}
    config = load_run(None, ["output_dir=a", "tasks.glue/rte=2", "tasks.my.task/v1.0=1"])
    assert config.task_rates == {"glue/rte": 2.0, "my.task/v1.0": 1.0}


def test_lists_may_be_written_with_commas_and_wildcards_are_no_yaml():
    assert load_run(None, [*NEEDED, "tasks=glue/*, cb"]).tasks == ["glue/*", "cb"]
    assert load_run(None, [*NEEDED, "tasks=*"]).tasks == ["*"]
    assert load_run(None, NEEDED).task_rates == {"glue/rte": None}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learning_rat=1", "'learning_rate'"),
        ("lr=1", "learning_rate"),
        ("optim=adamw", "optimizer"),
        ("warmup_ratio=0.1", "warmup_steps"),
        ("mixing.temprature=1", "'mixing.temperature'"),
        ("max_steps=many", "max_steps should be a whole number, got 'many' (text)"),
        ("max_steps=2.5", "max_steps should be a whole number, got 2.5 (a number)"),
        ("max_steps=0", "max_steps should be at least 1, got 0"),
        ("max_steps=true", "max_steps should be a number, not true or false"),
        ("learning_rate=fast", "learning_rate should be a number, got 'fast' (text)"),
        ("label_smoothing=1.5", "label_smoothing should be less than 1.0"),
        ("mixing=3", "mixing should be a mapping, got 3"),
        ("mixing.strategy=fair", "'proportional', 'temperature', 'capped', 'equal', 'explicit'"),
        ("tasks.glue/rte=often", "tasks.glue/rte should be a number, got 'often'"),
        ("tasks.glue/rte=-1", "tasks.glue/rte should be a rate of 0 or more"),
        ("tasks=[]", "tasks is empty"),
        ("overwrite=perhaps", "overwrite should be true or false, got 'perhaps'"),
        ("max_steps", "'max_steps' is not key=value"),
        ("early_stopping_patience=3", "set eval_steps"),
        ("output_dir=null", "output_dir should be text, got None (null)"),
        ("seed=100000000000000000000000", "seed should be at most 9223372036854775807"),
        ("num_train_epochs=.inf", "num_train_epochs should be a finite number, got inf"),
        ("warmup_steps=.inf", "warmup_steps should be a finite number, got inf"),
        ("mixing.temperature=.nan", "mixing.temperature should be a finite number"),
        ("max_steps=2023-02-30", "max_steps should be a whole number, got '2023-02-30'"),
    ],
)
def test_a_wrong_setting_is_answered_with_key_value_and_what_was_expected(override, expected):
    assert expected in refused(override)


def test_a_pair_is_taken_as_it_is_and_text_is_yaml():
    config = load_run(None, [*NEEDED, ("data_root", "data #1"), ("from_run", "123"), "max_steps=7 # few"])
    assert (config.data_root, config.from_run, config.max_steps) == ("data #1", "123", 7)


@pytest.mark.parametrize("name", ["fp16", "float16", "half"])
def test_fp16_is_refused_by_name_with_the_reason(name):
    message = refused(f"precision={name}")
    assert "overflow" in message
    assert "bf16" in message


def test_missing_keys_say_what_they_are_for():
    with pytest.raises(UserError, match=r"(?s)tasks is missing.*output_dir is missing.*output_dir=runs/first"):
        load_run(None)


def test_mistakes_in_a_file_name_the_file_and_line(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "tasks: [glue/rte]\noutput_dir: a\nmixing:\n  strategy: equal\n  capp: 3\nmax_step: 4\n", encoding="utf8"
    )
    with pytest.raises(UserError) as caught:
        load_run(file)
    assert f"{file}, line 5: Unknown key 'mixing.capp'. Did you mean 'mixing.cap'?" in str(caught.value)
    assert f"{file}, line 6: Unknown key 'max_step'. Did you mean 'max_steps'?" in str(caught.value)
    file.write_text("tasks: [glue/rte]\noutput_dir: a\nmixing.cap: 3\n", encoding="utf8")
    with pytest.raises(
        UserError, match=r"line 3: .*'mixing.cap'.*in a file it stands below mixing, `mixing: {cap: ...}`"
    ):
        load_run(file)


def test_a_key_that_merged_settings_bring_may_be_set_anew(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("first: &first {method: lora, learning_rate: 1.0}\nsecond: {<<: *first, learning_rate: 2.0}\n")
    assert read_yaml(file)[0]["second"] == {"method": "lora", "learning_rate": 2.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tasks: [glue/rte\noutput_dir: a\n", "line 2: not valid YAML"),
        ("- tasks\n- output_dir\n", "expected a mapping of keys to values at the top, got a list"),
        ("tasks: [a]\nseed: 1\nseed: 2\n", "line 3: key 'seed' is already set in line 2"),
        ("tasks: [a]\noutput_dir: 2023-02-30\n", "a value that YAML cannot hold"),
        ("tasks: [a]\noutput_dir: b\nseed: one\n", "line 3: seed should be a whole number, got 'one'"),
    ],
)
def test_a_file_that_is_no_run_says_where_it_goes_wrong(tmp_path, text, expected):
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf8")
    with pytest.raises(UserError) as caught:
        load_run(file)
    assert expected in str(caught.value)


def test_a_missing_file_names_the_one_that_is_there(tmp_path):
    (tmp_path / "glue_cpu.yaml").write_text("seed: 1\n", encoding="utf8")
    with pytest.raises(UserError, match=r"does not exist; .*glue_cpu.yaml does"):
        load_run(tmp_path / "glue_cpuu.yaml")


def test_every_key_is_listed_with_default_and_type():
    rows = {row["key"]: row for row in keys()}
    assert set(rows) == (set(RunConfig.model_fields) - {"mixing"}) | {
        "mixing.strategy",
        "mixing.temperature",
        "mixing.cap",
    }
    assert rows["tasks"]["required"]
    assert rows["learning_rate"]["default"] is None, "what suits the method"
    assert rows["optimizer"]["choices"] == ["adamw", "adafactor"]


def test_files_and_folders_can_be_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "models", "models/mine", "mini-bart"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine.py").write_text("", encoding="utf8")
    overrides = ["data_root=data", "backbone=models/mine", "plugins=mine.py,my.module"]
    config = load_run(None, [*NEEDED, *overrides]).with_full_paths()
    assert config.data_root == str(tmp_path / "data")
    assert config.backbone == str(tmp_path / "models" / "mine")
    assert config.plugins == [str(tmp_path / "mine.py"), "my.module"]
    assert load_run(None, NEEDED).with_full_paths() == load_run(None, NEEDED)


def test_a_plugin_that_python_finds_as_a_module_is_no_folder(tmp_path, monkeypatch):
    (tmp_path / "package_here").mkdir()
    (tmp_path / "package_here" / "__init__.py").write_text("", encoding="utf8")
    (tmp_path / "folder_here").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json").mkdir()
    full = [str(tmp_path / name) for name in ("package_here", "folder_here")]

    def plugins() -> list[str]:
        config = load_run(None, [*NEEDED, "plugins=package_here,folder_here,json"])
        assert config.with_full_paths().plugins == config.plugins
        return config.plugins

    assert plugins() == [*full, "json"]
    monkeypatch.syspath_prepend(tmp_path)
    assert plugins() == ["package_here", full[1], "json"]


def test_reading_settings_needs_no_pytorch():
    code = (
        "import sys, hyperpelt.config; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_without_settings_is_told_as_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a model, and no run\.yaml with the settings of a run\."):
        load_run(tmp_path)
