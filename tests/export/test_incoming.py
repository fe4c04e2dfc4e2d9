"""Adapters in PEFT's format become a task's tensors; what no tuner holds, or of another backbone, is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import make_bart, make_t5
from support import batch, small, tuned
from transformers import PreTrainedModel

from hyperpelt import TunedModel, UserError, from_peft
from hyperpelt.export import export_peft

LORA = {"task_type": "SEQ_2_SEQ_LM", "r": 3, "lora_alpha": 7, "target_modules": ["q", "wo"]}
CONFIGS: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora": lambda: peft.LoraConfig(**LORA),
    "ranks": lambda: peft.LoraConfig(**LORA, rank_pattern={"wo": 5}, alpha_pattern={"wo": 2}, use_rslora=True),
    "ia3": lambda: peft.IA3Config(
        task_type="SEQ_2_SEQ_LM", target_modules=["k", "v", "wo"], feedforward_modules=["wo"]
    ),
    "prompt": lambda: peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4),
}


def adapted(folder: Path, config: peft.PeftConfig, seed: int = 0, backbone: PreTrainedModel | None = None) -> object:
    """A PEFT model with an adapter that does something, saved into `folder`; returns it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(backbone or make_t5(), config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        model.save_pretrained(folder)
    return model.eval()


def logits(model: object, **more: object) -> torch.Tensor:
    rows = {name: value for name, value in batch().items() if name not in ("task_ids", "labels")}
    return model(**rows, decoder_input_ids=torch.tensor([[0, 5, 9, 2]] * 4), **more).logits


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_of_peft_computes_here_what_it_computes_there(tmp_path: Path, kind: str) -> None:
    theirs = adapted(tmp_path, CONFIGS[kind]())
    ours = from_peft(tmp_path, task="their/task", backbone=make_t5())
    assert ours.tasks == ("their/task",)
    with torch.no_grad():
        wanted, bare = logits(theirs), make_t5()
        assert (wanted - logits(bare)).abs().max() > 1e-2
        torch.testing.assert_close(logits(ours), wanted, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("make", [make_t5, make_bart])
@pytest.mark.parametrize("method", ["lora", "ia3", "prompt-tuning"])
def test_what_was_written_for_peft_comes_back_bit_equal_and_is_saved_as_any_model(
    tmp_path, tiny_tokenizer, make, method
) -> None:
    make().save_pretrained(tmp_path / "backbone")
    tiny_tokenizer.save_pretrained(tmp_path / "backbone")
    given = small(method) if method != "lora" else {"name": "lora", "rank": 3}
    model = TunedModel.build(str(tmp_path / "backbone"), method=given, tasks=["a", "b"])
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    export_peft(model.eval(), "b", tmp_path / "adapter")
    back = from_peft(tmp_path / "adapter", task="b")  # over the backbone that the adapter names
    back.save_pretrained(tmp_path / "saved")
    again = TunedModel.from_pretrained(tmp_path / "saved", backbone=make())
    with torch.no_grad():
        wanted = logits(model, task_ids=torch.ones(4, dtype=torch.long))
        # 1 + l and back loses a bit of a small l.
        torch.testing.assert_close(logits(back), wanted, rtol=0, atol=0 if method != "ia3" else 1e-5)
        assert torch.equal(logits(again), logits(back))


def test_adapters_of_several_tasks_share_a_batch(tmp_path: Path) -> None:
    theirs = [adapted(tmp_path / str(seed), CONFIGS["lora"](), seed) for seed in range(2)]
    ours = from_peft(tmp_path / "0", task="zero", backbone=make_t5())
    assert from_peft(tmp_path / "1", task="one", into=ours) is ours
    task_ids = torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        mixed, each = logits(ours, task_ids=task_ids), torch.stack([logits(model) for model in theirs])
    torch.testing.assert_close(mixed, each[task_ids, torch.arange(4)], rtol=1e-4, atol=1e-5)
    adapted(tmp_path / "wider", peft.LoraConfig(**(LORA | {"r": 4})))
    with pytest.raises(UserError, match=r"is LoRA\(rank=4.*leave `into` out"):
        from_peft(tmp_path / "wider", task="two", into=ours)
    with pytest.raises(UserError, match="also has Prefix"):
        from_peft(tmp_path / "1", task="two", into=tuned(make_t5(), small("mam")))
    assert ours.tasks == ("zero", "one")


def test_an_adapter_of_another_backbone_is_refused(tmp_path: Path) -> None:
    adapted(tmp_path, CONFIGS["lora"]())
    with pytest.raises(UserError, match=r"belongs to another backbone.* has shape \(64, 3\), expected \(96, 3\)"):
        from_peft(tmp_path, task="a", backbone=make_t5(d_ff=96))
    with pytest.raises(UserError, match="where this backbone has no such projection"):
        from_peft(tmp_path, task="a", backbone=make_bart())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "google-t5/t5-base"}))
    with pytest.raises(UserError, match="was trained on backbone 'google-t5/t5-base', not on 'google/flan-t5-base'"):
        from_peft(tmp_path, task="a", backbone="google/flan-t5-base")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "expected an adapter of type LORA, IA3, PROMPT_TUNING, got 'PREFIX_TUNING'"),
        ({"use_dora": True}, "use_dora=True computes something else"),
        ({"alora_invocation_tokens": [5]}, r"alora_invocation_tokens=\[5\] computes something else"),
        *(
            ({"init_lora_weights": start}, f"={start!r} applies to base weights")
            for start in ("pissa_niter_4", "OLoRA")
        ),
        ({"modules_to_save": ["lm_head"]}, "also saves whole modules"),
        ({"base_model_name_or_path": None}, "names no backbone: give `backbone=`"),
    ],
)
def test_what_no_tuner_holds_is_refused_by_name(tmp_path: Path, changes: dict, words: str) -> None:
    adapted(tmp_path, CONFIGS["lora"]())
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=words):
        from_peft(tmp_path, task="a", backbone=None if "base_model_name_or_path" in changes else make_t5())


def test_damaged_and_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no .*adapter_config.json"):
        from_peft(tmp_path, task="a")
    adapted(tmp_path, CONFIGS["lora"]())
    weights = tmp_path / "adapter_model.safetensors"
    state = load_file(weights)
    save_file({name: value for name, value in state.items() if "lora_A" in name}, weights)
    with pytest.raises(UserError, match="needs lora_A and lora_B"):
        from_peft(tmp_path, task="a", backbone=make_t5())
    save_file({"base_model.model.lm_head.weight": torch.zeros(2, 2)}, weights)
    with pytest.raises(UserError, match=r"is none of lora_A.weight"):
        from_peft(tmp_path, task="a", backbone=make_t5())
    weights.write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        from_peft(tmp_path, task="a", backbone=make_t5())
    weights.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(UserError, match="is a pickle, which is not read"):
        from_peft(tmp_path, task="a", backbone=make_t5())
