"""Tensors that are cheap to make again: backward keeps what they are made of, and makes them when it needs them.

A norm's output is made of its input, which backward keeps anyway; a row's tensors are picked from those of its task.
Who computes such a tensor notes how (`noted`); an autograd function of ours saves its tensors through `keep` and gets
them back through `kept`, the same to the bit. Compilers decide for themselves what is computed twice, and under
autocast a backward would compute in other types than the forward did: there nothing is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NOTE = "_hyperpelt_recipe"


@dataclass(frozen=True)
class Recipe:
    """**make** of **sources**; `make` itself holds no tensors."""

    make: Callable[..., Tensor | None]
    sources: tuple[Tensor | None, ...]


def _itself(tensor: Tensor | None) -> Tensor | None:
    return tensor


def recipe(tensor: Tensor | None) -> Recipe | None:
    """How to make `tensor` again, if that was noted."""
    return getattr(tensor, _NOTE, None)


def noted(made: Tensor, make: Callable[..., Tensor], *sources: Tensor | None) -> Tensor:
    """`made`, which is `make(*sources)`, with a note of it. Sources that have notes of their own are seen through."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling() and not autocast(made):
        setattr(made, _NOTE, _composed(make, sources))
    return made


def picked(values: Tensor, rows: Tensor) -> Tensor:
    """Of `values`, for each row the entry that `rows` names."""
    return noted(_selected(values, rows), _selected, values, rows)


def _selected(values: Tensor, rows: Tensor) -> Tensor:
    return values.index_select(0, rows)


def autocast(tensor: Tensor) -> bool:
    """Whether products of this tensor are computed in a narrower type."""
    kind = tensor.device.type
    if not torch.compiler.is_compiling() and not torch.amp.is_autocast_available(kind):
        return False  # a stand-in for an accelerator
    return torch.is_autocast_enabled(kind)


def _composed(make: Callable[..., Tensor], sources: tuple[Tensor | None, ...]) -> Recipe:
    parts = [recipe(source) or Recipe(_itself, (source,)) for source in sources]
    makers = [(part.make, len(part.sources)) for part in parts]

    def made(*given: Tensor | None) -> Tensor:
        return make(*_each(makers, given))

    return Recipe(made, tuple(source for part in parts for source in part.sources))


def _each(
    makers: Sequence[tuple[Callable[..., Tensor | None], int]], given: tuple[Tensor | None, ...]
) -> list[Tensor | None]:
    values: list[Tensor | None] = []
    for make, count in makers:
        values.append(make(*given[:count]))
        given = given[count:]
    return values


def keep(ctx: Any, *tensors: Tensor | None) -> None:
    """Save tensors for the backward of an autograd function, or what they can be made of again."""
    parts = [recipe(tensor) or Recipe(_itself, (tensor,)) for tensor in tensors]
    ctx.makers = [(part.make, len(part.sources)) for part in parts]
    ctx.save_for_backward(*[source for part in parts for source in part.sources])


def kept(ctx: Any) -> list[Any]:
    """What `keep` was given, in backward."""
    return _each(ctx.makers, ctx.saved_tensors)
