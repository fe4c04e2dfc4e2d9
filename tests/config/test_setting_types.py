"""Settings by name and type: what is converted, what is refused, and with which words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from hyperpelt import methods
from hyperpelt.config.setting_types import check_at_least, check_settings
from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from decimal import Decimal


def takes(*, width: int = 4, rate: float = 0.1, limit: float | None = None, at: tuple[str, ...] = (), on: bool = True,
          any_of: Any = None) -> None:  # fmt: skip
    """A method's function."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A plugin's class with an annotation that only its type checker can resolve."""

    amount: Decimal | None = None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"width": 8, "on": False}, {"width": 8, "on": False}),
        ({"rate": 1, "limit": 2}, {"rate": 1.0, "limit": 2.0}),
        ({"limit": None}, {"limit": None}),
        ({"at": "q"}, {"at": ("q",)}),
        ({"at": ["q", "v"]}, {"at": ("q", "v")}),
        ({"any_of": {"x": 1}}, {"any_of": {"x": 1}}),
    ],
)
def test_settings_come_back_as_the_function_wants_them(given, expected):
    made = check_settings("method 'x'", given, takes)
    assert made == expected
    assert {name: type(value) for name, value in made.items()} == {
        name: type(value) for name, value in expected.items()
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"widht": 8}, r"Unknown setting of method 'x': 'widht'\. Did you mean 'width'"),
        ({"width": "8"}, r"Setting 'width' of method 'x' must be int, got '8'"),
        ({"width": 8.0}, r"must be int, got 8\.0"),
        ({"width": True}, r"must be int, got True"),
        ({"width": None}, r"must be int, got None"),
        ({"rate": "1e-3"}, r"must be float, got '1e-3'"),
        ({"limit": "none"}, r"must be float \| None, got 'none'"),
        ({"on": 1}, r"must be bool, got 1"),
        ({"at": ["q", 1]}, r"must be tuple\[str, \.\.\.\], got \('q', 1\)"),
        ([("width", 8)], r"settings of method 'x' as a mapping"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(given, words):
    with pytest.raises(UserError, match=words):
        check_settings("method 'x'", given, takes)


def test_a_plugin_whose_annotations_cannot_be_resolved_still_has_its_names_checked():
    assert check_settings("tuner 'foreign'", {"amount": 3}, Foreign) == {"amount": 3}
    with pytest.raises(UserError, match="Did you mean 'amount'"):
        check_settings("tuner 'foreign'", {"amont": 3}, Foreign)


def test_smallest_values_are_said():
    check_at_least(1, "tuner 'x'", rank=1, width=5)
    with pytest.raises(UserError, match="Setting 'width' of tuner 'x' must be at least 1, got 0"):
        check_at_least(1, "tuner 'x'", rank=1, width=0)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_number_that_is_not_finite_is_refused_when_the_method_is_named(value):
    with pytest.raises(UserError, match=r"'alpha'.*finite"):
        methods.get({"name": "lora", "alpha": value})
