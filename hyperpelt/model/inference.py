"""Using a tuned model: generation, and the log-probabilities that choices are ranked by.

Legend: B rows, S source length, T target length, N candidates (each belongs to one row), V vocabulary,
M images, G cells of an image, Dv width of a cell's feature.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from hyperpelt.attachment.passes import Pass
from hyperpelt.attachment.positions import Positions, RememberingCache
from hyperpelt.attachment.roomy_cache import roomy_cache
from hyperpelt.attachment.row_images import RowImages
from hyperpelt.backbones import without_language
from hyperpelt.backbones.decoder_cache import CACHE
from hyperpelt.data import encode_inputs, pad
from hyperpelt.errors import UserError
from hyperpelt.model.running import Running
from hyperpelt.model.scoring import group, normalise

TRAINED_ON = ("labels", "row_weights")  # what a batch holds for training alone
# Options of generation that bring a cache, or for which transformers makes one of another kind.
OF_ANOTHER_CACHE = ("cache", "past_key_values", "cache_implementation", "assistant_model", "prompt_lookup_num_tokens")


class Inference(Running):
    """The part of `TunedModel` that answers: `generate`, `score`, `token_log_probs`. Batches may mix tasks."""

    def need_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer.

        Raises:
            UserError: the model has none.
        """
        if self.tokenizer is None:
            raise UserError("This model has no tokenizer: give one to `build`, or pass input_ids instead of text.")
        return self.tokenizer

    def _tokenize(self, texts: Sequence[str], max_source_length: int | None) -> tuple[Tensor, Tensor]:
        limit = getattr(self.backbone.config, "max_position_embeddings", None)
        length = sys.maxsize if max_source_length is None else max_source_length
        tokenizer = self.need_tokenizer()
        _check_texts("input", texts)
        rows, _ = encode_inputs(tokenizer, texts, length)
        longest = max(map(len, rows))
        if limit is not None and longest > limit:
            raise UserError(
                f"An input has {longest} tokens, this backbone {limit} positions: shorten it, or give "
                f"max_source_length={limit}, which cuts it."
            )
        ids = pad(rows, tokenizer.pad_token_id, 1).to(self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        return ids, (torch.arange(ids.shape[1], device=self.device) < lengths[:, None]).long()

    def _rows_of(self, task: str | None, task_ids: Tensor | Sequence[int] | None, num_rows: int) -> Tensor:
        if task is not None:
            return torch.full((num_rows,), self.task_id(task))
        return self._task_ids(task_ids, num_rows, also=", or the `task` of all of them")

    @torch.no_grad()
    def generate(
        self,
        inputs: Sequence[str] | Int[Tensor, "B S"] | None = None,
        *,
        input_ids: Int[Tensor, "B S"] | None = None,
        task: str | None = None,
        task_ids: Int[Tensor, " B"] | Sequence[int] | None = None,
        attention_mask: Int[Tensor, "B S"] | None = None,
        max_source_length: int | None = None,
        visual: Float[Tensor, "M G Dv"] | None = None,
        visual_rows: Int[Tensor, " M"] | None = None,
        **options: Any,
    ) -> list[str] | Int[Tensor, "_ T"] | ModelOutput:
        """Answers, written token by token; the tensors of each task are made once for the whole call.

        - **inputs**: texts, or ids with their `attention_mask`; **input_ids**: another name for the latter
        - **task**, or **task_ids** for a batch that mixes tasks
        - **visual**, **visual_rows**: features of images and the row of each, as `forward` takes them
        - **options**: as `generate` of transformers takes them (`num_beams`, `max_new_tokens`, ...); a batch's `labels`
          and `row_weights`, which training needs, play no part
        - returns texts for texts, ids for ids; under `return_dict_in_generate=True` the output of transformers
          (`sequences`, `scores` if `output_scores=True`, ...), for texts with the answers as its `texts`

        Raises:
            UserError: no tokenizer for texts, an input longer than the backbone's positions, an unknown task, task ids
                that do not fit, images for a method that reads none.
        """
        inputs = input_ids if inputs is None else inputs
        if inputs is None:
            raise UserError("generate needs inputs: a list of texts, or ids.")
        options = {name: value for name, value in options.items() if name not in TRAINED_ON}
        texts = not isinstance(inputs, Tensor)
        _check_list("generate", "texts", inputs)
        if texts and not len(inputs):
            return []
        ids, mask = self._tokenize(inputs, max_source_length) if texts else (inputs, attention_mask)
        mask = torch.ones_like(ids) if mask is None else mask
        with self.evaluating():
            images = self._images(visual, visual_rows, ids.shape[0])
            with self.running(self._rows_of(task, task_ids, ids.shape[0]), ids, mask, images) as running:
                running.picked = {}
                options = self._with_cache(running, options)
                embedded, mask = self.embedded(running, ids, mask)
                # Generation names its first argument `inputs`; prompts come as embeddings.
                backbone: Any = self.backbone  # `generate` is of every family, not of transformers' base class
                answers = backbone.generate(**embedded, attention_mask=mask, **options)
        if not texts:
            return answers
        written = answers if isinstance(answers, Tensor) else answers["sequences"]
        tokenizer = self.need_tokenizer()
        decoded = tokenizer.batch_decode(without_language(tokenizer, written), skip_special_tokens=True)
        if isinstance(answers, Tensor):
            return decoded
        answers["texts"] = decoded
        return answers

    def _with_cache(self, running: Pass, options: dict[str, Any]) -> dict[str, Any]:
        """Options of generation with a cache that has room for the pass's prefixes, unless they ask for another one.

        Raises:
            UserError: they do, and the method needs its own.
        """
        settings = options.get("generation_config") or self.backbone.generation_config
        if options.get("use_cache", settings.use_cache) is False:
            return options
        config = self.backbone.get_decoder().config  # T5's own counts the encoder's layers
        asked = [name for name in OF_ANOTHER_CACHE if options.get(name, getattr(settings, name, None)) is not None]
        if self.looks_back:
            if asked:
                raise UserError(
                    f"Method {self.method.name!r} reads earlier positions, which only its own cache holds: call "
                    f"generate without {asked[0]}."
                )
            cache = RememberingCache(config)
            running.positions = Positions(cache.before)
        elif asked:
            return options
        else:
            cache = EncoderDecoderCache(roomy_cache(config), DynamicCache(config=config))
        return {**options, CACHE: cache}

    @torch.no_grad()
    def token_log_probs(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Int[Tensor, "B S"],
        task_ids: Int[Tensor, " B"],
        labels: Int[Tensor, "N T"],
        rows: Int[Tensor, " N"],
        *,
        visual: Float[Tensor, "M G Dv"] | None = None,
        visual_rows: Int[Tensor, " M"] | None = None,
    ) -> Float[Tensor, "N T"]:
        """log p of every target token, float32; 0 where the label is -100.

        The encoder runs once for the B rows; candidate n reads the encoding of row `rows[n]` and is scored under
        that row's task and images.

        - **task_ids**, **labels**, **rows**: best on the host, where it is found out which candidates begin alike
        - **visual**, **visual_rows**: features of images and which of the B rows each belongs to
        """
        seen = self._images(visual, visual_rows, input_ids.shape[0])
        logits, which, labels = self._target_logits(input_ids, attention_mask, task_ids, labels, rows, seen)
        return _picked(logits, which, labels)

    @torch.no_grad()
    def token_log_probs_and_best(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Int[Tensor, "B S"],
        task_ids: Int[Tensor, " B"],
        labels: Int[Tensor, "N T"],
        rows: Int[Tensor, " N"],
    ) -> tuple[Float[Tensor, "N T"], Bool[Tensor, "N T"]]:
        """`token_log_probs`, and whether each target token is the likeliest one at its place (greedy search's)."""
        logits, which, labels = self._target_logits(input_ids, attention_mask, task_ids, labels, rows, None)
        return _picked(logits, which, labels), logits.argmax(-1)[which] == labels

    def _target_logits(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Int[Tensor, "B S"],
        task_ids: Int[Tensor, " B"],
        labels: Int[Tensor, "N T"],
        rows: Int[Tensor, " N"],
        images: RowImages | None,
    ) -> tuple[Float[Tensor, "n T V"], Int[Tensor, " N"], Int[Tensor, "N T"]]:
        """Logits of the n distinct decoder sequences, which of them each candidate reads, the labels beside them."""
        with self.running(task_ids, input_ids, attention_mask, images) as running:
            embedded, mask = self.embedded(running, input_ids, attention_mask)
            states = self.backbone.get_encoder()(**embedded, attention_mask=mask).last_hidden_state
        # Candidates that begin alike read the same tokens: one sequence in the decoder serves them all.
        read = self.shift_right(labels)
        # What is read after a candidate's last token changes nothing, and would part it from others.
        read[:, 1:].masked_fill_(labels[:, 1:] == -100, self.backbone.config.pad_token_id)
        read = torch.cat([rows.to(labels.device)[:, None], read], dim=1)
        read, which = torch.unique(read, dim=0, return_inverse=True)
        chosen, task_ids = read[:, 0], task_ids[read[:, 0].to(task_ids.device)]
        images = None if images is None else images.of_rows(chosen.tolist())
        chosen, decoder_input_ids, which, labels = (
            values.to(self.device, non_blocking=True) for values in (chosen, read[:, 1:], which, labels)
        )
        states, mask = states.index_select(0, chosen), mask.index_select(0, chosen)
        with self.running(task_ids, None, mask, images):
            logits = self.backbone(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                attention_mask=mask,
                decoder_input_ids=decoder_input_ids,
                use_cache=False,
            ).logits.float()
        return logits, which, labels

    def score(
        self,
        inputs: Sequence[str],
        choices: Sequence[str] | Sequence[Sequence[str]],
        *,
        task: str | None = None,
        task_ids: Int[Tensor, " B"] | Sequence[int] | None = None,
        normalisation: str = "sum",
        max_source_length: int | None = None,
        visual: Float[Tensor, "M G Dv"] | None = None,
        visual_rows: Int[Tensor, " M"] | None = None,
    ) -> list[list[float]]:
        """The score of each choice for each input, in nats: log-likelihood under a named length rule.

        - **choices**: the same for all inputs, or a list for each input
        - **task**, or **task_ids** for inputs of several tasks
        - **normalisation**: `sum`, `token` or `character`; see `hyperpelt.model.scoring`
        - **visual**, **visual_rows**: features of images and which input each belongs to
        - returns for each input the scores of its choices, in their order

        Raises:
            UserError: as `generate`; lists of choices that do not fit the inputs, no choices, an unknown rule.
        """
        from hyperpelt.backbones import encode_targets

        _check_list("score", "texts", inputs)
        _check_list("score", "choices", choices)
        same = bool(choices) and isinstance(choices[0], str)
        each = [list(cast("Sequence[str]", choices))] * len(inputs) if same else [list(c) for c in choices]
        if len(each) != len(inputs):
            raise UserError(f"Got {len(inputs)} inputs but {len(each)} lists of choices.")
        if not len(inputs):
            return []
        texts = [text for options in each for text in options]
        if not texts:
            raise UserError("score needs at least one choice to score, got none.")
        _check_texts("choice", texts)
        ids, mask = self._tokenize(inputs, max_source_length)
        rows = torch.tensor([row for row, options in enumerate(each) for _ in options])
        targets = encode_targets(self.need_tokenizer(), texts)
        width = max(map(len, targets))
        labels = torch.tensor([t + [-100] * (width - len(t)) for t in targets])
        task_ids = self._rows_of(task, task_ids, len(inputs))
        seen = {"visual": visual, "visual_rows": visual_rows}
        with self.evaluating():
            log_probs = self.token_log_probs(ids, mask, task_ids, labels, rows, **seen)
        eos = self.backbone.config.eos_token_id
        scores = normalise(log_probs, labels, texts, eos_token_id=eos, normalisation=normalisation)
        return group(scores, rows, len(inputs))


def _picked(
    logits: Float[Tensor, "n T V"], which: Int[Tensor, " N"], labels: Int[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    places = torch.arange(labels.shape[1], device=labels.device)
    log_probs = logits[which[:, None], places, labels.clamp(min=0)] - logits.logsumexp(-1)[which]
    return log_probs.masked_fill(labels == -100, 0.0)


def _check_list(call: str, what: str, given: Any) -> None:
    if isinstance(given, str):
        raise UserError(f"{call} takes a list of {what}, got a single string: put it in a list.")
    if isinstance(given, Mapping) or hasattr(given, "columns"):  # they would be read as the names of their columns
        raise UserError(f"{call} takes a list of {what}, got a {type(given).__name__}: give the list of one column.")


def _check_texts(what: str, texts: Iterable[Any]) -> None:
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"Expected texts, got {text!r} ({type(text).__name__}) as {what} {place}, counted from 0.")
