"""What a step multiplies and moves: floating-point operations, and bytes read and written by its operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count, shape_wrapper

from hyperpelt.planning.stand_in import Played

aten = torch.ops.aten


@dataclass(frozen=True)
class Work:
    """FLOPs of products (a multiplication and an addition are two), those of attention's own products among them, and
    bytes that operations read and write, each by itself (nothing fused)."""

    flops: int
    attention_flops: int
    traffic: int

    def __sub__(self, other: Work) -> Work:
        return Work(
            self.flops - other.flops, self.attention_flops - other.attention_flops, self.traffic - other.traffic
        )


def _on_cpu(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _on_cpu_backward(_: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *__: Any, **___: Any) -> int:
    return 5 * sdpa_flop_count(query, key, value) // 2  # five products, one of which makes the scores anew


FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: shape_wrapper(_on_cpu),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: shape_wrapper(_on_cpu_backward),
}


class _Counter(TorchDispatchMode):
    """FLOPs by PyTorch's own formulas, and bytes that operations read and write; views move nothing.

    Not `FlopCounterMode`, whose module hooks hold every recomputed graph alive, and with it what that keeps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.attention = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        operation = func._overloadpacket
        if operation in FORMULAS:
            flops = FORMULAS[operation](*args, **kwargs, out_val=out)
            self.flops += flops
            self.attention += flops if "bmm" in str(operation) or "attention" in str(operation) else 0
        read = {id(leaf): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = {id(leaf): leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)}
        storages = {leaf.untyped_storage()._cdata for leaf in read.values()}
        if func._schema.is_mutable or not all(x.untyped_storage()._cdata in storages for x in made.values()):
            self.bytes += sum(leaf.numel() * leaf.element_size() for leaf in (read | made).values())
        return out


@contextmanager
def counted(played: Played) -> Iterator[Callable[[], Work]]:
    """Within, count what is multiplied and moved; the value tells it.

    Batched products are taken for attention's. **played**: the attention that is played, and counts by itself
    """
    counter, before = _Counter(), played.flops

    def told() -> Work:
        alone = played.flops - before
        return Work(counter.flops + alone, counter.attention + alone, counter.bytes)

    with counter:
        yield told
