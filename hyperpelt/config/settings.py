"""The keys of a training run and what each may hold."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from hyperpelt.config.modules import importable
from hyperpelt.config.overrides import DEFAULT_METHOD
from hyperpelt.config.paths import at_home, in_full, place
from hyperpelt.config.sizes import num_bytes
from hyperpelt.config.text import split_names, split_paths
from hyperpelt.errors import UserError

FP16 = (
    "precision: fp16 is refused, because T5's activations overflow it (loss becomes inf or nan); "
    "use bf16 (same speed and memory, no overflow) or fp32."
)


def _not_boolean(value: Any) -> Any:
    """YAML's `true` is no number, although Python's is."""
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    return value


def _known_precision(value: Any) -> Any:
    if str(value).lower() in ("fp16", "float16", "half", "16"):
        raise ValueError(FP16)
    return value


def _absolute(value: Any) -> Any:
    """A path that is there, made absolute, so that the run folder can be used from any other folder."""
    if isinstance(value, list):
        return [_absolute(each) for each in value]
    if isinstance(value, str) and value:
        return str(place(value).absolute()) if place(value).exists() else at_home(value)
    return value


def _absolute_unless_module(plugins: list[str]) -> list[str]:
    """`_absolute`, but a module that Python finds keeps its name, whatever folder of that name happens to be here."""
    return [name if importable(name) else _absolute(name) for name in plugins]


def _size(value: str | None) -> str | None:
    """A size that can be read, as it was written."""
    if value is not None:
        try:
            num_bytes(value, where="features_max_size")
        except UserError as problem:
            raise ValueError(str(problem).removeprefix("features_max_size: ")) from None
    return value


Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]
Whole = Annotated[int, BeforeValidator(_not_boolean)]
Number = Annotated[float, BeforeValidator(_not_boolean)]
Home = Annotated[str, AfterValidator(at_home)]  # a path, or a name, that may start with ~


def _trackers(value: Any) -> Any:
    """`none` is no tracker; each once."""
    names = split_names(value)
    if names is None or names == ["none"]:
        return list[str]()
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return list(dict.fromkeys(names)) if named else names


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Mixing(_Strict):
    """How often each task is drawn. `hyperpelt.data.mixing.mixing_rates` holds the formulas."""

    strategy: Literal["proportional", "temperature", "capped", "equal", "explicit"] = Field(
        "temperature",
        description="how rows are shared among tasks without a rate of their own: by size, by size^(1/T), by size up "
        "to a cap, equally, or only by the rates written under `tasks`",
    )
    temperature: Number = Field(10.0, gt=0, description="T of the temperature strategy; HyperFormer trains with 10")
    cap: Whole | None = Field(None, ge=1, description="rows of a task that count, at most (capped and temperature)")


class RunConfig(_Strict):
    """One training run, complete: `run.yaml` in the run folder holds it with every default filled in."""

    # What is trained
    backbone: Home = Field("mini-bart", description="embedded name, folder or hub id of a T5- or BART-like model")
    source_language: str | None = Field(None, description="language of inputs, as the backbone's code, such as de_DE")
    target_language: str | None = Field(None, description="language of answers, likewise")
    method: str | dict[str, Any] = Field(
        DEFAULT_METHOD, description="a method's name, {name: ..., option: ...}, or a composition (tuners @ operations)"
    )
    tasks: Annotated[list[str] | dict[str, Number | None], BeforeValidator(split_names)] = Field(
        description="names, wildcards ('glue/*') or mixtures; a list, or a mapping from each to its rate"
    )
    from_run: Annotated[str | None, AfterValidator(_absolute)] = Field(
        None,
        description="a trained run to which `tasks` are added: its backbone and method are kept, only the embeddings "
        "(or per-task tensors) of the new tasks are trained, and the outputs of its tasks stay the same bit for bit",
    )
    start_from: str = Field(
        "mean", description="where added tasks start: mean, nearest, described or like:TASK; see docs/transfer.md"
    )
    plugins: Annotated[list[str], AfterValidator(_absolute_unless_module), BeforeValidator(split_paths)] = Field(
        default_factory=list, description="Python files, modules or YAML files that register tasks (or methods)"
    )
    data_root: Annotated[str | None, AfterValidator(_absolute)] = Field(
        None, description="local mirror of the data sets; else HYPERPELT_DATA, else the hub"
    )
    output_dir: Home = Field(description="the run folder")
    overwrite: bool = Field(False, description="replace the run that the output folder already holds")
    resume: bool | Literal["auto"] | Home = Field(
        False,
        description="true: from the latest checkpoint; auto: from it if there is one; or a checkpoint or run folder",
    )
    seed: Whole = Field(
        42, ge=0, le=2**63 - 1, description="seed of the initial tensors, the order of rows and dropout"
    )

    # Steps and batches
    max_steps: Whole | None = Field(None, ge=1, description="optimiser steps; overrides num_train_epochs")
    num_train_epochs: Number = Field(
        3.0, gt=0, description="length of the run: as many rows as this many passes over all tasks"
    )
    per_device_train_batch_size: Whole = Field(32, ge=1, description="rows of a micro-batch on each process")
    per_device_eval_batch_size: Whole = Field(64, ge=1, description="rows scored at once on each process")
    gradient_accumulation_steps: Whole = Field(1, ge=1, description="micro-batches of one optimiser step")
    batching: Literal["mixed", "one_task"] = Field("mixed", description="several tasks in a batch, or one")
    mixing: Mixing = Field(default_factory=Mixing)
    length_window: Whole = Field(
        32, ge=1, description="batches cut from one pool of rows sorted by length; 1: unsorted"
    )
    train_limit: Whole | None = Field(None, ge=1, description="at most this many training rows of each task")
    max_source_length: Whole = Field(128, ge=2, description="tokens; longer inputs are cut and counted")
    max_target_length: Whole = Field(32, ge=2, description="tokens; longer targets are cut and counted")
    dataloader_num_workers: Whole = Field(
        0, ge=0, description="processes that prepare batches; 0: the training process"
    )

    # Images
    image_encoder: Home = Field("mini-vision", description="embedded name, folder or hub id; several joined by +")
    image_grid: Whole | None = Field(
        None, ge=1, description="features are averaged to this many cells a side; null: the encoder's own grid"
    )
    features_dir: Annotated[str | None, AfterValidator(_absolute)] = Field(
        None, description="folder of the feature store; else HYPERPELT_FEATURES, else in the user's cache"
    )
    features_max_size: Annotated[str | None, AfterValidator(_size)] = Field(
        None,
        description="upper size of the feature store, such as 20GB: the oldest features that this run does not need "
        "make room, and a run that needs more is refused; none: no upper size; null: as the store was last told",
    )
    on_bad_image: Literal["error", "skip"] = Field(
        "error",
        description="an unusable image ends the run, or is skipped and counted: its row is not trained on, and in "
        "evaluations it is answered without the image",
    )
    blind: bool = Field(False, description="withhold the images: the baseline that answers from the text alone")

    # Optimisation
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    learning_rate: Number | None = Field(
        None, gt=0, description="peak rate; null: the one that suits the method (docs/comparing.md), which is printed"
    )
    weight_decay: Number = Field(0.0, ge=0)
    adam_beta1: Number = Field(0.9, ge=0, lt=1)
    adam_beta2: Number = Field(0.999, ge=0, lt=1)
    scale_learning_rate: bool = Field(
        True,
        description="hypernetworks: divide the rate of their matrices by the width they read (muP), so that generated "
        "weights move as fast as directly trained ones; false: one rate for all, as the papers train",
    )
    adam_epsilon: Number = Field(1e-8, gt=0)
    max_grad_norm: Number | None = Field(
        1.0, gt=0, description="norm to which gradients are clipped; null: no clipping"
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: Annotated[int | float, BeforeValidator(_not_boolean)] = Field(
        0.05, ge=0, description="number of steps, or below 1 a share of all steps"
    )
    label_smoothing: Number = Field(0.0, ge=0, lt=1)
    loss: Literal["lm", "ranking", "t-few"] = Field(
        "lm",
        description="lm: likelihood of the target's tokens; ranking: cross-entropy over a row's choices under the rule "
        "`scoring` (open answers by likelihood); t-few: lm, unlikelihood and length-normalised ranking",
    )
    ranked_choices: Whole = Field(
        32, ge=1, description="for loss ranking: wrong choices of a row; if it has more, this many are drawn each step"
    )
    precision: Annotated[Literal["fp32", "bf16", "bf16-mixed", "auto"], BeforeValidator(_known_precision)] = Field(
        "fp32",
        description="of the frozen backbone; trained tensors stay fp32. bf16-mixed: fp32 weights, products in bf16 "
        "(autocast); auto: bf16 if a race of two products finds it faster",
    )
    quantization: Literal["int8", "nf4"] | None = Field(
        None,
        description="of the frozen backbone's weights: int8, nf4 (pip install 'hyperpelt[quantization]'); null: none",
    )
    dropout: Number | None = Field(
        None,
        ge=0,
        lt=1,
        description="of the frozen backbone in training (states, attention, activations); null: what its own "
        "configuration says (0.1 for T5, 0 for mini-bart). Short runs on a frozen backbone learn faster with 0",
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in backward: less memory, more time")
    torch_compile: bool = Field(
        False, description="compile forward and backward, one graph a shape, and pad batches to at most 8 shapes"
    )
    use_cpu: bool = Field(False, description="train on the CPU even where there is an accelerator")

    # Watching and keeping
    log_steps: Whole = Field(10, ge=1, description="log every so many steps")
    report_to: Annotated[list[Tracker], BeforeValidator(_trackers)] = Field(
        default_factory=lambda: ["tensorboard"],
        description="where numbers go: tensorboard, wandb, trackio, mlflow (optional packages), or none",
    )
    project: str = Field("hyperpelt", min_length=1, description="project under which trackers file the run")
    run_name: str | None = Field(None, description="name under which trackers show the run; null: the run folder's")
    eval_steps: Whole | None = Field(None, ge=1, description="evaluate every so many steps; null: only at the end")
    eval_split: str = Field("validation", description="split that chooses the best checkpoint")
    eval_limit: Whole | None = Field(None, ge=1, description="at most this many rows of each task while training")
    test_split: str | dict[str, str] = Field(
        "test", description="split of the final evaluation; or by task, {'glue/*': validation, '*': test}"
    )
    test_limit: Whole | None = Field(None, ge=1, description="at most this many rows of each task at the end")
    frozen_row: bool = Field(True, description="also measure the frozen backbone in the final evaluation")
    metric_for_best: str = Field("average", description="'average', a task, or task/metric; higher is better")
    early_stopping_patience: Whole | None = Field(
        None, ge=1, description="stop after this many evaluations without a better one"
    )
    scoring: Literal["sum", "token", "character"] = Field("sum", description="length rule of choice scoring")
    save_steps: Whole | None = Field(500, ge=1, description="checkpoint every so many steps; null: only at the end")
    save_total_limit: Whole = Field(2, ge=1, description="checkpoints kept, besides the best one")

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if not self.tasks:
            raise ValueError("tasks is empty: name at least one task, for example tasks=glue/rte.")
        if self.early_stopping_patience is not None and self.eval_steps is None:
            raise ValueError("early_stopping_patience needs evaluations to compare: set eval_steps.")
        if self.loss == "ranking" and self.label_smoothing:
            raise ValueError("label_smoothing must be 0 with loss=ranking, which compares choices and smooths nothing.")
        if self.torch_compile and self.loss != "lm":
            raise ValueError("torch_compile needs loss: lm; how many choices are compared differs in every batch.")
        if self.quantization and self.precision == "bf16-mixed":
            raise ValueError("precision must be fp32, bf16 or auto with quantization: packed weights compute in one.")
        if self.from_run is not None and self.weight_decay:
            raise ValueError("weight_decay must be 0 with from_run: it would move the tasks that are there already.")
        if self.from_run is not None and Path(self.from_run).resolve() == Path(self.output_dir).resolve():
            raise ValueError("output_dir must be another folder than from_run, whose run stays as it is.")
        if isinstance(self.tasks, dict):
            for name, rate in self.tasks.items():
                if rate is not None and not 0 <= rate < float("inf"):
                    raise ValueError(f"tasks.{name} should be a rate of 0 or more, got {rate}.")
        return self

    @property
    def backbone_dtype(self) -> str:
        """What the backbone is held in: fp32 or bf16."""
        return "bf16" if self.precision == "bf16" else "fp32"

    @property
    def peak_rate(self) -> float:
        """The learning rate of a run whose method has been settled."""
        assert self.learning_rate is not None, "train() settles it"
        return self.learning_rate

    def test_split_of(self, task: str) -> str:
        """The split of a task's final evaluation: by its name, else by the longest wildcard that it matches."""
        if isinstance(self.test_split, str):
            return self.test_split
        patterns = sorted(self.test_split, key=lambda pattern: (pattern != task, -len(pattern)))
        return next((self.test_split[pattern] for pattern in patterns if fnmatchcase(task, pattern)), "test")

    @property
    def task_rates(self) -> dict[str, float | None]:
        """Every entry of `tasks` with its rate, or None where the mixing strategy decides."""
        return dict(self.tasks) if isinstance(self.tasks, dict) else dict.fromkeys(self.tasks)

    def with_full_paths(self) -> RunConfig:
        """The same run with files and folders named in full, so that run.yaml means the same wherever it is read."""

        def full(name: str) -> str:
            return str(Path(name).absolute()) if Path(name).exists() else name

        named = {key: in_full(getattr(self, key)) for key in ("backbone", "image_encoder")}
        # What was not said stays what was not said: a run that adds tasks looks for that.
        changes: dict[str, Any] = {key: name for key, name in named.items() if name != getattr(self, key)}
        changes["plugins"] = _absolute_unless_module(self.plugins)
        changes["from_run"] = self.from_run and full(self.from_run)
        changes["data_root"] = self.data_root and full(self.data_root)
        return self.model_copy(update=changes)
