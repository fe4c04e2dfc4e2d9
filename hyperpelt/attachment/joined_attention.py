"""The attention function that transformers calls by name: SDPA, with the prefix rows of the running pass joined in.

It is called after the cache was updated, so prefixes leave positions and caches alone. A prefix is always visible and
has zero position bias. Where images bring rows, a batch is parted by the rows' number of images and each part runs as
a batch of its own, without padding: a row without images is computed as if no row had one.

Legend: B rows, S positions, H heads, Q queries, K keys, N prefix rows, k width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import create_position_bias_mask, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hyperpelt.attachment.cpu_attention import NARROW, DroppingAttention, JoinedAttention, join
from hyperpelt.attachment.passes import Pass
from hyperpelt.attachment.roomy_cache import joined_in_place
from hyperpelt.attachment.row_images import Choice
from hyperpelt.operations import Operation
from hyperpelt.tuners.prefix import PrefixRows

ATTENTION_NAME = "hyperpelt"
SLOT = "_hyperpelt_slot"  # the attribute of an attention module that holds its operation and switch


def joined_mask(
    module: nn.Module,
    query: Float[Tensor, "B H Q k"],
    key: Float[Tensor, "B H K k"],
    mask: Tensor | None,
    position_bias: Tensor | None,
    is_causal: bool,
    length: int,
) -> Tensor | None:
    """Mask for keys that got `length` prefix rows on the left: always visible, with zero position bias.

    A causal mask is made explicit and aligned to the lower right, as the prefix must stay visible to every query.
    """
    queries, keys = query.shape[2], key.shape[2]
    causal = is_causal and mask is None and queries > 1
    if position_bias is not None:
        bias = position_bias if position_bias.grad_fn is not None else position_bias.detach()
        bias = bias[..., :keys].to(query.dtype)
        return torch.nn.functional.pad(
            create_position_bias_mask(bias, mask, causal, query, key), (length, 0), value=0.0
        )
    if causal:
        visible = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
        mask = visible[None, None]
    if mask is None:
        return None
    return torch.nn.functional.pad(mask, (length, 0), value=True if mask.dtype == torch.bool else 0.0)


def _gated(
    query: Tensor, key: Tensor, value: Tensor, rows: PrefixRows, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Attention whose prefix keys and values are scaled by a gate for each query, as one ordinary attention.

    With heads of twice the width, [q ; g q] meets [k ; 0] and [0 ; P_k], and values [v ; 0] and [0 ; P_v] keep the two
    parts of the result apart: out = first half + g * second half.
    """
    assert rows.gate is not None
    gate = rows.gate[:, None, :, None].to(query.dtype)
    width = value.shape[-1]

    def left(t: Tensor) -> Tensor:
        return torch.cat([t, torch.zeros_like(t)], dim=-1)

    def right(t: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(t), t], dim=-1)

    def merge(out: Tensor) -> Tensor:
        return out[..., :width] + gate.transpose(1, 2) * out[..., width:]

    joined_keys, joined_values = torch.cat([right(keys), left(key)], 2), torch.cat([right(values), left(value)], 2)
    return torch.cat([query, gate * query], dim=-1), joined_keys, joined_values, merge


def _on_cpu(query: Tensor) -> bool:
    return query.device.type == "cpu" and not torch.compiler.is_compiling()


def _scaling(query: Tensor, options: Mapping[str, Any]) -> float:
    given = options.get("scaling")
    return query.shape[-1] ** -0.5 if given is None else given


def _added(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """The mask as kernels of a CPU take it, what is to be added."""
    if mask is None or mask.dtype != torch.bool or not _on_cpu(query):
        return mask
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -torch.inf)


def attend(
    module: nn.Module,
    query: Float[Tensor, "B H Q k"],
    key: Float[Tensor, "B H K k"],
    value: Float[Tensor, "B H K k"],
    mask: Tensor | None,
    **options: Any,
) -> Float[Tensor, "B Q H k"]:
    """`sdpa_attention_forward` of transformers, with a backward of ours where SDPA's is slow: narrow, on a CPU.

    options: as it takes them.
    """
    bias, causal = options.get("position_bias"), options.get("is_causal")
    causal = mask is None and query.shape[2] > 1 and (getattr(module, "is_causal", True) if causal is None else causal)
    ours = _on_cpu(query) and query.dtype in NARROW and torch.is_grad_enabled() and not options.get("dropout")
    trained = any(t is not None and t.requires_grad for t in (mask, bias))  # T5's own bias in full fine-tuning
    if not ours or trained or (causal and query.shape[2] != key.shape[2]):
        return sdpa_attention_forward(module, query, key, value, mask, **options)[0]
    if bias is not None:
        mask, causal = create_position_bias_mask(bias.detach().to(query.dtype), mask, causal, query, key), False
    mask = _added(mask, query)
    mask = None if mask is None else mask.to(query.dtype)
    out = JoinedAttention.apply(query, key, value, None, None, mask, _scaling(query, options), causal)
    return out.transpose(1, 2).contiguous()


def attention_with_prefix(
    module: nn.Module,
    query: Float[Tensor, "B H Q k"],
    key: Float[Tensor, "B H K k"],
    value: Float[Tensor, "B H K k"],
    attention_mask: Tensor | None,
    *,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B Q H k"], None]:
    """The registered attention function."""
    slot = getattr(module, SLOT, None)
    running: Pass | None = None if slot is None else slot.switch.running
    if slot is None or running is None or not running.has(slot.operation):
        own = {"is_causal": is_causal, "position_bias": position_bias, **kwargs}
        return attend(module, query, key, value, attention_mask, **own), None
    joined = _Joined(module, slot.operation, running, attention_mask, position_bias, is_causal, kwargs)
    images = running.parts(slot.operation, query.shape[0])
    if images is None:
        return joined(query, key, value, None), None
    outs = [joined(query, key, value, choice) for choice in images.by_count]
    return outs[0] if images.back is None else torch.cat(outs).index_select(0, images.back), None


def _behind(rows: Float[Tensor, "B H N k"], held: Float[Tensor, "B H K k"]) -> Float[Tensor, "B H NK k"]:
    """Prefix rows and the keys or values behind them, which are copied only where their cache has no room in front."""
    joined = None if torch.compiler.is_compiling() else joined_in_place(rows, held)
    return join(rows, held) if joined is None else joined


def _for_rows(own: Float[Tensor, "b H N k"], like: Float[Tensor, "B H K k"]) -> Float[Tensor, "B H N k"]:
    return own if own.shape[0] == like.shape[0] else own.expand(like.shape[0], -1, -1, -1)


@dataclass
class _Joined:
    """One call of an attention, for all rows or for some."""

    module: nn.Module
    operation: Operation
    running: Pass
    attention_mask: Tensor | None
    position_bias: Tensor | None
    is_causal: bool | None
    kwargs: dict[str, Any]

    def __call__(
        self, query: Float[Tensor, "B H Q k"], key: Tensor, value: Tensor, choice: Choice | None
    ) -> Float[Tensor, "b Q H k"]:
        num_rows = query.shape[0]
        rows = self.running.prefix(self.operation, num_rows, choice, self._project)
        mask, bias = self.attention_mask, self.position_bias
        if choice is not None:
            query, key, value = (choice.of(t, num_rows) for t in (query, key, value))
            mask, bias = (choice.of_any(t, num_rows) for t in (mask, bias))
        if rows is None:
            # As it was called, so that a row without prefixes is what the backbone makes of it.
            return self._sdpa(query, key, value, mask, is_causal=self.is_causal, position_bias=bias)
        # Under autocast the backbone's keys are narrower than what it is made of, and so than the prefix.
        keys, values = _for_rows(rows.keys.to(key.dtype), key), _for_rows(rows.values.to(value.dtype), value)
        causal = getattr(self.module, "is_causal", True) if self.is_causal is None else self.is_causal
        joined = self.running.kept.mask(
            self.operation,
            (self.attention_mask, self.position_bias),
            (keys.shape[2], key.shape[2]),
            lambda: _added(joined_mask(self.module, query, key, mask, bias, causal, keys.shape[2]), query),
            part=None if choice is None else choice.num_images,
        )
        if rows.gate is None:
            return self._ungated(query, key, value, keys, values, joined, choice)
        scaling = _scaling(query, self.kwargs)
        query, key, value, merge = _gated(query, key, value, rows, keys, values)
        return merge(self._sdpa(query, key, value, joined, scaling=scaling))

    def _project(self, which: str, x: Float[Tensor, "B N d"]) -> Float[Tensor, "B N Hk"]:
        """x through the frozen projection for keys (`k`) or values (`v`), past all that is attached to it."""
        name = self.operation.key_value["kv".index(which)]
        return self.module.get_submodule(name).forward(x)

    def _ungated(
        self, query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None,
        choice: Choice | None,
    ) -> Float[Tensor, "b Q H k"]:  # fmt: skip
        dropout = self.kwargs.get("dropout", 0.0)
        # A mask with a gradient is T5's own bias in full fine-tuning.
        own = _on_cpu(query) and (mask is None or not mask.requires_grad)
        if own and dropout == 0.0 and torch.is_grad_enabled():
            out = JoinedAttention.apply(query, key, value, keys, values, mask, _scaling(query, self.kwargs))
            return out.transpose(1, 2).contiguous()

        def joined() -> tuple[Tensor, Tensor]:
            return _behind(keys, key), _behind(values, value)

        # A part of the rows is another tensor each time, and would be kept for nothing.
        key, value = joined() if choice is not None else self.running.kept.rows(self.operation, key, joined)
        if own and 0.0 < dropout < 1.0:
            key, value = key.contiguous(), value.contiguous()  # for its products; nothing keeps the others
            out = DroppingAttention.apply(query, key, value, mask, dropout, _scaling(query, self.kwargs))
            return out.transpose(1, 2).contiguous()
        return self._sdpa(query, key, value, mask)

    def _sdpa(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **more: Any) -> Tensor:
        options: dict[str, Any] = {"is_causal": False, **self.kwargs, **more}
        return attend(self.module, query, key, value, mask, **options)


def unread_mask(
    *args: Any,
    device: torch.device | str = "cpu",
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    **kwargs: Any,
) -> Tensor | None:
    """SDPA's mask, made without a look at the data where an accelerator would be waited for.

    transformers looks into the padding to see whether it may leave a mask out.
    """
    look = torch.device(device).type == "cpu"
    return sdpa_mask(
        *args,
        device=device,
        allow_is_causal_skip=allow_is_causal_skip and look,
        allow_is_bidirectional_skip=allow_is_bidirectional_skip and look,
        **kwargs,
    )


AttentionInterface.register(ATTENTION_NAME, attention_with_prefix)
# Without a mask function of the same name transformers passes no mask, and padding is attended to without a word.
AttentionMaskInterface.register(ATTENTION_NAME, unread_mask)
