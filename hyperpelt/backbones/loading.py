"""Backbones and tokenizers by name, folder or hub id; every one is checked to be of a family that hyperpelt reaches."""

from __future__ import annotations

import hashlib
import json
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from hyperpelt.backbones import embedded
from hyperpelt.backbones.families import family_of, model_types
from hyperpelt.backbones.moving import moved
from hyperpelt.config.paths import at_home
from hyperpelt.errors import UserError
from hyperpelt.files.damage import find_damage

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Offered when someone types the short name that the hub no longer resolves.
_WELL_KNOWN = (
    *(f"google-t5/t5-{size}" for size in ("small", "base", "large", "3b", "11b")),
    *(f"google/flan-t5-{size}" for size in ("small", "base", "large", "xl", "xxl")),
    *(f"google/t5-v1_1-{size}" for size in ("small", "base", "large")),
    *(f"google/mt5-{size}" for size in ("small", "base", "large")),
    *(f"facebook/{name}" for name in ("bart-base", "bart-large", "mbart-large-50", "blenderbot-400M-distill")),
    "google/umt5-small",
    "google/umt5-base",
)

# What decides a backbone's shapes and what its numbers mean. A list of what counts, not of what does not, so that a
# key which a later transformers adds does not change the hash of a model that has not changed.
_HASHED = (
    "model_type",
    "vocab_size",
    "decoder_vocab_size",
    "share_encoder_decoder_embeddings",
    "tie_word_embeddings",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "feed_forward_proj",
    "layer_norm_epsilon",
    "layer_norm_eps",
    "scale_decoder_outputs",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_layers",
    "decoder_attention_heads",
    "decoder_ffn_dim",
    "max_position_embeddings",
    "activation_function",
    "scale_embedding",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
)


def load_backbone(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    from_config: bool = False,
    quantization: str | None = None,
) -> PreTrainedModel:
    """A checked encoder-decoder, in evaluation mode, that generates as `generation_of` says.

    Args:
        name_or_path: an embedded name (`mini-bart`), a folder, or a hub id.
        dtype: bfloat16 or float32, as `torch.dtype` or by name; None is float32, whatever the file holds.
        from_config: shapes only, on the meta device: no weights are read, and a folder needs none. For counting.
        quantization: `int8` or `nf4`: how the weights inside of the layers are packed; see `backbones.quantised`.

    Raises:
        UserError: unknown name, missing weights or package, not an encoder-decoder of a supported family, fp16.
    """
    name_or_path = type(name_or_path)(at_home(str(name_or_path)))
    import torch

    dtype = resolve_dtype(dtype)
    config = load_config(name_or_path)
    if from_config:
        with torch.device("meta"):
            return moved(_empty(config), dtype).eval()
    if name_or_path in embedded.NAMES:
        model = embedded.load(str(name_or_path))
    else:
        model = _pretrained(name_or_path, config, dtype)
    _complete(model)
    model = moved(model, dtype).eval()
    if quantization is None:
        return model
    from hyperpelt.backbones.quantised import quantise

    return quantise(model, quantization)


def load_config(name_or_path: str | Path) -> PreTrainedConfig:
    """The checked configuration of a backbone, complete with the token its decoder starts from."""
    name_or_path = type(name_or_path)(at_home(str(name_or_path)))
    from transformers import AutoConfig

    if name_or_path in embedded.NAMES:
        config = embedded.read_config(embedded.asset_folder(str(name_or_path)))
    else:
        _check_name(name_or_path)
        if Path(name_or_path).is_dir() and not (Path(name_or_path) / "config.json").is_file():
            raise UserError(f"Expected a model in the folder {str(name_or_path)!r}, but it holds no config.json.")
        try:
            config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"No model configuration could be read from {str(name_or_path)!r}: expected {_expected()}. "
                f"{find_damage(name_or_path) or _first_line(error)}"
            ) from error
    check_family(config, str(name_or_path))
    _start_token(config)
    return config


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a backbone; inputs are `tokenizer(texts)`, targets are `encode_targets(tokenizer, texts)`."""
    name_or_path = type(name_or_path)(at_home(str(name_or_path)))
    from transformers import AutoTokenizer

    if name_or_path in embedded.NAMES:
        return embedded.load_tokenizer(str(name_or_path))
    _check_name(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises this very class
        raise UserError(
            f"No tokenizer could be read from {str(name_or_path)!r}: expected {_expected()}. "
            f"{find_damage(name_or_path) or _first_line(error)}"
        ) from error
    assert tokenizer is not None  # None is only of models that have no text
    return tokenizer


def config_hash(config: PreTrainedConfig) -> str:
    """16 hex digits of what determines a backbone's shapes and semantics (not of its weights, nor of where it lies)."""
    values = {name: getattr(config, name, None) for name in _HASHED}
    known = {name: value for name, value in values.items() if value is not None}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def check_family(config: PreTrainedConfig, name: str) -> None:
    """Raise a UserError unless `config` is an encoder-decoder whose attention hyperpelt reaches."""
    kind = getattr(config, "model_type", "?")
    if kind in model_types():
        return
    got = "an encoder-decoder" if getattr(config, "is_encoder_decoder", False) else "not an encoder-decoder"
    raise UserError(
        f"Backbone {name!r} is of the family {kind!r} ({got}), expected one of {', '.join(model_types())}: only in "
        "these do all attentions call the function that joins prefixes."
    )


def resolve_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """float32 or bfloat16 from a `torch.dtype`, a name (`bf16`, `fp32`, ...) or None."""
    import torch

    names = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp32": torch.float32, "float32": torch.float32}
    if dtype is None:
        return torch.float32
    if dtype in (torch.float16, "fp16", "float16", "half"):
        raise UserError(
            "fp16 is refused: activations of T5's feed-forward layers exceed its largest number (65504) and become "
            "NaN. Use bf16 (same size, float32's range) or fp32."
        )
    resolved = names.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in names.values():
        raise UserError(f"Expected dtype bf16 or fp32, got {dtype!r}.")
    return resolved


def _expected() -> str:
    return (
        f"an embedded backbone ({', '.join(embedded.NAMES)}), a folder written by save_pretrained, or a hub id "
        "'namespace/name' that is cached or reachable"
    )


def _check_name(name: str | Path) -> None:
    """Names that can be neither a folder nor a hub id get a hint before the network is asked."""
    if Path(name).is_dir():
        return
    if isinstance(name, Path) or name.startswith((".", "/", "~")):
        raise UserError(f"Expected a model folder, but {str(name)!r} does not exist.")
    if "/" in name:
        return
    near = get_close_matches(name, embedded.NAMES, n=1, cutoff=0.6)
    short = {known.split("/")[1]: known for known in _WELL_KNOWN}
    near += [short[match] for match in get_close_matches(name, short, n=2, cutoff=0.7)]
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Expected {_expected()}."
    raise UserError(f"Unknown backbone {name!r}. {hint}")


def _first_line(error: BaseException) -> str:
    if "custom code" in str(error) or "custom generation code" in str(error):
        return "Its files want code of their own to be run, which is never done."
    return str(error).strip().split("\n")[0]


def _model_class(config: PreTrainedConfig) -> Any:
    """transformers' own choice, but for a BART that names its layer norms' epsilon (mini-bart saved to a folder)."""
    from transformers import AutoModelForSeq2SeqLM

    if config.model_type == "bart" and getattr(config, "layer_norm_eps", None) is not None:
        from hyperpelt.backbones.mini_bart import MiniBart

        return MiniBart
    return AutoModelForSeq2SeqLM


def _empty(config: PreTrainedConfig) -> PreTrainedModel:
    kind = _model_class(config)
    return kind.from_config(config, trust_remote_code=False) if hasattr(kind, "from_config") else kind(config)


def _pretrained(name: str | Path, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    try:
        # Pickles are never loaded; a repository that has only those needs converting once.
        model, found = _model_class(config).from_pretrained(
            name, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"Backbone {str(name)!r} has a configuration but no weights that could be read: expected safetensors "
            f"(pickled weights are not loaded; load them once with transformers and save_pretrained). "
            f"{find_damage(name) or _first_line(error)}"
        ) from error
    absent = sorted(found["missing_keys"])
    if absent:  # transformers draws them at random
        raise UserError(
            f"The weights of backbone {str(name)!r} lack {len(absent)} of its tensors, such as {absent[0]}: they are "
            "of another kind of model, or incomplete. Fetch or copy them again."
        )
    return model


def _start_token(config: Any) -> None:
    """Set the decoder's start token where a configuration leaves it open."""
    if getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = getattr(config, family_of(config.model_type).start)


def _complete(model: PreTrainedModel) -> None:
    _start_token(model.config)
    model.generation_config = generation_of(model)


def generation_of(model: PreTrainedModel) -> GenerationConfig:
    """How a backbone generates: with its own tokens, and otherwise by transformers' neutral defaults.

    Generation settings of the hub belong to what a model was published for, and contradict what it is tuned to write:
    BART's `forced_bos_token_id` puts a BOS (mBART's a language code) where `encode_targets` never trains one,
    bart-large-cnn's `min_length` of 56 forbids every short answer, `no_repeat_ngram_size` some right ones. Who wants
    such a setting gives it to `generate`.

    Generation starts where training does. The padding stays forbidden where it was: Marian gives it a logit of 0.
    """
    from transformers import GenerationConfig

    published = model.generation_config
    tokens = {name: getattr(published, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    padding = [[tokens["pad_token_id"]]]
    return GenerationConfig(
        **tokens,
        decoder_start_token_id=model.config.decoder_start_token_id,
        bad_words_ids=padding if padding[0] in (published.bad_words_ids or []) else None,
    )
