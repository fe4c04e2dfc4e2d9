"""What the backbone's own keys, values and embeddings look like, so that prefixes and prompts can start like them.

A prefix far from real keys and values is ignored or destroys the attention it joins; started like real ones it learns
(facts gathered by PEFT's method comparison, and our own runs in docs/methods.md). One forward pass of the backbone
over random words of its vocabulary is enough for the mean and deviation of each feature.

Legend: M sampled rows, Hk width of keys and values, d model width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from hyperpelt.operations import Operation, list_operations

ROWS, LENGTH, TARGET_LENGTH = 4, 32, 8
_PROJECTIONS = {"keys": "k", "values": "v", "loudness": "q"}


@torch.no_grad()
def collect_samples(
    backbone: PreTrainedModel, wanted: Iterable[tuple[str, str]], generator: torch.Generator
) -> dict[tuple[str, str], Float[Tensor, "M width"]]:
    """Rows of real keys, values and embeddings, and the directions in which keys become louder.

    - **wanted**: (operation name, `keys` | `values` | `embeddings` | `loudness`)
    - returns [M, Hk] keys or values of that attention, [M, d] embedded tokens for `embeddings`, [1, Hk] for `loudness`:
      what, added to a key, raises the attention logits of real queries by about 1
    """
    wanted = set(wanted)
    if not wanted or any(p.is_meta for p in backbone.parameters()):
        return {}
    paths = _modules(list_operations(backbone), wanted)
    found: dict[tuple[str, str], Tensor] = {}

    def keep(name: tuple[str, str]):
        def hook(_module: object, _args: object, output: Tensor) -> None:
            found[name] = output.detach().float().flatten(0, -2).cpu()

        return hook

    handles = [backbone.get_submodule(path).register_forward_hook(keep(name)) for name, path in paths.items()]
    training = backbone.training
    backbone.eval()
    try:
        ids, targets = (_random_words(backbone, length, generator) for length in (LENGTH, TARGET_LENGTH))
        backbone(input_ids=ids, decoder_input_ids=targets, use_cache=False)
    finally:
        backbone.train(training)
        for handle in handles:
            handle.remove()
    by_name = {op.name: op for op in list_operations(backbone)}
    for name, kind in wanted:
        if kind == "embeddings":
            found[name, kind] = found[name, kind] * by_name[name].scale
        if kind == "loudness":
            found[name, kind] = _loudness(found[name, kind], by_name[name], backbone)
    return found


def _loudness(queries: Float[Tensor, "M Hk"], operation: Operation, backbone: PreTrainedModel) -> Float[Tensor, "1 Hk"]:
    """For each head the w of least squares with scaling * q.w = 1 over real queries, a little ridge for safety."""
    heads = queries.unflatten(-1, (operation.num_heads, operation.d_head)).transpose(0, 1)  # [H, M, k]
    heads = heads * getattr(backbone.get_submodule(operation.path), "scaling", 1.0)
    gram = heads.transpose(1, 2) @ heads / heads.shape[1]
    ridge = 0.05 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(operation.d_head)
    return torch.linalg.solve(gram + ridge, heads.mean(1)[..., None]).reshape(1, -1)


def _modules(operations: Iterable[Operation], wanted: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The path of the module whose output is each wanted sample."""
    by_name = {op.name: op for op in operations}
    paths = {}
    for name, kind in wanted:
        source = by_name[name] if kind == "embeddings" else by_name[f"{name}.{_PROJECTIONS[kind]}"]
        paths[name, kind] = source.path
    return paths


def _random_words(backbone: PreTrainedModel, length: int, generator: torch.Generator) -> Tensor:
    words = backbone.get_input_embeddings().weight
    assert isinstance(words, Tensor)
    size = words.shape[0]
    return torch.randint(0, size, (ROWS, length), generator=generator).to(backbone.device)
