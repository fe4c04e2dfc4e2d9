"""What makers state of their devices: the ceiling of any estimate, reached by no real step.

Dense figures from the makers' data sheets (NVIDIA T4, A10, A100, L4, L40S, H100 SXM, H200, B200; AMD MI300X), without
sparsity. FLOP/s are of matrix products: fp32 as PyTorch multiplies by default, without TF32.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyperpelt.errors import unknown


@dataclass(frozen=True)
class Card:
    """A device: memory in bytes, FLOP/s by precision, memory bandwidth and link to its neighbours in bytes a second."""

    name: str
    memory: int
    flops: dict[str, float]
    bandwidth: float
    link: float


def _card(name: str, gigabytes: int, fp32: float, bf16: float, bandwidth: float, link: float) -> Card:
    return Card(name, gigabytes * 10**9, {"fp32": fp32 * 1e12, "bf16": bf16 * 1e12}, bandwidth * 1e12, link * 1e9)


CARDS = {
    card.name: card
    for card in (
        _card("t4", 16, 8.1, 8.1, 0.32, 32),  # no bf16 units: computed as fp32
        _card("l4", 24, 30.3, 121, 0.30, 32),
        _card("a10", 24, 31.2, 125, 0.60, 64),
        _card("a100", 80, 19.5, 312, 2.04, 600),
        _card("l40s", 48, 91.6, 362, 0.86, 64),
        _card("h100", 80, 67, 989, 3.35, 900),
        _card("h200", 141, 67, 989, 4.8, 900),
        _card("b200", 180, 75, 2250, 7.7, 1800),
        _card("mi300x", 192, 163, 1307, 5.3, 896),
    )
}


def card(name: str) -> Card:
    """The card of this name; UserError with the nearest if there is none."""
    if name.lower() not in CARDS:
        raise unknown("card", name, CARDS)
    return CARDS[name.lower()]
