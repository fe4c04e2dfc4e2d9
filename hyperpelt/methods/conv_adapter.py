"""Convolutional adapters as CHAPTER has them (Chen et al. 2022, arXiv 2212.01282), for text.

    conv-adapter = convolution @ feed_forward x per task

The paper's sit in a speech encoder, beside Houlsby's in its transformer. In decoders the windows look left only.

T5-base, k = 3, b = 24, one task: 24 (2 k d b + b + d) = 2,673,216. Identity: Conv_up = 0. Reference: transcription.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Convolution


@method("conv-adapter", paper="CHAPTER, arXiv 2212.01282", family="adapters", reference="transcription")
def conv_adapter(*, bottleneck: int = 24, kernel: int = 3, activation: str = "gelu") -> Method:
    """Convolutional adapters; **bottleneck**: channels inside; **kernel**: positions that a window spans."""
    tuner = Convolution(bottleneck=bottleneck, kernel=kernel, activation=activation)
    return Method(name="conv-adapter", parts=(Part(tuner=tuner, at=("feed_forward",)),))
