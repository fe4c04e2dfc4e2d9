"""A T5 or BART seen as a list of operations: every place where a tuner may touch the frozen model.

Every parameter-efficient method is an operation of the frozen model plus a tuner, y = OP(x) + Tuner(x)
(U-Tuning, arXiv 2303.00690). `list_operations(backbone)` names them all, always in this order:

    encoder.embedding, [encoder.embedding_norm],
    for each layer l:
        encoder.l.block
        encoder.l.self_attention, .self_attention.q, .k, .v, .o, .self_attention.norm
        (decoder only) decoder.l.cross_attention and the same five of it
        encoder.l.feed_forward, .feed_forward.wi (or .wi_0, .wi_1), .feed_forward.hidden, .feed_forward.wo,
        encoder.l.feed_forward.norm
    encoder.final_norm if there is one; then the decoder likewise, and decoder.head, the map to the vocabulary.

`hidden` is the identity on what enters `wo`, i.e. the activated hidden layer of the feed-forward network.

Where a family of models keeps its modules says `hyperpelt.backbones.families`; no model is known by name here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from torch import nn

from hyperpelt.backbones.families import Family, family_of
from hyperpelt.backbones.tying import is_tied
from hyperpelt.errors import UserError

ATTENTIONS = ("self_attention", "cross_attention")
PROJECTIONS = ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo")
NORMS = ("norm", "embedding_norm", "final_norm")
_KINDS = {"attention": ATTENTIONS, "projections": PROJECTIONS, "norms": NORMS}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation OP of the frozen model.

    - **name**: unique, e.g. `decoder.3.cross_attention.v`
    - **kind**: `self_attention`, `cross_attention`, `feed_forward`, `hidden`, `block`, `embedding`, `head`, a
      projection (`q`, `k`, `v`, `o`, `wi`, `wi_0`, `wi_1`, `wo`) or a norm (`norm`, `embedding_norm`, `final_norm`)
    - **site**: the sub-layer it belongs to (`self_attention`, `cross_attention`, `feed_forward`), else its kind
    - **layer**: 0-based in its stack; -1 for what stands outside the layers
    - **d_in**, **d_out**: width of what it reads and writes
    - **num_heads**, **d_head**: of an attention; Hk = num_heads * d_head is the width of its keys and values
    - **key_value**: names of an attention's projections for keys and values within its module
    - **path**: of the module in the backbone that computes it (`exit_path` if another module ends it)
    - **residual_path**: the norm whose *input* is the residual h of its sub-layer (pre-norm models); None where the
      operation itself reads h (post-norm models)
    - **activation**: of a feed-forward network with one inner projection, as the configuration names it; else empty
    - **scale**: of an embedding, what its stack multiplies the module's output by before anything else reads it;
      **inner_scale**: what the module itself multiplies its rows by; **tied**: of a head, whether it has those rows
    """

    name: str
    stack: str
    layer: int
    kind: str
    site: str
    d_in: int
    d_out: int
    path: str
    exit_path: str
    num_heads: int = 0
    d_head: int = 0
    key_value: tuple[str, str] = ("", "")
    residual_path: str | None = None
    has_bias: bool = False
    norm_eps: float = 0.0
    norm_centred: bool = False
    activation: str = ""
    scale: float = 1.0
    inner_scale: float = 1.0
    tied: bool = False

    @property
    def reads_encoder(self) -> bool:
        """Whether it is of the decoder but reads what the encoder wrote: cross-attention's keys and values."""
        return self.site == "cross_attention" and self.kind in ("k", "v")


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """The module at `path`, or None."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


class _Lister:
    """Lists the operations of one stack; a class only because every step needs the same five things."""

    def __init__(self, backbone: nn.Module, family: Family, stack: str) -> None:
        self.backbone: Any = backbone  # every family has attributes of its own
        self.family, self.stack = family, stack
        self.root = family.stacks[stack]

    @cached_property
    def width(self) -> int:
        return self.backbone.config.d_model

    @cached_property
    def embed_scale(self) -> float:
        """Pegasus, Marian and Blenderbot-small scale embedded ids in the stack; BART's kin in the embedding itself."""
        module = self.backbone.get_submodule(self.at("embed_tokens"))
        stack = self.backbone.get_submodule(self.root)
        return 1.0 if hasattr(module, "embed_scale") else float(getattr(stack, "embed_scale", 1.0))

    def at(self, *parts: str) -> str:
        return ".".join(part for part in (self.root, *parts) if part)

    def make(self, name: str, layer: int, kind: str, site: str, path: str, **extra: Any) -> Operation:
        values: dict[str, Any] = {"d_in": self.width, "d_out": self.width, "path": path, "exit_path": path, **extra}
        return Operation(name=f"{self.stack}.{name}", stack=self.stack, layer=layer, kind=kind, site=site, **values)

    def linear(self, name: str, layer: int, kind: str, site: str, path: str) -> Iterator[Operation]:
        module = submodule(self.backbone, path)
        if isinstance(module, nn.Linear):
            sizes = {"d_in": module.in_features, "d_out": module.out_features, "has_bias": module.bias is not None}
            yield self.make(name, layer, kind, site, path, **sizes)

    def norm(self, name: str, layer: int, kind: str, path: str) -> Iterator[Operation]:
        module = submodule(self.backbone, path)
        if module is not None:
            eps = getattr(module, "variance_epsilon", None) or module.eps
            centred = isinstance(module, nn.LayerNorm)
            bias = getattr(module, "bias", None) is not None
            yield self.make(name, layer, kind, kind, path, norm_eps=eps, norm_centred=centred, has_bias=bias)

    def attention(self, layer: int, site: str, base: str, residual: str | None) -> Iterator[Operation]:
        path = f"{base}.{self.family.attention[self.stack][site]}"
        module = self.backbone.get_submodule(path)
        heads = {ours: getattr(module, theirs) for ours, theirs in self.family.heads.items()}
        heads["key_value"] = (self.family.projections["k"], self.family.projections["v"])
        yield self.make(f"{layer}.{site}", layer, site, site, path, residual_path=residual, **heads)
        for kind, child in self.family.projections.items():
            yield from self.linear(f"{layer}.{site}.{kind}", layer, kind, site, f"{path}.{child}")

    def feed_forward(self, layer: int, base: str, residual: str | None) -> Iterator[Operation]:
        name, site = f"{layer}.feed_forward", "feed_forward"
        path = ".".join(part for part in (base, self.family.feed_forward[self.stack]) if part)
        inner = [f"{path}.{child}" for child in self.family.inner if submodule(self.backbone, f"{path}.{child}")]
        outer = f"{path}.{self.family.outer}"
        # Where the network is a module of its own (T5) that is the operation; else it runs from inner to outer (BART).
        ends = (path, path) if path != base else (inner[0], outer)
        act = getattr(self.backbone.config, self.family.activation) if len(inner) == 1 else ""
        yield self.make(name, layer, site, site, ends[0], exit_path=ends[1], residual_path=residual, activation=act)
        for child in inner:
            leaf = child.rsplit(".", 1)[1]
            kind = leaf if leaf in PROJECTIONS else "wi"
            yield from self.linear(f"{name}.{kind}", layer, kind, site, child)
        hidden = self.backbone.get_submodule(outer).in_features
        yield self.make(f"{name}.hidden", layer, "hidden", site, outer, d_in=hidden, d_out=hidden)
        yield from self.linear(f"{name}.wo", layer, "wo", site, outer)

    def layer(self, index: int) -> Iterator[Operation]:
        base = self.at(self.family.layers, str(index))
        yield self.make(f"{index}.block", index, "block", "block", base)
        for site in (*self.family.attention[self.stack], "feed_forward"):
            norm = f"{base}.{self.family.norms[self.stack][site]}"
            residual = norm if self.family.pre_norm else None
            if site == "feed_forward":
                yield from self.feed_forward(index, base, residual)
            else:
                yield from self.attention(index, site, base, residual)
            yield from self.norm(f"{index}.{site}.norm", index, "norm", norm)

    def all(self) -> Iterator[Operation]:
        inner = getattr(self.backbone.get_submodule(self.at("embed_tokens")), "embed_scale", None)
        scales = {"scale": self.embed_scale, "inner_scale": float(inner or 1.0)}
        yield self.make("embedding", -1, "embedding", "embedding", self.at("embed_tokens"), **scales)
        if self.family.embedding_norm:
            yield from self.norm("embedding_norm", -1, "embedding_norm", self.at(self.family.embedding_norm))
        for index in range(len(self.backbone.get_submodule(self.at(self.family.layers)))):
            yield from self.layer(index)
        if self.family.final_norm:
            yield from self.norm("final_norm", -1, "final_norm", self.at(self.family.final_norm))
        head = self.backbone.get_output_embeddings() if self.stack == "decoder" else None
        if head is not None:
            path = next(name for name, module in self.backbone.named_modules() if module is head)
            yield self.make("head", -1, "head", "head", path, d_out=head.weight.shape[0], tied=is_tied(self.backbone))


def list_operations(backbone: nn.Module) -> tuple[Operation, ...]:
    """Every operation of `backbone`, in the documented order. Works on the meta device.

    Raises:
        UserError: the model is not of a known encoder-decoder family.
    """
    config = getattr(backbone, "config", None)
    if config is None or not getattr(config, "is_encoder_decoder", False):
        raise UserError(f"Expected an encoder-decoder backbone (T5 or BART family), got {type(backbone).__name__}.")
    family = family_of(config.model_type)
    return tuple(op for stack in family.stacks for op in _Lister(backbone, family, stack).all())


def select(operations: Iterable[Operation], patterns: str | Sequence[str]) -> tuple[Operation, ...]:
    """The operations whose name matches any of `patterns`, in their own order.

    A pattern is a glob over whole names in which `*` also spans dots: `*.feed_forward`, `decoder.*.cross_attention.q`,
    `encoder.[0-5].*.norm`. A pattern without a dot is a kind (`feed_forward`) or a family of kinds: `attention`,
    `projections`, `norms`. A leading `!` excludes.

    Raises:
        UserError: a pattern matches nothing.
    """
    operations = tuple(operations)
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    chosen: set[str] = set()
    for pattern in patterns:
        exclude, glob = pattern.startswith("!"), pattern.removeprefix("!")
        matched = {op.name for op in operations if _matches(op, glob)}
        if not matched and not exclude:
            raise UserError(
                f"No operation of this backbone matches {pattern!r}. Patterns are globs over names such as "
                "'encoder.0.self_attention', 'decoder.1.cross_attention.q', 'encoder.2.feed_forward.wo', or kinds: "
                f"{', '.join(sorted({op.kind for op in operations}))}."
            )
        chosen = chosen - matched if exclude else chosen | matched
    return tuple(op for op in operations if op.name in chosen)


def _matches(operation: Operation, glob: str) -> bool:
    if "." in glob or "*" in glob:
        return fnmatchcase(operation.name, glob)
    return operation.kind in _KINDS.get(glob, (glob,))
