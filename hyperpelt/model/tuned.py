"""TunedModel: a frozen backbone, a method and a list of tasks.

    model = TunedModel.build("google-t5/t5-base", method="hyperpelt", tasks=["glue/rte", "glue/mrpc"])
    model.save_pretrained("runs/mine");  model = TunedModel.from_pretrained("runs/mine")
    model.generate(["..."], task="glue/rte");  model.score(["..."], ["yes", "no"], task="glue/rte")

One pass: the weight sources make the tensors of all operations for the distinct tasks of the batch; the backbone
runs; at each operation every row picks its own. A batch may mix tasks in training, scoring and generation alike.

Legend: B rows, S source length, T target length, V vocabulary, U distinct tasks, N candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hyperpelt import methods
from hyperpelt.attachment.penalties import Penalties
from hyperpelt.data.candidates import Candidates
from hyperpelt.data.host import OnHost, Targets, unwrapped
from hyperpelt.errors import UserError
from hyperpelt.methods.base import Method
from hyperpelt.model.choice_losses import WrongChoices, choice_losses, with_choices
from hyperpelt.model.copies import in_dtype
from hyperpelt.model.habits import Habits
from hyperpelt.model.inference import Inference
from hyperpelt.model.outputs import TunedOutput, read_only_at, target_positions, token_losses
from hyperpelt.model.persistence import Persistence
from hyperpelt.model.ranking import ranked
from hyperpelt.model.sight import spec_of
from hyperpelt.vision.base import ImageEncoder
from hyperpelt.vision.spec import VisualSpec


class TunedModel(Inference, Persistence, Habits):
    """A frozen T5 or BART tuned by a method for a list of tasks. Make one with `build` or `from_pretrained`.

    - **backbone**: frozen; its parameters get no gradient and never change. Several tuned models may share it; calls of
      several threads wait for each other
    - **sources**: the weight sources, all that is trained (with `unfreeze`, also the model's own copy of the backbone)
    - **tasks**: names; the id of a task is its index
    """

    @classmethod
    def build(
        cls,
        backbone: str | Path | PreTrainedModel,
        *,
        method: str | Mapping[str, Any] | Method = "hyperpelt",
        tasks: str | Sequence[Any],
        tokenizer: PreTrainedTokenizerBase | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        image_encoder: ImageEncoder | VisualSpec | str | Path | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        quantization: str | None = None,
    ) -> TunedModel:
        """A fresh tuned model.

        - **backbone**: a name (`mini-bart`), folder, hub id, or a model
        - **method**: see `hyperpelt.methods`
        - **tasks**: names, or `Task` objects; a single name is one task
        - **seed**: of every initial value
        - **dtype**: of the frozen backbone, float32 or bfloat16; what is trained stays float32
        - **image_encoder**: whose features a method with a visual part will read: an encoder, its `spec` or its name;
          None: the method's own `feature_dim` and `cells`
        - **source_language**, **target_language**: of a multilingual backbone (`de_DE`), which is then given by name
        - **quantization**: `int8` or `nf4`: how the weights of a backbone that is given by name are packed

        Raises:
            UserError: unknown method, family, language or setting; float16; a tokenizer that does not fit the backbone.
        """
        name = ""
        if isinstance(backbone, str | Path):
            from hyperpelt.backbones import load_backbone, load_tokenizer, set_languages

            name = str(backbone)
            tokenizer = tokenizer or load_tokenizer(backbone)
            backbone = load_backbone(backbone, dtype=dtype, quantization=quantization)
            set_languages(tokenizer, backbone, source=source_language, target=target_language)
        else:
            if source_language or target_language:
                raise UserError(
                    "source_language and target_language need a backbone given by name; this one is a model object."
                )
            if quantization:
                raise UserError("quantization needs a backbone given by name; this one is a model object.")
            backbone = in_dtype(backbone, dtype)
        tasks = [tasks] if isinstance(tasks, str) else list(tasks)
        names = [task if isinstance(task, str) else task.name for task in tasks]
        model = cls(
            backbone,
            methods.get(method),
            names,
            tokenizer=tokenizer,
            backbone_name=name,
            seed=seed,
            visual=spec_of(image_encoder),
        )
        model.task_fingerprints = {t.name: t.fingerprint() for t in tasks if not isinstance(t, str)}
        model.languages = {"source_language": source_language, "target_language": target_language}
        return model

    def forward(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Int[Tensor, "B S"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        task_ids: Int[Tensor, " B"] | OnHost | None = None,
        *,
        decoder_input_ids: Int[Tensor, "B T"] | None = None,
        smoothing: float = 0.0,
        row_weights: Float[Tensor, " B"] | None = None,
        wrong: WrongChoices | None = None,
        candidates: Candidates | None = None,
        visual: Float[Tensor, "N G Dv"] | None = None,
        visual_rows: Int[Tensor, " N"] | OnHost | None = None,
        keep_logits: bool = True,
        targets: Targets | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> TunedOutput:
        """Logits and losses of a batch whose rows may belong to different tasks.

        - **labels**: target ids, -100 where there is none
        - **task_ids**: index into `tasks` for each row, best on the host; may be left out if there is one task
        - **row_weights**: weight of each row's loss (1 if left out)
        - **wrong**: the rows' wrong choices, for T-Few's losses
        - **candidates**: the rows' candidates: the loss is how they are ranked, and there are no logits
        - **visual**: features of N images; **visual_rows**: the row of each (several of a row in their order; rows
          without images are not named); left out: one image a row. No images at all: the model is blind
        - **smoothing**: of the labels (a name without `label`, from which `Trainer` takes parameters for labels)
        - **keep_logits**: False, as in training: the losses alone, which costs less where targets are padded;
          **targets**: where the labels hold any, found on the host
        - **num_items_in_batch**: what `loss` divides by, if not by this batch's target tokens: those of the whole
          accumulated batch, so that its parts add up
        """
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        task_ids = self._task_ids(None if task_ids is None else unwrapped(task_ids), input_ids.shape[0])
        images = self._images(visual, visual_rows, input_ids.shape[0])
        if candidates is not None:
            return ranked(self, input_ids, attention_mask, task_ids, candidates, images, row_weights)
        decoder_input_ids = self._read_by_decoder(labels) if decoder_input_ids is None else decoder_input_ids
        where = None if labels is None or keep_logits else self._asked_at(target_positions(labels, targets))
        head = self._head()
        noted = None if labels is None else self.noting_penalties(len(input_ids))
        penalties = None if noted is None or labels is None else noted.over(labels != -100)
        run = self.running(task_ids, input_ids, attention_mask, images, penalties=penalties)
        with run as running, read_only_at(head, where, running):
            inputs, mask = self.embedded(running, input_ids, attention_mask)
            output = self.backbone(**inputs, attention_mask=mask, decoder_input_ids=decoder_input_ids, use_cache=False)
        if labels is None:
            return TunedOutput(logits=output.logits)
        losses = token_losses(output.logits, labels, smoothing, where=where)
        row_loss = self.sight.tied(losses.sum(dim=1), images)
        row_loss = row_loss if row_weights is None else row_loss * row_weights
        logits = output.logits if where is None else None
        result = _summed(row_loss, labels, logits, noted, num_items_in_batch)
        if wrong is not None:
            states = output.encoder_last_hidden_state
            right = -token_losses(output.logits, labels, where=where) if smoothing else -losses
            terms = choice_losses(self, right, labels, wrong, states, mask, task_ids, made=running.made, images=images)
            return with_choices(result, terms, row_weights, wrong)
        return result

    def _read_by_decoder(self, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise UserError("forward needs `labels` or `decoder_input_ids`; to get answers call generate or score.")
        return self.shift_right(labels)

    def standardise_features(self, features: Float[Tensor, "N G Dv"]) -> None:
        """Let the model measure features in units of these: their mean and deviation in each of the Dv dimensions.

        Call it once, before training, with the features of some hundred training images. Without it features are
        taken as they are. The measures are saved with the model.
        """
        self.sight.standardise(features)

    def image_encoder(self, *, device: str | torch.device | None = None) -> ImageEncoder:
        """The encoder whose features this model was trained on.

        Raises:
            UserError: the model reads no images, names no encoder, or the encoder has changed since.
        """
        return self.sight.image_encoder(device=device)


def _summed(
    row_loss: Float[Tensor, " B"],
    labels: Int[Tensor, "B T"],
    logits: Float[Tensor, "B T V"] | None,
    noted: Penalties | None,
    num_items: Tensor | int | None,
) -> TunedOutput:
    """The rows' losses as that of the batch, or as its share of a larger one of `num_items` target tokens."""
    row_tokens = (labels != -100).sum(dim=1)
    tokens = row_tokens.sum().clamp(min=1)
    whole = tokens if num_items is None else num_items
    loss, added = row_loss.sum() / whole, None
    if noted is not None:
        added = noted.rows()
        # Of a larger batch this one has its share of the penalties, too.
        loss = loss + sum(each.mean() for each in added.values()) * (tokens / whole)
    return TunedOutput(logits=logits, loss=loss, row_loss=row_loss, row_tokens=row_tokens, row_penalties=added)
