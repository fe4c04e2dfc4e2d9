"""The settings of a transfer: which tasks, how many examples, what is adapted and how. Imports no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hyperpelt.backbones.shipped import place_for
from hyperpelt.config.paths import at_home
from hyperpelt.config.text import explain, split_names
from hyperpelt.errors import UserError

PARTS = ("embedding", "hypernetwork", "all")  # of the trained model
SCRATCH, IN_CONTEXT = "scratch", "in-context"
BASELINES = ("full", "houlsby", "prefix-tuning", "ia3", "lora", IN_CONTEXT)
FEWEST = 4  # shots of which a quarter can be held out
MOST_SEEDS = 10_000
DEFAULT_RATE = 1e-3
RATES: Mapping[str, float] = {
    "embedding": 3e-2,  # a few numbers of unit size
    # A hypernetwork's matrices take a part of it (scale_learning_rate); HyperFormer tunes all of it at 3e-4.
    "hypernetwork": 1e-3,
    "all": 1e-3,
    "full": 1e-4,
    "ia3": 3e-3,  # T-Few
    "prefix-tuning": 1e-2,  # T-Few's comparison
}
# T-Few (arXiv 2205.05638): its losses, Adafactor, 1,000 steps of 8 rows, the last step, choices ranked per token.
T_FEW: Mapping[str, Any] = {
    "loss": "t-few",
    "optimizer": "adafactor",
    "steps": 1000,
    "batch_size": 8,
    "warmup_steps": 0.06,
    "choose": "last",
    "scoring": "token",
    "learning_rate": 3e-3,
}


def _numbers(value: Any) -> Any:
    """'0,4,16' -> [0, 4, 16], so that lists can be written on a command line."""
    if isinstance(value, str):
        parts = value.replace(",", " ").split()
        if not all(part.isdigit() for part in parts):
            raise ValueError(f"whole numbers such as 0,4,16, got {value!r}")
        return [int(part) for part in parts]
    return value


def _seeds(value: Any) -> Any:
    """5 or '5' -> [0, 1, 2, 3, 4]; '13,21' -> [13, 21]; '7,' -> [7]."""
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if type(value) is int and value > MOST_SEEDS:
        raise ValueError(f"a number of seeds up to {MOST_SEEDS}, or the seeds themselves, such as '{value},'")
    return list(range(value)) if type(value) is int else _numbers(value)


def _rates(value: Any) -> Any:
    """0.001 -> for everything; ['full=1e-4', '1e-3'] -> by adaptation."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"*": float(value)}
    if isinstance(value, (list, tuple)):
        pairs = [str(item).rpartition("=") for item in value]
        return {name or "*": rate for name, _, rate in pairs}
    return value


def _distinct(value: list[Any]) -> list[Any]:
    return list(dict.fromkeys(value))


Numbers = Annotated[list[int], AfterValidator(_distinct)]
Names = Annotated[list[str], AfterValidator(_distinct), BeforeValidator(split_names)]


class TransferConfig(BaseModel):
    """One transfer, complete."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Annotated[str, AfterValidator(at_home)] = Field(description="the trained run")
    tasks: Names = Field(description="names, wildcards or mixtures of tasks that the run was not trained on")
    shots: Annotated[Numbers, BeforeValidator(_numbers)] = Field([0, 4, 16, 32, 100], description="training examples")
    seeds: Annotated[Numbers, BeforeValidator(_seeds)] = Field(
        [0, 1, 2, 3, 4], description="a number of seeds, or the seeds; a seed fixes the shots, their order and dropout"
    )
    adapt: Names = Field(
        [*PARTS, SCRATCH],
        description="embedding, hypernetwork or all of the trained model; scratch (its method, fresh); in-context; or "
        "any method's name, trained on the bare backbone",
    )
    start: Names = Field(["mean"], description="mean, nearest, scored, described, like:TASK")
    sampling: Literal["balanced", "plain"] = Field("balanced", description="equally many shots of each choice, or any")
    choose: Literal["last", "held-out"] = Field(
        "last", description="the weights after the last step, or the best on a quarter of the shots held out"
    )
    loss: Literal["lm", "ranking", "t-few"] = "lm"
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    steps: int = Field(300, ge=2)
    batch_size: int = Field(8, ge=1)
    learning_rate: Annotated[dict[str, float], BeforeValidator(_rates)] = Field(
        default_factory=dict, description="peak, for all or by adaptation; the rest are defaults"
    )
    warmup_steps: float = Field(
        0.06, ge=0, allow_inf_nan=False, description="steps, or below 1 a share of them; then linear decay"
    )
    max_grad_norm: float | None = Field(1.0, gt=0)
    split: str = Field("test", description="what is measured")
    limit: int | None = Field(None, ge=1, description="rows of it, at most")
    scoring: Literal["sum", "token", "character"] | None = Field(None, description="length rule; default: the run's")
    context_length: int = Field(512, ge=8, description="tokens of a prompt with examples (in-context)")
    eval_batch_size: int | None = Field(None, ge=1)
    data_root: Annotated[str, AfterValidator(at_home)] | None = None
    plugins: list[str] = Field(default_factory=list)
    output: Annotated[str, AfterValidator(at_home)] = ""
    use_cpu: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> TransferConfig:
        for name in ("tasks", "shots", "seeds", "adapt", "start"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: give at least one.")
        if not 0 <= min(self.seeds) <= max(self.seeds) < 2**63:
            raise ValueError("seeds are whole numbers from 0 to 2^63 - 1.")
        if min(self.shots) < 0:
            raise ValueError(f"shots are numbers of examples, got {min(self.shots)}.")
        for rate in self.learning_rate.values():
            if not 0 < rate < float("inf"):
                raise ValueError(f"a learning_rate is greater than 0 and finite, got {rate}.")
        if self.split == "train" and max(self.shots) > 0:
            raise ValueError("split train holds the shots that are learned from: measure another one, such as test.")
        return self

    def rate_of(self, adapt: str) -> float:
        """The peak learning rate of an adaptation."""
        given = self.learning_rate
        return given.get(adapt, given.get("*", RATES.get(adapt, DEFAULT_RATE)))


def build(values: Mapping[str, Any], *, recipe: str = "default", baselines: bool = False) -> TransferConfig:
    """A checked TransferConfig. recipe: `t-few` fills in what is not given. baselines: adds all of them to `adapt`.

    Raises UserError for an unknown or wrong setting.
    """
    if recipe not in ("default", "t-few"):
        raise UserError(f"Unknown recipe {recipe!r}: expected default or t-few.")
    given = {**(T_FEW if recipe == "t-few" else {}), **{k: v for k, v in values.items() if v is not None}}
    rates = _rates(given.get("learning_rate"))
    if recipe == "t-few" and isinstance(rates, Mapping):  # a rate of one adaptation leaves the recipe's to the others
        given["learning_rate"] = {**_rates(T_FEW["learning_rate"]), **rates}
    try:
        config = TransferConfig.model_validate(given)
    except ValidationError as error:
        raise UserError(explain(error, TransferConfig, where="", lines={})) from None
    adapt = [*config.adapt, *(BASELINES if baselines else ())]
    output = config.output or str(place_for(config.run) / "transfer")
    return config.model_copy(update={"adapt": _distinct(adapt), "output": output})
