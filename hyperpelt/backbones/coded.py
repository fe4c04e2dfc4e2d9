"""A linear map whose weight is binary codes with scales, kept packed, eight codes to a byte.

    W = sum_i diag(alpha_i) B_i,    B_i in {-1, +1} [e d],  alpha_i [e],  i = 1..q

The codes are fitted to a weight row by row, greedily, then by turns: the least-squares scales of the codes, and the
codes nearest to the weight under the scales (Xu et al. 2018, arXiv 1802.00150). Planes stand in the order of their mean
scale, all positive, so that the first carries most. W is unpacked where it is used and never kept: backward unpacks it
again.

Legend: q planes (bits), e width written, d width read, D bytes of a row, B rows, S positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hyperpelt.config.setting_types import check_at_least
from hyperpelt.errors import UserError

MOST_BITS = 8
RIDGE = 1e-6  # of d: keeps the least squares of equal planes solvable


def pack(signs: Float[Tensor, "q e d"]) -> UInt8[Tensor, "q e D"]:
    """Codes of what is positive, the first in the lowest bit of a byte; rows are filled up with zeros."""
    bits = torch.nn.functional.pad((signs > 0).to(torch.uint8), (0, -signs.shape[-1] % 8))
    places = torch.arange(8, dtype=torch.uint8, device=signs.device)
    return (bits.unflatten(-1, (-1, 8)) << places).sum(dim=-1, dtype=torch.uint8)


def unpack(codes: UInt8[Tensor, "*q e D"], width: int, dtype: torch.dtype) -> Float[Tensor, "*q e d"]:
    """The +1 and -1 that codes stand for."""
    places = torch.arange(8, dtype=torch.uint8, device=codes.device)
    bits = (codes.unsqueeze(-1) >> places) & 1
    return bits.flatten(-2)[..., :width].to(dtype) * 2 - 1


def matrix(codes: UInt8[Tensor, "q e D"], scales: Float[Tensor, "q e"], width: int, dtype: torch.dtype) -> Tensor:
    """W [e d], summed in float32 or what is finer."""
    exact = torch.promote_types(dtype, torch.float32)
    total = torch.zeros((), dtype=exact, device=codes.device)
    for plane, scale in zip(codes, scales, strict=True):
        total = total + scale.to(exact).unsqueeze(-1) * unpack(plane, width, exact)
    return total.to(dtype)


def fit(weight: Float[Tensor, "e d"], bits: int, rounds: int) -> tuple[UInt8[Tensor, "q e D"], Float[Tensor, "q e"]]:
    """Codes and scales of a weight; see the module's text."""
    weight = weight.float()
    rest = weight
    planes: list[Tensor] = []
    for _ in range(bits):
        planes.append(torch.where(rest >= 0, 1.0, -1.0))
        rest = rest - rest.abs().mean(dim=1, keepdim=True) * planes[-1]
    signs = torch.stack(planes)
    scales = _scales(weight, signs)
    for _ in range(rounds):
        signs = _nearest(weight, scales)
        scales = _scales(weight, signs)
    signs, scales = signs * torch.where(scales < 0, -1.0, 1.0).unsqueeze(-1), scales.abs()
    order = scales.mean(dim=1).argsort(descending=True)
    return pack(signs[order]), scales[order]


def _scales(weight: Float[Tensor, "e d"], signs: Float[Tensor, "q e d"]) -> Float[Tensor, "q e"]:
    """The scales with which the planes come nearest to the weight."""
    planes = signs.transpose(0, 1)  # [e q d]
    gram = planes @ planes.transpose(1, 2)
    gram = gram + RIDGE * weight.shape[1] * torch.eye(len(signs), device=weight.device)
    return torch.linalg.solve(gram, planes @ weight.unsqueeze(-1)).squeeze(-1).T


def _nearest(weight: Float[Tensor, "e d"], scales: Float[Tensor, "q e"]) -> Float[Tensor, "q e d"]:
    """For each entry the signs whose sum of scales is nearest to it."""
    number = torch.arange(2 ** len(scales), device=weight.device)
    combinations = ((number[:, None] >> torch.arange(len(scales), device=weight.device)) & 1).float() * 2 - 1
    levels, order = (scales.T @ combinations.T).sort(dim=1)  # [e, 2^q]
    middles = (levels[:, 1:] + levels[:, :-1]) / 2
    index = order.gather(1, torch.searchsorted(middles.contiguous(), weight.contiguous()))
    return combinations[index].movedim(-1, 0)


class _Product(torch.autograd.Function):
    """x W^T that keeps the codes for backward, not W."""

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.width, ctx.dtype = x.shape[-1], x.dtype
        return torch.nn.functional.linear(x, matrix(codes, scales, ctx.width, x.dtype))

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        codes, scales = ctx.saved_tensors
        return (grad @ matrix(codes, scales, ctx.width, grad.dtype)).to(ctx.dtype), None, None


def product(
    x: Float[Tensor, "B S d"], codes: UInt8[Tensor, "q e D"], scales: Float[Tensor, "q e"]
) -> Float[Tensor, "B S e"]:
    """x W^T."""
    if torch.compiler.is_compiling():
        return torch.nn.functional.linear(x, matrix(codes, scales, x.shape[-1], x.dtype))
    return _Product.apply(x, codes, scales)


class CodedLinear(nn.Linear):
    """A linear map of coded weight; its bias is as it was. `codes` and `scales` are buffers, `weight` is None."""

    codes: Tensor
    scales: Tensor

    def __init__(self, in_features: int, out_features: int, *, bits: int, bias: nn.Parameter | None = None) -> None:
        nn.Module.__init__(self)
        check_at_least(1, "a coded weight", bits=bits)
        if bits > MOST_BITS:
            raise UserError(f"Setting 'bits' of a coded weight must be at most {MOST_BITS}, got {bits}.")
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        self.register_parameter("weight", None)
        self.register_parameter("bias", bias)
        size = (bits, out_features, -(-in_features // 8))
        self.register_buffer("codes", torch.zeros(size, dtype=torch.uint8))
        self.register_buffer("scales", torch.zeros(bits, out_features))

    @classmethod
    @torch.no_grad()
    def of(cls, module: nn.Linear, *, bits: int, rounds: int, fitted: bool = True) -> CodedLinear:
        """The coded form of a linear map. **fitted**: False where the codes will be loaded."""
        device = module.weight.device
        with device:
            coded = cls(module.in_features, module.out_features, bits=bits, bias=_own(module.bias))
        if fitted and not module.weight.is_meta:
            codes, scales = fit(module.weight, bits, rounds)
            coded.codes.copy_(codes)
            coded.scales.copy_(scales)
        return coded.train(module.training)

    @torch.no_grad()
    def plain(self, dtype: torch.dtype) -> nn.Linear:
        """An ordinary linear map with the weight that the codes stand for."""
        with self.codes.device:
            made = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, dtype=dtype)
        made.weight.copy_(matrix(self.codes, self.scales, self.in_features, dtype))
        if self.bias is not None:
            made.bias.copy_(self.bias)
        return made.requires_grad_(False)

    def twin(self) -> CodedLinear:
        """The same with tensors of its own and nothing attached."""
        with self.codes.device:
            made = CodedLinear(self.in_features, self.out_features, bits=self.bits, bias=_own(self.bias))
        made.codes.copy_(self.codes)
        made.scales.copy_(self.scales)
        return made

    def forward(self, input: Float[Tensor, "B S d"]) -> Float[Tensor, "B S e"]:
        made = product(input, self.codes, self.scales)
        return made if self.bias is None else made + self.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CodedLinear:
        """Scales keep their precision, whatever the backbone's becomes."""
        kept = self.scales
        super()._apply(fn, recurse)
        if self.scales.dtype != kept.dtype:
            self.scales = kept.to(self.scales.device)
        return self


def _own(bias: nn.Parameter | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
