"""Bad inputs, in this process: settings, overrides, methods, tasks, plugins, rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from soaking.nasty import BYTES, KEYS, VALUES, spoil_text, spoil_yaml
from soaking.place import Place, command, forget

Case = Callable[[Place, Random], tuple[str, str]]  # what was tried, and its fault

TASK = """\
name: fuzz/claims
description: Is it true?
source: {files: {train: rows.csv, test: rows.csv}}
input: "claim: {claim}"
choices: [no, yes]
label: label
splits: {train: train, validation: null, test: test}
"""
RENDER = """\
from hyperpelt import Example, Generator, task

@task(name="fuzz/odd", source=Generator(lambda split: [{{"text": "a", "label": 0}}] * 3), choices=("no", "yes"),
      metrics=("accuracy",))
def odd(row):
    {body}
"""
# What a render function may do, or return in a field.
BODIES = (
    "raise SystemExit(3)",
    "raise BaseException('x')",
    "raise KeyboardInterrupt.__base__()",
    "return None",
    "return 5",
    "return Example(input=row['nowhere'])",
    "return Example()",
    "1 / 0",
    "return row",
    "raise GeneratorExit",
    "import sys; sys.exit('bye')",
    "raise MemoryError.__base__('x')",
    "return Example(input='a', label=0, nope=1)",
)
FIELDS = ("input", "target", "choices", "label", "images", "group", "weight", "targets", "ending")
OBJECTS = (
    "5",
    "-1",
    "None",
    "''",
    "'\\ud800'",
    "float('nan')",
    "float('inf')",
    "(1, 2)",
    "['a', None]",
    "{}",
    "b'x'",
    "object()",
    "'\\x1b[31m'",
    "('yes',)",
    "(('yes', 2),)",
    "[[]]",
    "True",
    "10 ** 400",
    "'/dev/zero'",
    "('/dev/zero',)",
    "'x' * 100000",
)
PLUGINS = (
    "raise SystemExit(0)",
    "raise BaseException('x')",
    "import nowhere_at_all",
    "def f(:",
    "x = '\\x1b[31m'; raise ValueError(x)",
    "from hyperpelt import task\ntask(name='A b')(len)",
    "def register(): raise SystemExit('no')",
    "register = 5",
    "\x00",
    "import sys; sys.setrecursionlimit(100)\ndef f(): f()\nf()",
    "raise ValueError('x' * 10 ** 6)",
    "raise Exception('[/b]')",
)


def settings(place: Place, random: Random) -> tuple[str, str]:
    """run.yaml."""
    path = place.fresh() / "run.yaml"
    text = spoil_yaml(random, place.text(place.scratch / "out"))
    path.write_bytes(text.encode("utf8", "surrogatepass"))
    return "plan", command("plan", path).fault


def overrides(place: Place, random: Random) -> tuple[str, str]:
    """`key=value`."""
    from hyperpelt.config import RunConfig

    keys = [*RunConfig.model_fields, *KEYS, "mixing.temperature", "method.bottleneck", "tasks.toy/mood"]
    given = [f"{random.choice(keys)}={random.choice(VALUES)}" for _ in range(random.randint(1, 3))]
    if random.random() < 0.3:
        given = [spoil_text(random, one) for one in given]
    given = [one for one in given if not one.startswith("-")]
    return " ".join(given)[:200], command("plan", place.settings, f"output_dir={place.fresh() / 'out'}", *given).fault


def methods(place: Place, random: Random) -> tuple[str, str]:
    """A method with settings of wrong kinds and sizes."""
    from hyperpelt.methods import registry

    name = random.choice(list(registry.names()))
    keys = [*registry.settings(name), "nowhere", "prefix_length", "rank", "name"]
    said = ", ".join(f"{random.choice(keys)}: {random.choice(VALUES)}" for _ in range(random.randint(1, 2)))
    given = f"method={{name: {name}, {said}}}"
    return given[:200], command("plan", place.settings, f"output_dir={place.fresh() / 'out'}", given).fault


def tasks(place: Place, random: Random) -> tuple[str, str]:
    """A task in YAML, or its table of rows."""
    folder = place.fresh()
    path, rows = folder / f"task-{random.randrange(10**9)}.yaml", "claim,label\ngood,yes\nbad,no\n"
    text = spoil_yaml(random, TASK) if random.random() < 0.7 else TASK
    path.write_bytes(text.encode("utf8", "surrogatepass"))
    (folder / "rows.csv").write_text(rows if text != TASK else spoil_text(random, rows), encoding="utf8")
    return "tasks check", _with_plugin(path, random)


def plugins(place: Place, random: Random) -> tuple[str, str]:
    """A plugin in Python: it fails to load, or its render function returns anything."""
    path = place.fresh() / f"plugin_{random.randrange(10**9)}.py"
    value = (
        f"return Example(**({{'input': 'a', 'label': 0}} | {{{random.choice(FIELDS)!r}: {random.choice(OBJECTS)}}}))"
    )
    body = random.choice(BODIES) if random.random() < 0.3 else value
    text = random.choice(PLUGINS) if random.random() < 0.2 else RENDER.format(body=body)
    path.write_text(text, encoding="utf8")
    return text[-100:], _with_plugin(path, random)


def _with_plugin(path: Path, random: Random) -> str:
    from hyperpelt import tasks as registry

    known = registry.names()
    verb = random.choice(("check", "show"))
    try:
        return command("tasks", verb, "fuzz/*" if verb == "check" else "fuzz/claims", "--plugin", path).fault
    finally:
        forget(known)


def rows(place: Place, random: Random) -> tuple[str, str]:
    """What `predict` is given."""
    good = [json.dumps({"text": "good bad", "label": 1}), "good bad", "text,label\ngood,1", '[{"text": "good"}]']
    lines = [spoil_text(random, random.choice(good)).encode("utf8", "surrogatepass") for _ in range(4)]
    lines += [random.choice((*BYTES, b'{"text": "\\ud800"}', b'{"text": 5}', b'{"text": null}', b'{"text": {"a": 1}}'))]
    random.shuffle(lines)
    form = random.choice(("lines", "jsonl", "csv", "tsv", "json", "parquet"))
    content = b"\n".join(lines)
    arguments = ["predict", place.run, "--task", "toy/mood", "--format", form]
    if random.random() < 0.5:
        path = place.fresh() / "rows"
        path.write_bytes(content)
        return f"{form}, a file", command(*arguments, path).fault
    return f"{form}, stdin", command(*arguments, stdin=content).fault


CAMPAIGNS: dict[str, Case] = {
    "bad settings": settings,
    "bad overrides": overrides,
    "bad methods": methods,
    "bad tasks": tasks,
    "bad plugins": plugins,
    "bad rows": rows,
}
