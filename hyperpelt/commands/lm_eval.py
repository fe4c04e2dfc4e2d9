"""`hyperpelt lm-eval`: lm-evaluation-harness (0.4.9 or later) with a trained run as one of its models.

    hyperpelt lm-eval --model hyperpelt --model_args run=RUN,task=glue/rte --tasks my_rte --include_path my_tasks

Everything after `lm-eval` is the harness's own. It looks for models in a registry of its own and loads none from other
packages by itself, so this command registers ours and hands over; in Python, `register()` before `simple_evaluate`.

A seq2seq model reads a request's context and writes its continuation. A log-likelihood is that of the continuation's
tokens without the end, which is the length rule `sum` of `hyperpelt evaluate`; the delimiter before the continuation
goes, since targets are trained without it. So a task that asks for the same text gives the same numbers.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import typer

from hyperpelt.errors import UserError

NAME = "hyperpelt"
MAX_NEW_TOKENS = 256  # where neither the request nor the run says how long an answer may be
OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": list[str]()}


def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness with trained runs among its models: `--model hyperpelt --model_args run=RUN,task=TASK`.

    All arguments are the harness's own (`hyperpelt lm-eval --help` shows them).
    """
    register()
    from lm_eval.__main__ import cli_evaluate

    before = sys.argv
    sys.argv = ["hyperpelt lm-eval", *context.args]
    try:
        cli_evaluate()
    except SystemExit as stopped:
        if isinstance(stopped.code, str):  # which Python prints, and ends with 1
            raise UserError(stopped.code) from None
        raise typer.Exit(stopped.code or 0) from None
    finally:
        sys.argv = before


def check_installed() -> None:
    """Raises UserError where the harness is not there."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-evaluation-harness is not installed: `pip install 'hyperpelt[lm-eval]'`.")


@cache
def register() -> type:
    """Make the model `hyperpelt` known to lm-evaluation-harness; returns its class.

    Raises UserError where the harness is not installed.
    """
    check_installed()
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model

    @register_model(NAME)
    class HyperpeltLM(LM):
        """A task of a trained run. See `Scorer` for the arguments."""

        def __init__(self, run: str, **options: Any) -> None:
            super().__init__()
            self.scorer = Scorer(run, **options)

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return self.scorer.log_likelihoods([request.args for request in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return self.scorer.rolling([request.args[0] for request in requests])

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return self.scorer.generate([request.args for request in requests])

        @property
        def tokenizer_name(self) -> str:
            return self.scorer.model.backbone_name

    return HyperpeltLM


class Scorer:
    """What the harness asks of a run.

    - **run**: a run folder, a shipped run or a hub id; **task**: one of its tasks (its only one need not be named)
    - **batch_size**: rows read at once; default: the run's
    - **plugins**: files or modules, parted by `;`, beside those of the run

    Raises:
        UserError: no such run or task.
    """

    def __init__(
        self,
        run: str,
        task: str | None = None,
        *,
        batch_size: int | str | None = None,
        device: str | None = None,
        plugins: str = "",
        **_ignored: Any,  # what the harness passes to every model
    ) -> None:
        from hyperpelt.commands.evaluate import load
        from hyperpelt.training.distributed import start_processes

        place = start_processes().device if device is None else device
        self.model, settings = load(run, [name for name in plugins.split(";") if name], place)
        if task is None and len(self.model.tasks) > 1:
            raise UserError(f"Name one of the run's tasks: --model_args run={run},task={self.model.tasks[0]}.")
        self.task = self.model.tasks[self.model.task_id(task or self.model.tasks[0])]
        self.max_source_length = settings.max_source_length if settings else None
        self.max_new_tokens = settings.max_target_length if settings else MAX_NEW_TOKENS
        sizes = str(batch_size or "")
        self.num_cut = 0  # contexts, since it was last told
        self.batch_size = int(sizes) if sizes.isdigit() else settings.per_device_eval_batch_size if settings else 32

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each (context, continuation): log p of the continuation, and whether it is what greedy search writes.

        A context is encoded once for all its continuations.
        """
        from hyperpelt.backbones import encode_targets

        continuations = list(dict.fromkeys(text.strip() for _, text in pairs))
        end = self._tokenizer.eos_token_id
        whole = encode_targets(self._tokenizer, continuations)
        tokens = {text: [t for t in ids if t != end] for text, ids in zip(continuations, whole, strict=True)}
        asked: dict[str, list[int]] = {}
        for number, (context, _) in enumerate(pairs):
            asked.setdefault(context, []).append(number)
        found: dict[int, tuple[float, bool]] = {}
        for contexts in self._batches(list(asked)):
            numbers = [number for context in contexts for number in asked[context]]
            rows = [row for row, context in enumerate(contexts) for _ in asked[context]]
            targets = [tokens[pairs[number][1].strip()] for number in numbers]
            found |= dict(zip(numbers, self._scored(contexts, targets, rows), strict=True))
        self._tell_of_cuts(len(asked))
        return [found[number] for number in range(len(pairs))]

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """log p of each whole text, written with nothing to read; of one longer than the decoder's positions in
        stretches, each of which starts anew."""
        limit = getattr(self.model.backbone.config, "max_position_embeddings", None)
        end = self._tokenizer.eos_token_id
        sums = []
        for text in texts:
            ids = [token for token in self._tokenizer(text_target=text)["input_ids"] if token != end]
            size = limit or max(1, len(ids))
            stretches = [ids[start : start + size] for start in range(0, len(ids), size)]
            sums.append(sum(value for part in stretches for value, _ in self._scored([""], [part], [0])))
        return sums

    def generate(self, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        """The answer to each context, up to the first of its stop texts."""
        from hyperpelt.tasks.spelling import decode

        kinds: dict[str, list[int]] = {}
        for number, (_, options) in enumerate(requests):
            kinds.setdefault(repr(sorted(options.items(), key=str)), []).append(number)
        found: dict[int, str] = {}
        for numbers in kinds.values():
            options = dict(requests[numbers[0]][1])
            until = options.pop("until", None) or []
            until = [until] if isinstance(until, str) else until
            most = options.pop("max_gen_toks", self.max_new_tokens)
            how: dict[str, Any] = {"do_sample": False, "max_new_tokens": most, **options}
            how.pop("temperature" if not how["do_sample"] else "", None)
            contexts = {number: requests[number][0] for number in numbers}
            for batch in self._batches(sorted(contexts, key=lambda number: -len(contexts[number])), presorted=True):
                inputs = self._inputs([contexts[number] for number in batch])
                answers = decode(self._tokenizer, self.model.generate(**inputs, task=self.task, **how))
                for number, text in zip(batch, answers, strict=True):
                    found[number] = _until(text, until)
        self._tell_of_cuts(len(requests))
        return [found[number] for number in range(len(requests))]

    @property
    def _tokenizer(self) -> Any:
        return self.model.need_tokenizer()

    def _batches(self, items: list[Any], *, presorted: bool = False) -> Iterator[list[Any]]:
        """In batches of like length, with a bar."""
        from hyperpelt.data.progress import shown

        ordered = items if presorted else sorted(items, key=len, reverse=True)
        for start in shown(range(0, len(ordered), self.batch_size), self.task, "batches"):
            yield ordered[start : start + self.batch_size]

    def _inputs(self, contexts: Sequence[str]) -> dict[str, Any]:
        import torch

        from hyperpelt.data import encode_inputs, pad

        ids, num_cut = encode_inputs(self._tokenizer, contexts, self.max_source_length or sys.maxsize)
        self.num_cut += num_cut
        padded = pad(ids, self._tokenizer.pad_token_id)
        lengths = torch.tensor([len(row) for row in ids])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        return {"input_ids": padded.to(self.model.device), "attention_mask": mask.to(self.model.device)}

    def _tell_of_cuts(self, num_contexts: int) -> None:
        """Examples before a question push it past where the run reads, and the harness would print scores as ever."""
        if self.num_cut:
            print(
                f"lm-eval: {self.num_cut} of {num_contexts} contexts were cut at the run's max_source_length="
                f"{self.max_source_length} tokens: their ends, where the question stands, were not read. Give fewer or "
                "shorter examples, or train with a larger one.",
                file=sys.stderr,
            )
        self.num_cut = 0

    def _scored(
        self, contexts: Sequence[str], targets: Sequence[Sequence[int]], rows: Sequence[int]
    ) -> list[tuple[float, bool]]:
        import torch

        from hyperpelt.data import IGNORED, pad

        tasks = torch.full((len(contexts),), self.model.task_id(self.task))
        labels = pad([*map(list, targets)], IGNORED, 1)
        with self.model.evaluating():
            log_probs, best = self.model.token_log_probs_and_best(
                **self._inputs(contexts), task_ids=tasks, labels=labels, rows=torch.tensor(list(rows))
            )
        greedy = (best | (labels == IGNORED).to(best.device)).all(dim=1)
        return list(zip(log_probs.double().sum(dim=1).tolist(), greedy.tolist(), strict=True))


def _until(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stops."""
    for stop in stops:
        text = text.split(stop)[0] if stop else text
    return text
