"""Memory: rows beside the keys and values of a feed-forward network (MemVP, Jie et al. 2024, arXiv 2405.05615).

A feed-forward network is a memory, FFN(x) = phi(x W1) W2, whose keys are the columns of W1 and values the rows of W2.
Further keys K and values V join it as phi(x [W1, s K^T]) [W2; V] does where phi is homogeneous, written as a sum:

    FFN(x) + s phi(x K^T) V

which is a parallel adapter without biases. MemVP makes K and V of image patches: K = z + e1, V = z + e2, e1 drawn, e2
zero (source `visual_projector`); its authors drop 0.1 of phi in training, which this does not. With V = 0 it adds
exactly nothing. Reference: float64 transcription.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from hyperpelt.errors import UserError, unknown
from hyperpelt.operations import Operation
from hyperpelt.tuners.adapter import ACTIVATIONS, OUTPUT_KINDS
from hyperpelt.tuners.base import ZEROS, Init, Site, Tensors, TensorSpec, Tuner, row_linear, tuner_type


@tuner_type
@dataclass(frozen=True, kw_only=True)
class Memory(Tuner):
    """Key and value rows of a feed-forward network.

    - **length** N: rows; **activation** phi (the paper: the network's own); **scale** s (the paper: 0.1)
    - **std**: deviation of the keys at the start; values start at zero
    """

    type_name: ClassVar[str] = "memory"
    length: int = 16
    activation: str = "relu"
    scale: float = 0.1
    std: float = 0.02

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise unknown("activation of a memory", self.activation, ACTIVATIONS)
        if self.length < 1:
            raise UserError(f"A memory needs at least one row, got length={self.length}.")

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in OUTPUT_KINDS:
            raise self.refuse(operation, "a feed-forward network, an attention or a block")
        return {
            "keys": TensorSpec((self.length, operation.d_in), Init("normal", self.std), row_wise=True),
            "values": TensorSpec((self.length, operation.d_out), ZEROS, row_wise=True),
        }

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        read = ACTIVATIONS[self.activation](row_linear(site.input, tensors["keys"].transpose(1, 2)))
        return row_linear(read, tensors["values"]) * self.scale
