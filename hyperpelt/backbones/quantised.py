"""Frozen weights in fewer bits: `quantization: int8` or `nf4` of a backbone, which computes in its own dtype as ever.

- **int8**: each row of a matrix as whole numbers from -127 to 127 and one scale. It is done here, in thirty lines:
  bitsandbytes' int8 casts what a layer reads to float16, which T5's activations overflow, and torchao's keeps every
  unpacked matrix for backward.
- **nf4**: four bits a value, by bitsandbytes (QLoRA, Dettmers et al. 2023, arXiv 2305.14314, double quantisation).

Both run on a CPU too. Packed are the linear maps inside of the layers; embeddings, norms, biases and the map to the
vocabulary stay. Weights are packed on the host and from bfloat16, so they are the same numbers on every device and
whatever the backbone computes in: a run that was trained in bf16 may answer in float32.

Legend: d inputs, e outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from transformers import PreTrainedModel

from hyperpelt.errors import UserError, unknown

KINDS = ("int8", "nf4")
INSTALL = "pip install 'hyperpelt[quantization]'"
BLOCK, BLOCKS = 64, 256  # values that share an absolute maximum in nf4, and maxima that share one themselves


class _Product(torch.autograd.Function):
    """x W^T of a packed W, which is unpacked for each product and kept by neither."""

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def forward(ctx: Any, x: Float[Tensor, "*b d"], weight: Int8[Tensor, "e d"], scale: Float[Tensor, " e"]) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return (x @ weight.to(x.dtype).T) * scale.to(x.dtype)

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def backward(ctx: Any, grad: Float[Tensor, "*b e"]) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        return (grad * scale.to(grad.dtype)) @ weight.to(grad.dtype), None, None


class Int8Linear(nn.Linear):
    """A frozen linear map; **weight** int8 [e, d], **scale** float32 [e]."""

    packing: ClassVar[str] = "int8"

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        values = linear.weight.detach().bfloat16().float()
        scale = values.abs().amax(dim=1).clamp(min=1e-30) / 127
        self.weight = nn.Parameter((values / scale[:, None]).round().to(torch.int8), requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def forward(self, input: Float[Tensor, "*b d"]) -> Float[Tensor, "*b e"]:
        product = _Product.apply(input, self.weight, self.scale)
        return product if self.bias is None else product + self.bias


def quantise(backbone: PreTrainedModel, kind: str) -> PreTrainedModel:
    """Pack a backbone that is on the host, in place.

    Raises:
        UserError: an unknown kind; the library for it is not installed.
    """
    if kind not in KINDS:
        raise unknown("quantization", kind, KINDS)
    make: Any = Int8Linear if kind == "int8" else _nf4()
    for name, module in list(to_pack(backbone)):
        backbone.set_submodule(name, make(module).train(module.training))
    return backbone


def to_pack(backbone: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """The linear maps that are packed, by name."""
    head = backbone.get_output_embeddings()
    for name, module in backbone.named_modules():
        if type(module) is nn.Linear and module is not head:
            yield name, module


def _nf4() -> type[nn.Linear]:
    from hyperpelt.backbones.nf4 import nf4_linear

    try:
        return nf4_linear()
    except ImportError as problem:
        raise UserError(f"quantization=nf4 needs bitsandbytes ({problem}): {INSTALL}") from None


def packing_of(backbone: nn.Module) -> str | None:
    """How a backbone's weights were packed here; None if they were not."""
    return next((str(m.packing) for m in backbone.modules() if isinstance(getattr(m, "packing", None), str)), None)


def require_weights(backbone: nn.Module, what: str) -> None:
    """Raises:
    UserError: the weights, which `what` needs as numbers, are packed, whoever did it.
    """
    weights = (module.weight for module in backbone.modules() if isinstance(module, nn.Linear))
    if any(weight is not None and not weight.is_floating_point() for weight in weights):
        raise UserError(
            f"{what} needs the backbone's weights as they are, and these are quantized: load it without quantization."
        )


def bytes_packed(linear: nn.Linear, kind: str) -> int:
    """What the weight of a linear map takes once it is packed."""
    number = linear.in_features * linear.out_features
    if kind == "int8":
        return number + 4 * linear.out_features
    blocks = -(-number // BLOCK)
    # Codes, an 8-bit maximum a block, a float a row of blocks, their mean; a table of each kind of code.
    return -(-number // 2) + blocks + 4 * -(-blocks // BLOCKS) + 4 + 4 * (16 + 256)
