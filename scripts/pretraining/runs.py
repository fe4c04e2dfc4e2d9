"""A pretraining run: what it is made of (`Plan`), its folder, its held-out loss, its log."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from hyperpelt.backbones import embedded
from hyperpelt.backbones.mini_t5 import mini_t5_config
from hyperpelt.backbones.minilm import minilm_tokenizer
from hyperpelt.errors import UserError, unknown
from hyperpelt.files.atomic import write_json
from pretraining.batches import IGNORED, Batch, make_batch
from pretraining.corpus import Corpus, load_corpus
from pretraining.distillation import MiniT5Encoder
from pretraining.loop import Pretrainable, Settings, Trainer, autocast, choose_precision, recover
from pretraining.models import MiniBart, MiniT5, minilm_vocabulary
from pretraining.objectives import OBJECTIVES
from pretraining.rows import Noise, Vocabulary

MODELS = ("mini-bart", "mini-t5-encoder", "mini-t5")
_HELD_OUT_SEED = 1_000_003
_UNIGRAM_SEED = 2_000_003


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What may not change when a run goes on."""

    model: str
    text: tuple[str, ...]
    validation: str
    objectives: Mapping[str, float]
    lengths: tuple[int, ...]
    tokens: int
    seed: int
    precision: str
    noise: Noise = field(default_factory=Noise)
    processes: int = 1
    draws: int = 0  # words drawn for a sampled softmax (mini-bart); 0: the whole vocabulary
    init: str | None = None  # a checkpoint of an earlier run whose weights this one starts from
    encoder: str | None = None  # mini-t5: the checkpoint of a mini-t5-encoder run that the decoder learns to read

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise unknown("model", self.model, MODELS)
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise unknown("objective", name, OBJECTIVES)
            if (name == "read") != (self.model == "mini-t5-encoder"):
                raise UserError(f"{self.model} cannot learn {name!r}: mini-t5-encoder reads, the others write.")
        if (self.encoder is None) == (self.model == "mini-t5"):
            raise UserError(
                "mini-t5 needs --encoder, a checkpoint of a mini-t5-encoder run, and no other model takes it; got "
                f"{self.encoder!r} for {self.model}."
            )


def shipped_plan(name: str, *, text: Sequence[Path], validation: Path) -> Plan:
    """The plan of a shipped backbone, with its texts where they lie now."""
    folder = embedded.asset_folder(name)
    values = json.loads((folder / "training.json").read_text(encoding="utf8"))["plan"]
    values |= {"text": tuple(map(str, text)), "validation": str(validation)}
    values |= {"lengths": tuple(values["lengths"]), "noise": Noise(**values["noise"])}
    return Plan(**{name: value for name, value in values.items() if name in Plan.__dataclass_fields__})


def default_objectives(model: str) -> dict[str, float]:
    return {"read": 1.0} if model == "mini-t5-encoder" else {"rewrite": 0.6, "infill": 0.4}


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
    """All models speak MiniLM's WordPiece."""
    tokenizer = minilm_tokenizer()
    vocabulary = minilm_vocabulary()
    backend = tokenizer.backend_tokenizer

    def encode(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]

    def corpus(paths: tuple[str, ...]) -> Corpus:
        return load_corpus(list(map(Path, paths)), encode=encode, end=vocabulary.end, key="minilm", cache=cache)

    return Material(corpus(plan.text), corpus((plan.validation,)), vocabulary, len(tokenizer))


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
    """The model at step 0: what its kind starts as, or `plan.init`."""
    if plan.model == "mini-t5-encoder":
        task: Pretrainable = MiniT5Encoder.fresh(mini_t5_config())
    else:
        writer = MiniBart.fresh(seed=plan.seed) if plan.encoder is None else MiniT5.fresh(read_weights(plan.encoder))
        writer.set_unigram(unigram(plan, material))
        task = writer
    if plan.init is not None:
        task.load(read_weights(plan.init))
    return task


def read_weights(checkpoint: str) -> dict[str, Tensor]:
    path = Path(checkpoint) / "model.safetensors"
    if not path.is_file():
        raise UserError(f"Expected a checkpoint of scripts/pretrain (RUN/checkpoints/step-N), found no {path}.")
    return load_file(path)


@torch.no_grad()
def held_out_loss(
    score: Callable[[Batch], Tensor], plan: Plan, material: Material, *, batches: int = 8
) -> dict[str, float]:
    """Mean negative log-likelihood of a target token, in nats, an objective at a time."""
    result = {}
    for objective in plan.objectives:
        total = 0.0
        count = 0
        for index in range(batches):
            batch = material.batch(plan, (_HELD_OUT_SEED, index), held_out=True, only=objective)
            losses = score(batch)
            total += float(losses.double().sum())
            count += len(losses)
        result[f"held_out_{objective}"] = total / count
    return result


def load_in_turn(plan: Plan, cache: Path) -> Material:
    """The first process tokenises, the others read its cache."""
    if not dist.is_initialized():
        return load_material(plan, cache)
    if dist.get_rank() != 0:
        dist.barrier()
    material = load_material(plan, cache)
    if dist.get_rank() == 0:
        dist.barrier()
    return material


@torch.no_grad()
def held_out_likeness(task: MiniT5Encoder, plan: Plan, material: Material, *, batches: int = 8) -> dict[str, float]:
    """Mean cosine and relative squared error of the encoder's last states to MiniLM's, in float32."""
    cosines: list[Tensor] = []
    errors: list[Tensor] = []
    for index in range(batches):
        error, cosine = task.compare(material.batch(plan, (_HELD_OUT_SEED, index), held_out=True))
        errors.append(error[-1].flatten())
        cosines.append(cosine[-1].flatten())
    return {"held_out_cosine": float(torch.cat(cosines).mean()), "held_out_error": float(torch.cat(errors).mean())}


def train(plan: Plan, settings: Settings, output: Path, *, cache: Path, device: torch.device) -> Pretrainable:
    """Start or resume the run in `output`."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    plan = replace(plan, processes=world)
    settings.precision = choose_precision(plan.precision, device, output)
    if rank == 0:
        bind(plan, output)
    material = load_in_turn(plan, cache)
    task = fresh_model(plan, material)
    task.to(device)

    def evaluate() -> dict[str, float]:
        def score(batch: Batch) -> Tensor:
            with autocast(device, settings.precision):
                return task.token_losses(batch.to(device))[0]

        found = held_out_loss(score, plan, material)
        return found | (held_out_likeness(task, plan, material) if isinstance(task, MiniT5Encoder) else {})

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


def _silent(step: int, values: Mapping[str, float]) -> None:
    """Only the first process reports."""


def bind(plan: Plan, output: Path) -> None:
    """Write the plan into a new folder; in an old one it must be the same, or resuming would not be exact."""
    recover(output)
    path = output / "plan.json"
    new = json.loads(json.dumps(asdict(plan)))
    if not path.is_file():
        output.mkdir(parents=True, exist_ok=True)
        write_json(path, new)
        return
    old = json.loads(path.read_text(encoding="utf8"))
    old = {"draws": 0, "encoder": None, **old}
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
