"""Ranking the choices of real rows: ours against one pass a choice, as the field's evaluation harness does it.

The loop makes a request of every (row, choice), sorts them by length, runs encoder and decoder on each request and sums
the target's log-probabilities: what lm-eval does with an encoder-decoder. Both rank by the plain sum, without EOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarking.timing import interleaved
from hyperpelt import tasks as registry
from hyperpelt.backbones import encode_targets, load_backbone, load_tokenizer
from hyperpelt.evaluation.answers import answer
from hyperpelt.evaluation.settings import Settings
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tasks import Example, Task


def measure(
    *, backbone: str, tasks: Sequence[str], limit: int, batch_size: int, data_root: str | None, repeats: int
) -> list[dict[str, Any]]:
    """Two rows a task: rows a second, ratio to the loop, and how many predictions are equal."""
    result: list[dict[str, Any]] = []
    for name in tasks:
        task = registry.get(name)
        examples = list(task.examples("validation", data_root=data_root))[:limit]
        model = TunedModel.build(
            load_backbone(backbone), method="layer-norm", tasks=[name], tokenizer=load_tokenizer(backbone)
        ).eval()
        result += _contest(model, task, examples, batch_size, repeats)
        model.detach()
    return result


def _contest(
    model: TunedModel, task: Task, examples: Sequence[Example], batch_size: int, repeats: int
) -> list[dict[str, Any]]:
    settings = Settings(batch_size=batch_size, max_source_length=512)
    answers: dict[str, list[Any]] = {}

    def ours() -> None:
        answers["ours"] = [found.prediction for found in answer(model, task, examples, settings).answers]

    def loop() -> None:
        answers["loop"] = one_pass_a_choice(model, examples, batch_size)

    seconds = interleaved({"one pass a choice": loop, "hyperpelt": ours}, repeats=repeats)
    equal = sum(a == b for a, b in zip(answers["ours"], answers["loop"], strict=True))
    return [
        {
            "method": name,
            "task": task.name,
            "choices": len(examples[0].choices or ()),
            "rows_per_second": len(examples) / value,
            "ratio_to_loop": seconds["one pass a choice"] / value,
            "equal_predictions": f"{equal}/{len(examples)}",
        }
        for name, value in seconds.items()
    ]


@torch.no_grad()
def one_pass_a_choice(model: TunedModel, examples: Sequence[Example], batch_size: int) -> list[int]:
    """Index of each row's best choice; encoder and decoder run once a request."""
    backbone, tokenizer = model.backbone, model.need_tokenizer()
    requests = [(row, choice) for row, example in enumerate(examples) for choice in example.choices or ()]
    order = sorted(range(len(requests)), key=lambda i: -len(examples[requests[i][0]].input))
    scores = [0.0] * len(requests)
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        inputs = tokenizer(
            [examples[requests[i][0]].input for i in chunk],
            padding=True,
            truncation=True,
            max_length=512,
            return_tensors="pt",
        )
        # Without the end token, as `sum` leaves it out.
        targets = [ids[:-1] for ids in encode_targets(tokenizer, [requests[i][1] for i in chunk])]
        width = max(map(len, targets))
        labels = torch.tensor([[*ids, *[-100] * (width - len(ids))] for ids in targets])
        logits = backbone(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels, use_cache=False
        ).logits
        log_probs = logits.float().log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
        for i, score in zip(chunk, log_probs.masked_fill(labels == -100, 0.0).sum(1).tolist(), strict=True):
            scores[i] = score
    best: dict[int, tuple[float, int]] = {}
    seen: dict[int, int] = {}
    for (row, _), score in zip(requests, scores, strict=True):
        index = seen.get(row, 0)
        seen[row] = index + 1
        if row not in best or score > best[row][0]:
            best[row] = (score, index)
    return [best[row][1] for row in range(len(examples))]
