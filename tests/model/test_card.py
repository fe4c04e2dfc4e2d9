"""What goes to the hub with a model: a card, its run's results and settings, and nothing of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from small_models import make_t5

from hyperpelt import TunedModel
from hyperpelt.config import build_run, load_run, to_yaml

RESULTS = {
    "split": "test",
    "average": 71.25,
    "tasks": {
        "glue/rte": {"metrics": {"accuracy": 71.25}, "majority": {"metrics": {"accuracy": 52.7}}, "rows": 1234},
    },
}


@pytest.fixture
def uploaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The text files that were uploaded, by name."""
    found: dict[str, str] = {}

    class Api:
        def __init__(self, token: str | None) -> None: ...

        def create_repo(self, repo_id: str, **options: Any) -> None: ...

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> SimpleNamespace:
            files = [path for path in Path(folder_path).rglob("*") if path.suffix in (".md", ".yaml", ".json")]
            found.update({str(path.relative_to(folder_path)): path.read_text(encoding="utf8") for path in files})
            return SimpleNamespace()

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return found


def test_a_pushed_run_brings_its_card_results_and_settings(
    uploaded: dict[str, str], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    model = TunedModel.build(make_t5(), method="bitfit", tasks=["glue/rte"], tokenizer=tiny_tokenizer)
    model.save_pretrained(run)
    settings = {"tasks": ["glue/rte"], "output_dir": str(run), "scoring": "token", "data_root": str(tmp_path)}
    (run / "run.yaml").write_text(to_yaml(build_run(settings | {"plugins": [str(tmp_path / "x.py")]})), encoding="utf8")
    (run / "results.json").write_text(json.dumps(RESULTS), encoding="utf8")
    loaded = TunedModel.from_pretrained(run, backbone=make_t5())
    assert loaded.tokenizer is not None, "which was saved: a backbone that was built has no name to find it by"
    loaded.push_to_hub("me/my-run")
    card = uploaded["README.md"]
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "hyperpelt"
    assert "| glue/rte | accuracy | 71.25 | 52.70 | 1,234 |" in card
    assert "hyperpelt predict me/my-run --task glue/rte" in card
    assert 'TunedModel.from_pretrained("me/my-run")' in card
    assert json.loads(uploaded["results.json"]) == RESULTS
    assert {"tokenizer/tokenizer_config.json", "config.json"} <= uploaded.keys()
    assert not any(str(tmp_path) in content for content in uploaded.values()), "no path of this machine"
    (tmp_path / "pulled.yaml").write_text(uploaded["run.yaml"], encoding="utf8")
    assert load_run(tmp_path / "pulled.yaml").scoring == "token"


def test_a_model_without_a_run_has_a_card_all_the_same(uploaded: dict[str, str], tiny_tokenizer: Any) -> None:
    TunedModel.build(make_t5(), method="bitfit", tasks=["a/b", "c/d"], tokenizer=tiny_tokenizer).push_to_hub("me/x")
    assert "2 tasks: `a/b`, `c/d`" in uploaded["README.md"]
    assert "run.yaml" not in uploaded
