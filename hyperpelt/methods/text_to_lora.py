"""Text-to-LoRA (Charakorn et al. 2025, arXiv 2506.06105): low-rank matrices made of a task's description.

    text-to-lora = low rank @ q, low rank @ v, ... x hypernetwork(description, layer, block), residual trunk

A task has no embedding: the backbone's own encoder reads its description (`hyperpelt.weights.description`), and so a
task that nobody trained has weights as soon as it is described. A head for each kind of projection makes A and B; it
starts at weight 0, with LoRA's own start as its bias. The authors read descriptions with another text encoder, make
the three embeddings of unequal widths (ours are alike), drop 0.05 in the trunk, and scale by alpha / sqrt(r) with
r = 8 and alpha = 16, where ours is alpha / r (alpha=45.3 is theirs).

T5-base, any number of tasks: 3,439,744. Identity: B = 0. Reference: float64 transcription.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.registry import method
from hyperpelt.tuners import LoRA
from hyperpelt.weights.hyper_config import HyperNetworkConfig


@method(
    "text-to-lora",
    paper="Text-to-LoRA, arXiv 2506.06105",
    family="hypernetworks",
    equations="eqs. 3, 4; its code",
    reference="transcription",
)
def text_to_lora(
    *,
    rank: int = 8,
    alpha: float | None = 16.0,
    at: tuple[str, ...] = ("q", "v"),
    embedding_dim: int = 64,
    hidden_dim: int = 256,
    hyper_dim: int = 128,
    residual_blocks: int = 2,
    init: str = "plain",
) -> Method:
    """Text-to-LoRA; **rank**, **alpha**, **at** as in `lora`, the rest as in `HyperNetworkConfig`."""
    config = HyperNetworkConfig(
        embedding_dim=embedding_dim,
        hidden_dim=hidden_dim,
        hyper_dim=hyper_dim,
        residual_blocks=residual_blocks,
        described=True,
        init=init,
    )
    tuner = LoRA(rank=rank, alpha=alpha)
    parts = tuple(Part(name=f"lora_{number}", tuner=tuner, at=(kind,), source="text") for number, kind in enumerate(at))
    return Method(name="text-to-lora", parts=parts, sources={"text": Source(type="hypernetwork", hypernetwork=config)})
