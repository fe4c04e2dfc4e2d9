"""Text is text, as input and as target, on every promised family; and an ending survives the cut, told or not told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import FAMILIES, SPACE, make_tokenizer

from hyperpelt.backbones import encode_targets
from hyperpelt.backbones.plain_text import encode, frame
from hyperpelt.data import encode_inputs

SPELT = ["</s>", "<s>", "<pad>", "<unk>", "<mask>", "[SEP]", "[CLS]", "[PAD]", "[UNK]", "[MASK]"]
SPELT += ["<extra_id_0>", "<extra_id_9>", "en_XX", "ro_RO", "de_DE", "<mask_1>", "<unk_2>"]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_text_spells_a_special_token(family: str) -> None:
    tokenizer = make_tokenizer(family)
    special = {tokenizer.convert_tokens_to_ids(text) for text in (*SPELT, f"{SPACE}<extra_id_0>")}
    special = (special | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id, None}
    before, after = frame(tokenizer)
    for token in SPELT:
        for text in (f"yes {token} no", f"a{token} b", token, f"{token}{token} of", f"the {token}"):
            ids = encode_inputs(tokenizer, [text], 512)[0][0]
            body = ids[len(before) : len(ids) - len(after)]
            target = encode_targets(tokenizer, [text])[0]
            assert ids[: len(before)] == before
            assert ids[len(ids) - len(after) :] == after
            assert special.isdisjoint(body), (text, tokenizer.convert_ids_to_tokens(body))
            assert special.isdisjoint(target[:-1]), (text, tokenizer.convert_ids_to_tokens(target))
            assert target[-1] == tokenizer.eos_token_id
            written = tokenizer.decode(target, skip_special_tokens=True)
            wanted = text.lower() if family == "wordpiece" else text  # whose letters are small
            assert "".join(written.split()) == "".join(wanted.split())


@pytest.mark.parametrize("family", FAMILIES)
def test_other_texts_have_the_ids_that_the_tokenizer_gives_them(family: str) -> None:
    tokenizer = make_tokenizer(family)

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(
        st.lists(st.text(st.sampled_from("abyesno 3.5,'-$"), max_size=12), min_size=1, max_size=3), st.integers(3, 12)
    )
    def same(texts: list[str], length: int) -> None:
        assert encode(tokenizer, texts) == tokenizer(texts)["input_ids"]
        wanted = tokenizer(text_target=texts, add_special_tokens=False)["input_ids"]
        assert encode_targets(tokenizer, texts) == [[*ids, tokenizer.eos_token_id] for ids in wanted]
        cut = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
        assert encode_inputs(tokenizer, texts, length)[0] == cut

    same()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_ending_survives_the_cut(family: str) -> None:
    tokenizer = make_tokenizer(family)
    before, after = frame(tokenizer)
    for ending in ("hypothesis the cat", "hypothesis a</s> [SEP] b"):
        text = f"premise {'the red dog is good and ' * 30}{ending}"
        (ids,), num_cut = encode_inputs(tokenizer, [text], 64, [ending])
        assert (len(ids), num_cut) == (64, 1)
        body = ids[len(before) : len(ids) - len(after)]
        written = tokenizer.decode(body).lower()
        assert "".join(written.split()).endswith("".join(ending.lower().split()))
        start = encode(tokenizer, [text], special_tokens=False)[0]
        assert body[:10] == start[:10]
        whole = encode(tokenizer, ["yes"], special_tokens=True)[0]
        assert whole[: len(before)] == ids[: len(before)]


def test_marks_that_somebody_added_for_texts_keep_their_meaning() -> None:
    import copy

    for family in ("t5", "bart", "wordpiece"):
        tokenizer = copy.deepcopy(make_tokenizer(family))
        tokenizer.add_special_tokens({"additional_special_tokens": ["[E1]", "[E2]"]})
        tokenizer.add_tokens(["[PLACE]"])
        marks = tokenizer.convert_tokens_to_ids(["[E1]", "[E2]", "[PLACE]"])
        for text in ("[E1] cat [E2] [PLACE]", "[E1] a</s>[SEP] cat [E2] [PLACE]"):
            ids = encode(tokenizer, [text])[0]
            assert [token for token in ids if token in marks] == marks
            assert ids.count(tokenizer.eos_token_id) == 1


def test_text_that_a_normaliser_turns_into_a_special_token_is_text(tmp_path: object) -> None:
    from tokenizers import normalizers

    tokenizer = make_tokenizer.__wrapped__("t5")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    ids = encode(tokenizer, ["a \uff1c/s\uff1e b"])[0]
    assert ids.count(tokenizer.eos_token_id) == 1
    assert "".join(tokenizer.convert_ids_to_tokens(ids)).replace(SPACE, "") == "a</s>b</s>"
