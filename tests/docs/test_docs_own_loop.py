"""docs/own_loop.md: the loop and the recipe for Trainer run as written, on a smaller backbone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from small_models import make_t5
from small_runs import METHOD, PLUGIN, forget_tasks
from transformers import PreTrainedTokenizerBase

from hyperpelt import TunedModel
from hyperpelt import tasks as registry

PAGE = (Path(__file__).parents[2] / "docs" / "own_loop.md").read_text(encoding="utf8")
RECIPES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("recipe", RECIPES, ids=["loop", "trainer"])
def test_a_recipe_trains_and_leaves_a_model(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    assert len(recipe.splitlines()) < 30
    monkeypatch.chdir(tmp_path)
    make_t5().save_pretrained("small")
    tiny_tokenizer.save_pretrained("small")
    Path("toy_plugin.py").write_text(PLUGIN, encoding="utf8")
    registry.load_plugin("toy_plugin.py")
    method = METHOD.replace("{", "{'").replace(": ", "': ").replace(", ", ", '").replace("hyperpelt,", "'hyperpelt',")
    for shown, smaller in (
        ("mini-bart", "./small"),
        ('"hyperpelt", tasks', f"{method}, tasks"),
        ("tabletop/sentiment", "toy/mood"),
        ("tabletop/nli", "toy/truth"),
    ):
        assert shown in recipe
        recipe = recipe.replace(shown, smaller)
    try:
        exec(compile(recipe, "own_loop.md", "exec"), {})
        model = TunedModel.from_pretrained("my_model")
        assert model.tasks == ("toy/mood", "toy/truth")
        assert model.generate(["good"], task="toy/mood", max_new_tokens=2)
    finally:
        forget_tasks()
