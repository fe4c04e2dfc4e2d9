"""`hyperpelt features`: from tasks to a store on disk, what it shows, and taking it away."""

from __future__ import annotations

import json

import pytest
from task_support import own_registry

from hyperpelt import cli
from hyperpelt.vision import FeatureStore, load_image_encoder

PLUGIN = '''
import io
from PIL import Image
import hyperpelt

def rows(split):
    for number in range({"train": 6, "validation": 3, "test": 3}[split]):
        yield {"number": number, "label": number % 2}

def picture(number):
    file = io.BytesIO()
    Image.new("RGB", (12, 9), (40 * number, 90, 7)).save(file, "PNG")
    return file.getvalue() if number < 5 else file.getvalue()[:40]

@hyperpelt.task(
    name="mine/colours", source=hyperpelt.Generator(rows), choices=("no", "yes"), modalities=("text", "image")
)
def colours(row):
    """Is it so?"""
    return hyperpelt.Example(input="so?", images=(picture(row["number"]), picture(0)), label=row["label"])
'''


@pytest.fixture
def hyperpelt(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HYPERPELT_FEATURES", str(tmp_path / "features"))
    (tmp_path / "mine.py").write_text(PLUGIN)

    def run(*arguments, status=0):
        got = cli.run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert got == status, err
        return json.loads(out) if "--json" in arguments else out + err

    with own_registry():
        yield run


def test_features_are_built_once_shown_and_cleared(hyperpelt, tmp_path):
    build = ("features", "build", "mine/*", "--plugin", tmp_path / "mine.py", "--grid", "2")
    message = hyperpelt(*build, status=2)
    assert "mine/colours train row 5" in message
    first = hyperpelt(*build, "--skip-bad-images", "--json")
    train, validation, test = first["splits"]
    # Six rows of two pictures: five different ones, and one that is cut off.
    assert train == {"task": "mine/colours", "split": "train", "rows": 6, "images": 11, "encoded": 5, "bad": 1}
    assert [(part["images"], part["encoded"]) for part in (validation, test)] == [(6, 0), (6, 0)]
    again = hyperpelt(*build, "--skip-bad-images", "--split", "train", "--json")
    assert [part["encoded"] for part in again["splits"]] == [0]
    assert again["bytes"] == first["bytes"]
    (store,) = hyperpelt("features", "show", "--json")
    assert (store["encoder"], store["grid"], store["images"]) == ("mini-vision", [2, 2], 5)
    assert len(FeatureStore(None, load_image_encoder("mini-vision", grid=2))) == 5
    assert "mini-vision" in hyperpelt("features", "show")
    assert "2x2" in hyperpelt("features", "clear", "--encoder", "mini-vision")
    assert hyperpelt("features", "show", "--json") == []


def test_mistakes_are_said(hyperpelt, tmp_path):
    assert "None of the tasks glue/rte has images" in hyperpelt("features", "build", "glue/rte", status=2)
    plugin = ("--plugin", tmp_path / "mine.py")
    for flags, message in (
        (("--max-size", "much"), "expected a size such as 500MB or 20GB, or none, got 'much'"),
        (("--grid", "99"), "has 16 x 16 cells"),
        (("--encoder", tmp_path / "nowhere"), "cannot be loaded"),
    ):
        assert message in hyperpelt("features", "build", "mine/colours", *plugin, *flags, status=2)
    assert "image encoder with a feature store" in hyperpelt("features", "clear", "--encoder", "x", status=2)
