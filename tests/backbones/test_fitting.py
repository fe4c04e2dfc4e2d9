"""A tokenizer that does not fit its backbone is one sentence when the model is built; languages are settings."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_tokenizers import make_tokenizer

from hyperpelt import Example, Generator, Task, TunedModel, UserError
from hyperpelt.backbones import encode_targets, load_tokenizer, set_languages
from hyperpelt.config import build_run
from hyperpelt.data import encode_inputs
from hyperpelt.data.fingerprints import fingerprint_tokenizer
from hyperpelt.evaluation import evaluate, predict
from hyperpelt.tasks.spelling import decode

SIZES: dict[str, Any] = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
SIZES |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 128}


def rows(split: str) -> list[dict[str, Any]]:
    return [{"text": "the cat is good", "label": "oui"}, {"text": "a bad dog", "label": "non"}]


OPEN = Task(
    name="t/open",
    source=Generator(rows),
    kind="generation",
    metrics=("exact_match",),
    description="Answer.",
    render=lambda row: Example(input=row["text"], label=row["label"]),
)


def save_mbart(folder: Path, family: str) -> Path:
    """A tiny mBART with its tokenizer."""
    tokenizer = make_tokenizer(family)
    torch.manual_seed(0)
    config = transformers.MBartConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id, decoder_start_token_id=tokenizer.eos_token_id, forced_eos_token_id=None,
        dropout=0.0, init_std=0.2, **SIZES,
    )  # fmt: skip
    transformers.MBartForConditionalGeneration(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: setattr(t, "pad_token", None), "has no pad token, without which rows of unlike lengths"),
        (lambda t: setattr(t, "eos_token", None), "has no eos token, without which answers could not end"),
        (
            lambda t: t.add_tokens([f"[ENT{i}]" for i in range(40)]),
            r"160 tokens, but .* only 128.*'\[ENT",
        ),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_one_sentence(tiny_t5: Any, tmp_path: Path, spoil: Any, message: str) -> None:
    tokenizer = copy.deepcopy(make_tokenizer("t5"))
    TunedModel.build(tiny_t5, method="bitfit", tasks=["t/a"], tokenizer=tokenizer).detach()
    spoil(tokenizer)
    with pytest.raises(UserError, match=rf"This tokenizer \(T5Tokenizer\) (has|lacks).*{message.removeprefix('has ')}"):
        TunedModel.build(tiny_t5, method="bitfit", tasks=["t/a"], tokenizer=tokenizer)
    if tokenizer.eos_token is None:
        return  # its own class gives it one when it is loaded
    tiny_t5.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"The tokenizer of '{tmp_path}'"):
        TunedModel.build(tmp_path, method="bitfit", tasks=["t/a"])


@pytest.mark.parametrize("family", ["mbart", "mbart50"])
def test_languages_are_settings_that_are_saved(tmp_path: Path, family: str) -> None:
    folder = save_mbart(tmp_path / "backbone", family)
    model = TunedModel.build(folder, method="bitfit", tasks=[OPEN], source_language="de_DE", target_language="fr_XX")
    tokenizer = model.tokenizer
    german, french = tokenizer.convert_tokens_to_ids(["de_DE", "fr_XX"])
    assert german in encode_inputs(tokenizer, ["the cat"], 16)[0][0]
    target = encode_targets(tokenizer, ["yes"])[0]
    ids = model.generate(torch.tensor(encode_inputs(tokenizer, ["the cat"], 16)[0]), max_new_tokens=4, do_sample=False)
    if family == "mbart50":  # the code is the first token of what is written
        assert target[0] == french
        assert ids[0, :2].tolist() == [tokenizer.eos_token_id, french]
    else:  # the decoder starts from it
        assert french not in target
        assert ids[0, 0].item() == french
        assert model.shift_right(torch.tensor([target]))[0, 0] == french
    assert german in encode_inputs(tokenizer, ["the cat"], 16)[0][0]  # still
    assert fingerprint_tokenizer(tokenizer) != fingerprint_tokenizer(load_tokenizer(folder))
    model.save_pretrained(tmp_path / "run")
    again = TunedModel.from_pretrained(tmp_path / "run")
    asked = [{"text": "the good cat"}]
    assert predict(again, OPEN, asked, max_target_length=6) == predict(model, OPEN, asked, max_target_length=6)
    assert again.languages == {"source_language": "de_DE", "target_language": "fr_XX"}
    assert evaluate(again, OPEN, progress=False).tasks[OPEN.name].rows == 2


def test_a_language_code_is_no_part_of_an_answer(tiny_t5: Any) -> None:
    tokenizer = make_tokenizer.__wrapped__("m2m_100")  # which does not take its codes for special tokens
    set_languages(tokenizer, tiny_t5, source="de", target="fr")
    assert encode_targets(tokenizer, ["yes"])[0][0] == tokenizer.get_lang_id("fr")
    assert tokenizer.convert_ids_to_tokens(encode_inputs(tokenizer, ["yes"], 16)[0][0])[0] == "__de__"
    assert decode(tokenizer, encode_targets(tokenizer, ["yes", "no"])) == ["yes", "no"]


def test_a_language_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = save_mbart(tmp_path, "mbart50")
    with pytest.raises(UserError, match=r"Unknown language 'de_D'\. Did you mean 'de_DE'"):
        TunedModel.build(folder, method="bitfit", tasks=["t/a"], source_language="de_D")
    with pytest.raises(UserError, match="has no language codes: leave them out"):
        TunedModel.build("mini-bart", method="bitfit", tasks=["t/a"], target_language="fr_XX")
    assert build_run({"tasks": "t/a", "output_dir": "x", "source_language": "de_DE"}).source_language == "de_DE"
