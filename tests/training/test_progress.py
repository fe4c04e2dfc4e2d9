"""What a person reads of a training run without a terminal: a short line at a time."""

from __future__ import annotations

import io

from rich.console import Console

from hyperpelt.training.progress import Screen, in_line

NUMBERS = {
    "train/loss": 1.25,
    "train/learning_rate": 1e-3,
    "train/grad_norm": 0.5,
    "train/tokens_per_second": 1234.0,
}


def test_a_line_names_the_tasks_that_are_hardest_without_what_all_names_begin_with():
    assert in_line({"glue/rte": 0.5, "glue/cola": 0.25}) == "cola 0.250  rte 0.500"
    assert in_line({"glue/rte": 0.5, "my/task": 0.25}) == "glue/rte 0.500  my/task 0.250"
    many = {f"tabletop/task-{number}": number / 10 for number in range(12)}
    assert in_line(many).split("  ") == [
        "task-10 1.000", "task-11 1.100", "task-7 0.700", "task-8 0.800", "task-9 0.900", "7 more below",
    ]  # fmt: skip


def test_lines_fit_a_screen_however_many_tasks_there_are(capsys):
    with Screen(total=5000, start=0, show=True) as screen:
        screen.on_step(50, {**NUMBERS, **{f"train/loss/super_glue/some-long-name-{n}": 1.0 for n in range(30)}})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("step 50/5000  loss 1.2500")
    assert len(line) <= 180


def test_the_picture_below_the_bar_keeps_names_and_numbers_whole_at_80_columns(capsys):
    screen = Screen(total=5000, start=0, show=True)
    screen.console = Console(width=80, file=io.StringIO())
    screen.on_step(50, {**NUMBERS, **{f"train/loss/super_glue/some-long-name-{n}": 1.0 for n in range(50)}})
    screen.console.print(screen._picture().renderables[-1])
    lines = screen.console.file.getvalue().splitlines()[1:]
    assert max(map(len, lines)) <= 80
    assert sum("some-long-name-" in line for line in lines) == 8
    assert all(line.count("1.000") == line.count("super_glue/some-long-name-") for line in lines)
    assert "... and 34 more tasks" in lines[-1]
