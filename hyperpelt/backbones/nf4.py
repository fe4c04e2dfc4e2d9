"""Linear maps in four bits, by bitsandbytes, which is imported only where they are wanted."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


def nf4_linear() -> type[nn.Linear]:
    """The class of a frozen linear map in NF4, made of an unpacked one. It computes in the dtype that its weight had.

    Raises:
        ImportError: bitsandbytes is not installed, or not for this machine.
    """
    library: Any = import_module("bitsandbytes")
    layers: Any = import_module("bitsandbytes.nn")

    class Nf4Linear(layers.Linear4bit):
        packing: ClassVar[str] = "nf4"

        def __init__(self, linear: nn.Linear) -> None:
            super().__init__(
                linear.in_features, linear.out_features, bias=False, device="meta", compute_dtype=linear.weight.dtype,
                quant_type="nf4", quant_storage=torch.int8,  # T5 casts what its feed-forward reads to any other dtype
            )  # fmt: skip
            values = linear.weight.detach().bfloat16().float()  # the same whatever it computes in
            options = {"quant_type": "nf4", "quant_storage": torch.int8, "module": self}
            self.weight = layers.Params4bit(values, requires_grad=False, **options).to("cpu")
            self.weight.quant_state.dtype = linear.weight.dtype  # what it is unpacked to for backward
            self.bias = linear.bias

        def forward(self, input: Tensor) -> Tensor:
            # Not Linear4bit's own, which packs its weight anew for some processors, and so changes what is frozen.
            state = self.weight.quant_state
            return library.matmul_4bit(input, self.weight.view(torch.uint8), bias=self.bias, quant_state=state)

    return Nf4Linear
