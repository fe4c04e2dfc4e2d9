"""How often each task is drawn: the rates of a joint run.

With N rows, cap K and temperature T, a task without a rate of its own weighs N (proportional), min(N, K)^(1/T)
(temperature: T5, arXiv 1910.10683, section 3.5.2; HyperFormer uses T = 10), min(N, K) (capped) or 1 (equal). Rates that
the user or a mixture writes down win over the strategy. Mixtures nest, and their rate is that of all their tasks
together, as in seqio: `{glue: 3, tabletop: 1}` draws three rows of GLUE to one of tabletop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf
from typing import Any

from hyperpelt.errors import UserError

# A weight, a function of (task name, training rows) that gives one, or None: the strategy decides.
Rate = float | Callable[[str, int], float] | None

# Weights of tasks that have no rate of their own, from (rows, temperature, cap). seqio's scale factor cancels here.
STRATEGIES: dict[str, Callable[[int, float, float], float]] = {
    "proportional": lambda rows, temperature, cap: float(rows),
    "temperature": lambda rows, temperature, cap: min(rows, cap) ** (1.0 / temperature),
    "capped": lambda rows, temperature, cap: float(min(rows, cap)),
    "equal": lambda rows, temperature, cap: 1.0,
}


@dataclass(frozen=True)
class RateTree:
    """One entry of `tasks`: a task, or a mixture of further entries, with its rate."""

    name: str
    rate: Rate = None
    children: tuple[RateTree, ...] = ()

    def leaves(self) -> Iterator[str]:
        """The names of all tasks in it, in order, each as often as it occurs."""
        if not self.children:
            yield self.name
        for child in self.children:
            yield from child.leaves()


def task_names(trees: Sequence[RateTree]) -> list[str]:
    """Every task in the trees, once, in the order in which they were written."""
    return list(dict.fromkeys(name for tree in trees for name in tree.leaves()))


# ------------------------------------------------------------------------------------------- entries -> trees -> rates


def rate_trees(entries: Mapping[str, Any]) -> list[RateTree]:
    """Look up `{name, wildcard or mixture: rate}` in the task registry; '!name' takes tasks out.

    An exact name wins over a wildcard, a longer wildcard over a shorter one. Raises UserError for a name that the
    registry does not know and for a mixture that contains itself.
    """
    from hyperpelt import tasks as registry

    removed = {task.name for name in entries if name.startswith("!") for task in registry.select([name[1:]])}
    trees = _trees({name: rate for name, rate in entries.items() if not name.startswith("!")}, removed, inside=())
    if not trees:
        raise UserError(f"No task is left by the selection {', '.join(entries)}.")
    return trees


def _trees(entries: Mapping[str, Any], removed: set[str], inside: tuple[str, ...]) -> list[RateTree]:
    from hyperpelt import tasks as registry

    mixtures = {mixture.name: mixture for mixture in registry.mixtures()}
    trees: list[RateTree] = []
    for name, rate in _expand_wildcards(entries, lambda pattern: [t.name for t in registry.select([pattern])]).items():
        if name in inside:
            raise UserError(f"Mixture {name!r} contains itself: {' -> '.join([*inside, name])}.")
        if name in mixtures:
            rates = mixtures[name].rates
            assert isinstance(rates, Mapping), "__post_init__ made it one"
            children = _trees(rates, removed, inside=(*inside, name))
            trees += [RateTree(name, _by_name(rate), tuple(children))] if children else []
        elif name not in removed:
            trees.append(RateTree(registry.get(name).name, _by_name(rate)))
    return trees


def _by_name(rate: Any) -> Rate:
    """Mixtures hold functions of (Task, rows); trees know names only."""
    if not callable(rate):
        return rate
    from hyperpelt import tasks as registry

    return lambda name, rows: rate(registry.get(name), rows)


def _expand_wildcards(entries: Mapping[str, Any], matches: Callable[[str], Sequence[str]]) -> dict[str, Any]:
    exact = {name for name in entries if not _is_wildcard(name)}
    patterns = sorted((name for name in entries if _is_wildcard(name)), key=len, reverse=True)
    expanded: dict[str, Any] = {}
    for entry, rate in entries.items():
        if entry in exact:
            expanded[entry] = rate
            continue
        for name in matches(entry):
            owner = next(pattern for pattern in patterns if fnmatchcase(name, pattern))
            if name not in exact and owner == entry:
                expanded[name] = rate
    return expanded


def _is_wildcard(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def mixing_rates(
    sizes: Mapping[str, int],
    strategy: str = "proportional",
    *,
    temperature: float = 1.0,
    cap: int | None = None,
    trees: Sequence[RateTree] | None = None,
) -> dict[str, float]:
    """The probability of each task, summing to 1.

    `sizes` are training rows. `trees` carry the user's rates and nested mixtures; without them every task of `sizes`
    is left to the strategy. An entry without a rate weighs as much as its tasks weigh together; inside an entry the
    same rule shares its weight out. A task that is reached twice gets the sum.

    Raises UserError where rates and no rates stand side by side, where nothing is drawn at all, and for a strategy
    that lacks what it needs.
    """
    if strategy == "capped" and cap is None:
        raise UserError("mixing.strategy 'capped' needs a cap: set mixing.cap to the rows counted at most.")
    trees = [RateTree(name) for name in sizes] if trees is None else trees

    def weight(tree: RateTree) -> float:
        names = list(dict.fromkeys(tree.leaves()))
        if callable(tree.rate):
            return sum(_checked(tree.rate(name, sizes[name]), tree.name) for name in names)
        if tree.rate is not None:
            return _checked(tree.rate, tree.name)
        if strategy == "explicit":
            raise UserError(f"mixing.strategy 'explicit' needs a rate for each entry of tasks: {tree.name!r} has none.")
        return sum(STRATEGIES[strategy](sizes[name], temperature, inf if cap is None else cap) for name in names)

    shares = dict.fromkeys(task_names(trees), 0.0)
    _share_out(trees, 1.0, weight, shares, where="tasks")
    return shares


def _checked(rate: Any, name: str) -> float:
    if not isinstance(rate, int | float) or not 0 <= rate < inf:
        raise UserError(f"The rate of {name!r} should be a number of 0 or more, got {rate!r}.")
    return float(rate)


def _share_out(
    trees: Sequence[RateTree],
    whole: float,
    weight: Callable[[RateTree], float],
    shares: dict[str, float],
    where: str,
) -> None:
    rated = [tree.rate is not None for tree in trees]
    if any(rated) and not all(rated):
        without = trees[rated.index(False)].name
        raise UserError(f"Give every entry of {where} a rate, or none: {without!r} has none and others have one.")
    weights = [weight(tree) for tree in trees]
    if not sum(weights) > 0:
        raise UserError(f"All rates of {where} are zero: nothing would be trained; give at least one a positive rate.")
    for tree, part in zip(trees, weights, strict=True):
        share = whole * part / sum(weights)
        if not tree.children:
            shares[tree.name] += share
        elif share > 0:
            _share_out(tree.children, share, weight, shares, where=f"mixture {tree.name!r}")


def rates_table(rates: Mapping[str, float], sizes: Mapping[str, int], num_draws: int) -> list[dict[str, Any]]:
    """Per task: its training rows, its rate, and how often the run is expected to see each row."""
    return [
        {"task": name, "rows": sizes[name], "rate": rate, "epochs": rate * num_draws / sizes[name]}
        for name, rate in rates.items()
    ]
