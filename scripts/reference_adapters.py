"""Tiny BARTs tuned by the `adapters` library: inputs, its tensors and its logits, as tests compare ours with them.

    python -m venv there && there/bin/pip install torch==2.13.0 adapters==1.3.0   # wants an older transformers
    there/bin/python scripts/reference_adapters.py tests/promises/adapters_library.safetensors

`backbone_values` is also what the test fills its own BART with, so no backbone is in the file. Everything is computed
in float64, of values that float32 holds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

SIZES: dict[str, Any] = {
    "vocab_size": 40, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 20, "max_position_embeddings": 64,
    "dropout": 0.0, "attn_implementation": "eager",
}  # fmt: skip
ROWS = 3  # of a prefix


def backbone_values(model: nn.Module) -> None:
    """Give every parameter values that its place in the order of names decides."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            drawn = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(drawn + 1 if "layer_norm" in name or "layernorm" in name else drawn)


def batch(*, source: int = 7, target: int = 5, padded: bool = True) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 40, (3, source), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 4:], mask[2, 6:] = 0, 0
    decoder_ids = torch.randint(3, 40, (3, target), generator=generator)
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask, "decoder_input_ids": decoder_ids}


def cases() -> Iterator[tuple[str, Any, dict[str, Tensor]]]:
    """Name, configuration of the library, batch.

    What it does otherwise than ours is kept out: it reads LN(h + F) after BART's feed-forward network where Pfeiffer's
    adapter reads h + F; its gates average over padding and over a decoder's positions.
    """
    from adapters import BnConfig, CompacterConfig, ConfigUnion, LoRAConfig, ParBnConfig, PrefixTuningConfig

    compacter = CompacterConfig(reduction_factor=4, phm_dim=2, phm_rank=2)
    prefix = PrefixTuningConfig(prefix_length=ROWS, bottleneck_size=5)
    yield "compacter", compacter, batch()
    yield "compacter++", compacter.replace(mh_adapter=False), batch()
    yield "prefix-tuning", prefix, batch()
    yield "mam", ConfigUnion(prefix, ParBnConfig(reduction_factor=4, scaling=4.0)), batch()
    after = BnConfig(mh_adapter=False, output_adapter=True, reduction_factor=4, non_linearity="relu", use_gating=True)
    lora = LoRAConfig(r=2, alpha=2, use_gating=True)
    yield "unipelt", ConfigUnion(prefix.replace(use_gating=True), after, lora), batch(target=1, padded=False)


def draw(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    """Values of a method's tensor. Gates that read something else than ours do are made to read nothing."""
    elsewhere = "encoder_attn.v_proj" in name and "loras" in name
    if name.endswith("gate.weight") and elsewhere:
        parameter.zero_()
        return
    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)


def prefix_rows(model: nn.Module, name: str) -> dict[str, Tensor]:
    """What the library's prefixes come to: `rows.PLACE.LAYER.keys` and `.values`, each [N, d]."""
    found = {}
    pools: list[Any] = [module for module in model.modules() if type(module).__name__ == "PrefixTuningPool"]
    groups = [pool.prefix_tunings[name] for pool in pools if name in pool.prefix_tunings]
    for place, module in (item for group in groups for item in group.items()):
        for layer, both in enumerate(module(1)):
            for what, rows in zip(("keys", "values"), both, strict=True):
                found[f"rows.{place}.{layer}.{what}"] = rows[0].transpose(0, 1).flatten(1)
    return found


@torch.no_grad()
def record(name: str, config: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The method's tensors by the library's names, the rows that its prefixes come to, and the logits."""
    import adapters
    from transformers import BartConfig, BartForConditionalGeneration

    model: Any = BartForConditionalGeneration(BartConfig(**SIZES))
    backbone_values(model)
    bare = model.double().eval()(**inputs).logits
    adapters.init(model)
    before = {label for label, _ in model.named_parameters()}
    model.add_adapter(name, config=config)
    model.set_active_adapters(name)
    generator = torch.Generator().manual_seed(2)
    own = {label: p for label, p in sorted(model.named_parameters()) if label not in before}
    found = {}
    for label, parameter in own.items():
        draw(label, parameter, generator)
        if "prefix_tunings" not in label:
            found[f"tensors.{label}"] = parameter.detach().clone()
    model.double().eval()
    found |= prefix_rows(model, name)
    logits = model(**inputs).logits
    assert (logits - bare).abs().max() > 1e-3, name
    return {**found, "logits": logits, **inputs}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("file", help="the safetensors file to write")
    file = parser.parse_args().file
    import adapters
    import transformers
    from safetensors.torch import save_file

    tensors = {
        f"{name}/{key}": value.contiguous().clone()
        for name, *rest in cases()
        for key, value in record(name, *rest).items()
    }
    about = {"adapters": adapters.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    save_file(tensors, file, metadata={"made_with": json.dumps(about)})
