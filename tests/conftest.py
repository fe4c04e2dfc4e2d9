"""Small real models, a small real tokenizer, and the folder of real data where there is one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from jaxtyping import install_import_hook

# Shapes in signatures are checked while testing only. Installed before the library is first imported.
install_import_hook(
    ["hyperpelt.tuners", "hyperpelt.weights", "hyperpelt.attachment", "hyperpelt.model"], "beartype.beartype"
)

sys.path.append(str(Path(__file__).parent / "promises"))  # `support` serves tests in other rooms too

from small_models import make_bart, make_t5  # noqa: E402
from transformers import (  # noqa: E402
    BartForConditionalGeneration,
    PreTrainedModel,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# As scripts/test sets it: with several threads a matrix product may round the rows of one batch differently. Processes
# that tests start must do as this one does.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
wait_for_the_disk = os.fsync


def _do_not_wait(descriptor: int) -> None:
    os.fstat(descriptor)  # EBADF, as the other


# A run waits for the disk fifty times, and no test cuts the power. tests/files waits.
os.fsync = _do_not_wait


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """For what the library itself says of tensors of a wrong shape."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def tiny_t5() -> T5ForConditionalGeneration:
    return make_t5()


@pytest.fixture
def tiny_t5_gated() -> T5ForConditionalGeneration:
    return make_t5(feed_forward_proj="gated-gelu")


@pytest.fixture
def tiny_bart() -> BartForConditionalGeneration:
    return make_bart()


@pytest.fixture(params=["t5", "t5-gated", "bart"])
def backbone(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Each of the promised families in turn."""
    if request.param == "bart":
        return make_bart()
    return make_t5(feed_forward_proj="gated-gelu") if request.param == "t5-gated" else make_t5()


@pytest.fixture
def tiny_tokenizer() -> T5Tokenizer:
    """A real T5 tokenizer over letters, a few words and digits; at most 128 ids."""
    words = ["yes", "no", "true", "false", "maybe", "sentence", "entailment", "positive", "negative"]
    words += ["the", "a", "is", "not", "of", "to", "and", "good", "bad"]
    pieces = [f"\u2581{word}" for word in words] + ["\u2581", *"abcdefghijklmnopqrstuvwxyz0123456789.,:?!'-_/()"]
    vocabulary = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((piece, -2.0 - i / 100) for i, piece in enumerate(pieces)),
    ]
    return T5Tokenizer(vocab=vocabulary, extra_ids=10)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real data sets in the hub's layout: HYPERPELT_DATA, or ../shared/data beside the checkout."""
    root = Path(os.environ.get("HYPERPELT_DATA") or Path(__file__).parents[2] / "shared" / "data").resolve()
    if not (root / "nyu-mll" / "glue").is_dir():
        pytest.skip("no real data sets: set HYPERPELT_DATA to a mirror of the hub's repositories")
    return root
