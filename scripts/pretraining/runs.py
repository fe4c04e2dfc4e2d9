"""A pretraining run: what it is made of (`Plan`), its folder, its held-out loss, its log."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hyperpelt.backbones import embedded
from hyperpelt.backbones.packaged import sha256
from hyperpelt.errors import UserError, unknown
from pretraining.corpus import Corpus, load_corpus
from pretraining.loop import Pretrainable, Settings, Trainer, autocast, choose_precision
from pretraining.models import MiniBart, MiniT5, bart_vocabulary, mini_t5_config, t5_vocabulary
from pretraining.objectives import IGNORED, OBJECTIVES, Batch, Noise, Vocabulary, make_batch

MODELS = ("mini-bart", "mini-t5")
_HELD_OUT_SEED = 1_000_003
_UNIGRAM_SEED = 2_000_003


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What may not change when a run goes on."""

    model: str
    text: tuple[str, ...]
    validation: str
    tokenizer: str | None
    objectives: Mapping[str, float]
    lengths: tuple[int, ...]
    tokens: int
    seed: int
    precision: str
    noise: Noise = field(default_factory=Noise)
    processes: int = 1
    draws: int = 0  # words drawn for a sampled softmax (mini-bart); 0: the whole vocabulary
    init: str | None = None  # a checkpoint of an earlier run whose weights this one starts from

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise unknown("model", self.model, MODELS)
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise unknown("objective", name, OBJECTIVES)


def shipped_plan(name: str, *, text: Sequence[Path], validation: Path) -> Plan:
    """The plan of a shipped backbone, with its texts where they lie now."""
    folder = embedded.asset_folder(name)
    values = json.loads((folder / "training.json").read_text(encoding="utf8"))["plan"]
    values |= {"text": tuple(map(str, text)), "validation": str(validation), "tokenizer": str(folder)}
    values |= {"lengths": tuple(values["lengths"]), "noise": Noise(**values["noise"])}
    return Plan(**values)


def default_objectives(model: str) -> dict[str, float]:
    return {"corruption": 1.0} if model == "mini-t5" else {"infill": 0.75, "judge": 0.25}


def default_noise(model: str, *, announce_first: bool = False) -> Noise:
    """T5's 15 % for mini-t5; twice as much for mini-bart, whose encoder costs the same however much is masked."""
    return Noise(density=0.15 if model == "mini-t5" else 0.3, announce_first=announce_first)


@dataclass(frozen=True)
class Material:
    """Texts as tokens, and how examples are made of them."""

    training: Corpus
    held_out: Corpus
    vocabulary: Vocabulary
    vocab_size: int

    def batch(self, plan: Plan, seed: tuple[int, ...], *, held_out: bool = False, only: str | None = None) -> Batch:
        return make_batch(
            self.held_out if held_out else self.training,
            {only: 1.0} if only else plan.objectives,
            lengths=plan.lengths,
            tokens=plan.tokens,
            vocabulary=self.vocabulary,
            noise=plan.noise,
            seed=seed,
            draws=0 if held_out else plan.draws,
        )


def load_material(plan: Plan, cache: Path) -> Material:
    tokenizer, key = load_tokenizer(plan)
    vocabulary = bart_vocabulary() if plan.model == "mini-bart" else t5_vocabulary(tokenizer)
    backend = tokenizer.backend_tokenizer

    def encode(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]

    def corpus(paths: tuple[str, ...]) -> Corpus:
        return load_corpus(list(map(Path, paths)), encode=encode, end=vocabulary.end, key=key, cache=cache)

    return Material(corpus(plan.text), corpus((plan.validation,)), vocabulary, len(tokenizer))


def load_tokenizer(plan: Plan) -> tuple[PreTrainedTokenizerBase, str]:
    """The plan's tokenizer, and what identifies it in the cache of tokenised text."""
    if plan.model == "mini-bart":
        return embedded.mini_bart_tokenizer(), "minilm"
    if plan.tokenizer is None or not (Path(plan.tokenizer) / "tokenizer.json").is_file():
        raise UserError(
            f"mini-t5 needs --tokenizer FOLDER with a tokenizer.json, got {plan.tokenizer!r}: make it with "
            "scripts/pretrain tokenizer."
        )
    folder = Path(plan.tokenizer)
    return embedded.t5_tokenizer(folder), sha256(folder / "tokenizer.json")


def unigram(plan: Plan, material: Material, *, batches: int = 100) -> Tensor:
    """Log-probabilities [V] of a target token without any context: batches of targets, smoothed by the corpus."""
    counts = torch.full((material.vocab_size,), 0.5)
    for index in range(batches):
        labels = material.batch(plan, (plan.seed, _UNIGRAM_SEED, index)).labels
        counts += torch.bincount(labels[labels != IGNORED], minlength=material.vocab_size)
    sample = torch.from_numpy(material.training.tokens[:2_000_000].astype("int64"))
    prior = torch.bincount(sample, minlength=material.vocab_size) + 0.5
    counts += prior / prior.sum() * counts.sum() * 0.5
    return (counts / counts.sum()).log()


def fresh_model(plan: Plan, material: Material) -> Pretrainable:
    """The model at step 0: MiniLM's layers for mini-bart's decoder, random weights for mini-t5, or `plan.init`."""
    if plan.model == "mini-t5":
        task: Pretrainable = MiniT5.fresh(mini_t5_config(vocab_size=material.vocab_size), seed=plan.seed)
    else:
        task = MiniBart.fresh(seed=plan.seed)
        task.set_unigram(unigram(plan, material))
    if plan.init is not None:
        task.load(load_file(Path(plan.init) / "model.safetensors"))
    return task


@torch.no_grad()
def held_out_loss(
    score: Callable[[Batch], Tensor], plan: Plan, material: Material, *, batches: int = 8
) -> dict[str, float]:
    """Mean negative log-likelihood of a target token, in nats, an objective at a time."""
    result = {}
    for objective in plan.objectives:
        total, count = 0.0, 0
        for index in range(batches):
            batch = material.batch(plan, (_HELD_OUT_SEED, index), held_out=True, only=objective)
            losses = score(batch)
            total += float(losses.double().sum())
            count += len(losses)
        result[f"held_out_{objective}"] = total / count
    return result


def train(plan: Plan, settings: Settings, output: Path, *, cache: Path, device: torch.device) -> Pretrainable:
    """Start or resume the run in `output`."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    plan = Plan(**{**_fields(plan), "processes": world})
    settings.precision = choose_precision(plan.precision, device)
    if rank == 0:
        bind(plan, output)
        material = load_material(plan, cache)
    if world > 1:
        dist.barrier()  # the first process tokenises, the others read its cache
    if rank != 0:
        material = load_material(plan, cache)
    task = fresh_model(plan, material)
    task.model.to(device)

    def evaluate() -> dict[str, float]:
        def score(batch: Batch) -> Tensor:
            with autocast(device, settings.precision):
                return task.token_losses(batch.to(device))[0]

        return held_out_loss(score, plan, material)

    log = RunLog(output, settings) if rank == 0 else _silent
    trainer = Trainer(
        task,
        settings,
        output,
        lambda step: material.batch(plan, (plan.seed, step, rank)),
        evaluate if rank == 0 else dict,
        log,
        device,
    )
    if trainer.resume() and rank == 0:
        print(f"resumed at step {trainer.step}", file=sys.stderr)
    trainer.run()
    return task


def _fields(plan: Plan) -> dict[str, object]:
    return {name: getattr(plan, name) for name in Plan.__dataclass_fields__}


def _silent(step: int, values: Mapping[str, float]) -> None:
    """Only the first process reports."""


def bind(plan: Plan, output: Path) -> None:
    """Write the plan into a new folder; in an old one it must be the same, or resuming would not be exact."""
    path = output / "plan.json"
    new = json.loads(json.dumps(asdict(plan)))
    if not path.is_file():
        output.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(new, indent=1), encoding="utf8")
        os.replace(partial, path)
        return
    old = json.loads(path.read_text(encoding="utf8"))
    old = {"draws": 0, **old}
    changed = [f"{name}: {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
    if changed:
        raise UserError(
            f"{output} holds a run of another plan ({'; '.join(changed)}): resume it with its own settings, or name "
            "another folder."
        )


class RunLog:
    """A line a report for people, `log.jsonl` for programs, TensorBoard for curves."""

    def __init__(self, output: Path, settings: Settings) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.steps = settings.schedule.steps
        self.file = (output / "log.jsonl").open("a", encoding="utf8")
        self.writer = SummaryWriter(str(output / "tensorboard"))

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self.file.write(json.dumps({"step": step, "time": round(time.time(), 1), **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            if math.isfinite(value):
                self.writer.add_scalar(f"pretrain/{name}", value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"step {step}/{self.steps}  {shown}", flush=True)
