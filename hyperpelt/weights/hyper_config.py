"""Settings of a hypernetwork: widths, what it reads, what its heads share, how it starts. See `hypernetwork`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from hyperpelt.config.setting_types import check_at_least, check_settings
from hyperpelt.errors import UserError, unknown
from hyperpelt.operations import Operation
from hyperpelt.weights.description import FORMS

SHARING: dict[str, Callable[[Operation], str]] = {
    "all": lambda op: "all",
    "stack": lambda op: op.stack,
    "kind": lambda op: f"{op.stack}_{op.site}",
    "operation": lambda op: op.name.replace(".", "_"),
}


def block_of(operation: Operation) -> str:
    """What an operation is in any layer, `decoder.cross_attention.v`: each has an embedding of its own."""
    return operation.name.replace(f".{operation.layer}.", ".", 1)


READS = ("task", "layer", "block")
INITS = ("plain", "fan_in", "normal")
MADE_OF = ("encoder", "input")


@dataclass(frozen=True, kw_only=True)
class Head:
    """How tensors are made from I: **shared** by `all`, `stack`, `kind`, `operation`; **hidden** tanh units."""

    shared: str = "all"
    hidden: int = 0

    def __post_init__(self) -> None:
        if self.shared not in SHARING:
            raise unknown("sharing of a hypernetwork's heads", self.shared, SHARING)
        check_at_least(0, "a hypernetwork's heads", hidden=self.hidden)


@dataclass(frozen=True, kw_only=True)
class HyperNetworkConfig:
    """Settings of a hypernetwork.

    - **embedding_dim** t, **hidden_dim** h, **hyper_dim** e (64, 128, 64 in HyperFormer's code)
    - **reads**: which of `task`, `layer`, `block` the trunk reads
    - **embedding_std**: deviation that the tasks' embeddings are drawn with. Small ones are soon outgrown by what is
      learnt, so that tasks that need alike tensors come to lie near each other; training is slower at first
    - **expand_rows**: give each embedding N rows and make a prefix row by row (HyperPELT); else one row makes it whole
    - **trunk**: h_I shared by `all` operations or one a `stack` (then layer and block embeddings are per stack too)
    - **normalise**: layer norm on I (HyperFormer)
    - **heads**: by part name; the entry `default` serves all other parts
    - **init**: `plain`, `fan_in` or `normal`; see `hyperpelt.weights.hypernetwork`
    - **residual_blocks**: blocks I + silu(LN(I) U1 + d1) U2 + d2 after h_I, h units wide (Text-to-LoRA)
    - **described**: a task has no embedding of its own; the frozen encoder's reading of its description gives it one,
      in training and afterwards
    - **description_dropout**: probability with which a task of a training batch is known by its words alone: its
      embedding is then computed from the frozen encoder's reading of its description; 0: no such map is trained
    - **description_form**: how an embedding is computed from words: by a `map` that is learnt, or of the embeddings of
      the trained tasks that are its `neighbours` in words; see `hyperpelt.weights.description`
    """

    embedding_dim: int = 64
    hidden_dim: int = 128
    hyper_dim: int = 64
    reads: tuple[str, ...] = READS
    embedding_std: float = 1.0
    expand_rows: bool = True
    trunk: str = "all"
    normalise: bool = True
    heads: Mapping[str, Head] = field(default_factory=dict)
    init: str = "plain"
    residual_blocks: int = 0
    described: bool = False
    description_dropout: float = 0.0
    description_form: str = "map"

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise unknown("init of a hypernetwork", self.init, INITS)
        if self.trunk not in ("all", "stack"):
            raise unknown("trunk of a hypernetwork", self.trunk, ("all", "stack"))
        for name in self.reads:
            if name not in READS:
                raise unknown("embedding a hypernetwork reads", name, READS)
        if not self.reads:
            raise UserError(f"A hypernetwork must read at least one of {', '.join(READS)}, got reads=[].")
        widths = {name: getattr(self, name) for name in ("embedding_dim", "hidden_dim", "hyper_dim")}
        check_at_least(1, "a hypernetwork", **widths)
        if not self.embedding_std > 0:
            raise UserError(
                f"Setting 'embedding_std' of a hypernetwork is a deviation above 0, got {self.embedding_std}."
            )
        if not 0 <= self.description_dropout <= 1:
            raise UserError(
                f"Setting 'description_dropout' of a hypernetwork is a probability, got {self.description_dropout}."
            )
        check_at_least(0, "a hypernetwork", residual_blocks=self.residual_blocks)
        self._check_descriptions()

    def _check_descriptions(self) -> None:
        if self.description_form not in FORMS:
            raise unknown("form of a hypernetwork's descriptions", self.description_form, FORMS)
        if self.description_form != "map" and self.described:
            raise UserError("With `described`, tasks have no embeddings to mix: leave `description_form` out.")
        if self.description_form != "map" and not self.description_dropout:
            raise UserError("`description_form` has no effect without `description_dropout`: set that, too.")
        if self.description_dropout and self.described:
            raise UserError("With `described`, tasks are known by descriptions alone: leave `description_dropout` out.")
        if (self.description_dropout or self.described) and "task" not in self.reads:
            which = "whose tasks are described" if self.described else "with description_dropout"
            raise UserError(f"A hypernetwork {which} must read the task: add it to `reads`.")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HyperNetworkConfig:
        """From plain data; a misspelt key is a UserError that names the nearest."""
        return cls(**cls._values(data))

    def changed(self, data: Mapping[str, Any]) -> HyperNetworkConfig:
        """The same with these settings, as `from_dict` takes them."""
        return replace(self, **self._values(data))

    @classmethod
    def _values(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        values = check_settings("a hypernetwork", data, cls)
        heads = {}
        for name, head in values.get("heads", {}).items():
            what = f"a hypernetwork's heads {name!r}"
            heads[name] = head if isinstance(head, Head) else Head(**check_settings(what, head, Head))
        return values | ({"heads": heads} if "heads" in values else {})

    def to_dict(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        heads = {name: {"shared": h.shared, "hidden": h.hidden} for name, h in self.heads.items()}
        return {**values, "reads": list(self.reads), "heads": heads}

    def head(self, part: str) -> Head:
        return self.heads.get(part, self.heads.get("default", Head()))


@dataclass(frozen=True, kw_only=True)
class InstanceConfig(HyperNetworkConfig):
    """Settings of `instance_hypernetwork`: those of a hypernetwork, whose task is the row here.

    - **made_of**: `encoder`: one mean a row, of the encoder's states, for operations of the decoder; `input`: at each
      operation the mean of what it reads (in a decoder what it reads first)
    """

    made_of: str = "encoder"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.made_of not in MADE_OF:
            raise unknown("what an instance hypernetwork's tensors are made of", self.made_of, MADE_OF)
        check_undescribed("instance_hypernetwork", self)

    @classmethod
    def of(cls, config: HyperNetworkConfig) -> InstanceConfig:
        """The same settings for rows."""
        return config if isinstance(config, cls) else cls(**{f.name: getattr(config, f.name) for f in fields(config)})


def check_undescribed(source: str, config: HyperNetworkConfig) -> None:
    """Raises:
    UserError: the settings are those of a network that reads descriptions, which only tasks have.
    """
    if config.described:
        raise UserError(
            f"Setting 'described' is for hypernetworks that read tasks, and {source!r} reads something else."
        )
