"""Backbones copied, and moved to another dtype."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hyperpelt.attachment.switch import switch_of
from hyperpelt.backbones.coded import CodedLinear
from hyperpelt.backbones.moving import moved
from hyperpelt.backbones.tying import is_tied
from hyperpelt.errors import UserError
from hyperpelt.tuners import Tuner


def copy_of(backbone: PreTrainedModel, *, vocabulary: int | None = None) -> PreTrainedModel:
    """The same model with tensors of its own and nothing attached.

    - **vocabulary**: rows of its embedding table, if they shall be more: each new one holds, feature by feature, the
      median of the table (which is exact on any device and in any dtype); tied embeddings stay tied
    """
    config, head = copy.deepcopy(backbone.config), backbone.get_output_embeddings()
    for name in ("vocab_size", "decoder_vocab_size"):
        if vocabulary is not None and hasattr(config, name):
            setattr(config, name, vocabulary)
    twin = type(backbone)(config)
    _untie(twin, backbone)
    attention = switch_of(backbone).previous_attention
    if attention is not None:  # the configuration names ours while something is attached
        twin.set_attn_implementation(attention)
    packed = {name: module for name, module in backbone.named_modules() if hasattr(module, "packing")}
    for name, module in backbone.named_modules():
        if isinstance(module, CodedLinear):
            twin.set_submodule(name, module.twin())
            continue
        # Merging may have widened a network or given it biases, of which the configuration knows nothing.
        if (
            name not in packed
            and module is not head
            and isinstance(module, nn.Linear)
            and _shapes(module) != _shapes(twin.get_submodule(name))
        ):
            wider = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            twin.set_submodule(name, wider.requires_grad_(False))
    twin = moved(moved(twin, backbone.device), backbone.dtype)
    for name, module in packed.items():
        twin.set_submodule(name, _packed_again(module))
    state = backbone.state_dict()
    state = state if vocabulary is None else _with_rows(state, vocabulary)
    twin.load_state_dict(state, strict=not packed)  # how nf4 was packed has no place of its own
    twin.generation_config = copy.deepcopy(backbone.generation_config)
    return twin


def with_replacements(
    backbone: PreTrainedModel, tuners: Mapping[str, Tuner], *, fitted: bool, copied: bool
) -> PreTrainedModel:
    """The backbone with the modules that tuners put in the place of its own; a copy, unless it has them already.

    - **tuners**: by the path of the module that they replace; **fitted**: see `Tuner.replacement`
    - **copied**: whether it is a copy already
    """
    for path, tuner in tuners.items():
        module = backbone.get_submodule(path)
        chosen = tuner.replacement(module, fitted=fitted)
        if chosen is not module:
            backbone, copied = backbone if copied else copy_of(backbone), True
            backbone.set_submodule(path, chosen)
    return backbone


def decoded(backbone: PreTrainedModel) -> PreTrainedModel:
    """The backbone itself, with ordinary weights in the place of coded ones."""
    for name, module in list(backbone.named_modules()):
        if isinstance(module, CodedLinear):
            backbone.set_submodule(name, module.plain(backbone.dtype))
    return backbone


def _packed_again(module: nn.Module) -> nn.Module:
    """A packed linear map with tensors of its own and no hooks."""
    twin = copy.deepcopy(module)
    for name, hooks in vars(twin).items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
            hooks.clear()
    return twin


def _untie(twin: PreTrainedModel, backbone: PreTrainedModel) -> None:
    """Give the twin's head a weight of its own where the backbone's has one: what transformers ties when it makes a
    model is not what it leaves apart when it loads one (T5 v1.1)."""
    own: Any = twin.get_output_embeddings()
    if is_tied(twin) and not is_tied(backbone):
        own.weight = nn.Parameter(torch.empty_like(own.weight))


def _with_rows(state: Mapping[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    """Tensors of a backbone with so many rows of what belongs to words."""
    longer = dict(state)
    for name, values in state.items():
        if name.endswith(("shared.weight", "embed_tokens.weight", "lm_head.weight")):
            row = values.median(dim=0, keepdim=True).values
            longer[name] = torch.cat([values, row.expand(vocabulary - len(values), -1)])
        elif name == "final_logits_bias":
            longer[name] = torch.nn.functional.pad(values, (0, vocabulary - values.shape[-1]))
    return longer


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def in_dtype(backbone: PreTrainedModel, dtype: torch.dtype | None) -> PreTrainedModel:
    """The backbone, moved to `dtype` unless that is None.

    Raises:
        UserError: what it has or shall have is float16 (or no floating point at all); it is then left as it was.
    """
    from hyperpelt.backbones import resolve_dtype

    wanted = resolve_dtype(dtype) if isinstance(dtype, str) else dtype or backbone.dtype
    if wanted not in (torch.float32, torch.bfloat16, torch.float64):
        raise UserError(
            f"Expected a backbone in float32 or bfloat16, got {wanted}. T5's activations overflow in float16 "
            "(transformers#9295): use bf16 where you wanted fp16."
        )
    return backbone if dtype is None else moved(backbone, wanted)
