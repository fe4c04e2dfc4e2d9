"""TunedModel: a frozen backbone, a method and a list of tasks.

    model = TunedModel.build("google-t5/t5-base", method="hyperpelt", tasks=["glue/rte", "glue/mrpc"])
    model.save_pretrained("runs/mine");  model = TunedModel.from_pretrained("runs/mine")
    model.generate(["..."], task="glue/rte");  model.score(["..."], ["yes", "no"], task="glue/rte")

One pass: the weight sources make the tensors of all operations for the distinct tasks of the batch; the backbone
runs; at each operation every row picks its own. A batch may mix tasks in training, scoring and generation alike.

Legend: B rows, S source length, T target length, V vocabulary, U distinct tasks, N candidates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hyperpelt import methods
from hyperpelt.attachment.calibration import collect_samples
from hyperpelt.attachment.switch import switch_of
from hyperpelt.data.host import OnHost, Targets, unwrapped
from hyperpelt.errors import UserError, unknown
from hyperpelt.methods.assemble import assemble, build_sources, unfrozen
from hyperpelt.methods.base import Method
from hyperpelt.model.choice_losses import ChoiceLosses, WrongChoices
from hyperpelt.model.growth import Growth
from hyperpelt.model.habits import Habits
from hyperpelt.model.inference import Inference
from hyperpelt.model.outputs import TunedOutput, read_only_at, target_positions, token_losses
from hyperpelt.model.persistence import Persistence, copy_of, in_dtype
from hyperpelt.model.ranking import RankingLoss
from hyperpelt.model.running import Running
from hyperpelt.model.sight import Sight, for_features, spec_of
from hyperpelt.operations import list_operations

if TYPE_CHECKING:
    from hyperpelt.data.candidates import Candidates
    from hyperpelt.vision import ImageEncoder, VisualSpec


class TunedModel(Running, Inference, Persistence, Growth, ChoiceLosses, RankingLoss, Sight, Habits):
    """A frozen T5 or BART tuned by a method for a list of tasks. Make one with `build` or `from_pretrained`.

    - **backbone**: frozen; its parameters get no gradient and never change. Several tuned models may share it in turn.
    - **sources**: the weight sources, all that is trained (with `unfreeze`, also the model's own copy of the backbone)
    - **tasks**: names; the id of a task is its index
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        method: Method,
        tasks: Sequence[str],
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        backbone_name: str = "",
        seed: int = 0,
        calibrate: bool = True,
        visual: VisualSpec | None = None,
    ) -> None:
        super().__init__()
        if len(set(tasks)) != len(tasks) or not tasks:
            raise UserError(f"A tuned model needs at least one task and each task once, got {list(tasks)}.")
        self.method, self.tasks, self.tokenizer = for_features(method, visual), tuple(tasks), tokenizer
        method = self.method
        self.task_fingerprints: dict[str, str] = {}
        self.backbone_name = backbone_name or backbone.name_or_path
        self.operations = list_operations(backbone)
        self.assembly = assemble(method, self.operations)
        trained = unfrozen(method, backbone)
        # Trained backbone parameters live in a copy: the object that was given stays as it is.
        self.backbone = copy_of(backbone) if trained else backbone
        generator = torch.Generator().manual_seed(seed)
        samples = collect_samples(self.backbone, self.assembly.sampled(), generator) if calibrate else None
        self.sources = build_sources(method, self.assembly, len(tasks), samples=samples or None, generator=generator)
        self.sources.to(self.backbone.device)
        self.visual = self._visual_spec(visual)
        self.unfrozen = frozenset(trained)
        self.switch = switch_of(self.backbone)
        self._made: dict[Any, dict[str, Sequence[Tensor]]] = {}
        self.attached = False
        self.save_trained_only()
        self.attach()
        if calibrate:
            self.check_reached()

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
    ) -> TunedModel:
        """A fresh tuned model.

        - **backbone**: a name (`mini-bart`), folder, hub id, or a model
        - **method**: see `hyperpelt.methods`
        - **tasks**: names, or `Task` objects; a single name is one task
        - **seed**: of every initial value
        - **dtype**: of the frozen backbone, float32 or bfloat16; what is trained stays float32
        - **image_encoder**: whose features a method with a visual part will read: an encoder, its `spec` or its name;
          None: the method's own `feature_dim` and `cells`

        Raises:
            UserError: unknown method, family or setting; float16.
        """
        name = ""
        if isinstance(backbone, str | Path):
            from hyperpelt.backbones import load_backbone, load_tokenizer

            name = str(backbone)
            tokenizer = tokenizer or load_tokenizer(backbone)
            backbone = load_backbone(backbone, dtype=dtype)
        else:
            backbone = in_dtype(backbone, dtype)
        tasks = [tasks] if isinstance(tasks, str) else list(tasks)
        names = [task if isinstance(task, str) else task.name for task in tasks]
        options = {"tokenizer": tokenizer, "backbone_name": name, "seed": seed, "visual": spec_of(image_encoder)}
        model = cls(backbone, methods.get(method), names, **options)
        model.task_fingerprints = {t.name: t.fingerprint() for t in tasks if not isinstance(t, str)}
        return model

    # Attachment

    def attach(self) -> None:
        """Put this model's hooks on the backbone. `build` does it; needed only after `detach`."""
        if not self.attached:
            self.switch.attach(self.assembly.operations, trained=self.unfrozen)
            self.attached = True

    def detach(self) -> None:
        """Take this model off its backbone, which is then exactly what it was (if no other model is attached)."""
        if self.attached:
            self.switch.detach(self.assembly.operations)
            self.attached = False

    def check_reached(self) -> None:
        """Run a two-token row and assert that every tuner was reached exactly once.

        Raises:
            UserError: the backbone's attention ignores the registered function (some families do).
        """
        if any(p.is_meta for p in self.backbone.parameters()) or not self.assembly.plan:
            return
        ids, row = torch.ones(1, 2, dtype=torch.long, device=self.device), torch.zeros(1, dtype=torch.long)
        with torch.no_grad(), self.evaluating(), self.running(row, ids, ids, self.blank_images(1)) as running:
            running.reached = Counter()
            inputs, mask = self.embedded(running, ids, ids)
            self.backbone(**inputs, attention_mask=mask, decoder_input_ids=ids[:, :1], use_cache=False)
        wanted = {(name, placed.tuner.point) for name, there in self.assembly.plan.items() for placed in there}
        wrong = sorted(name for name, point in wanted if running.reached[name, point] != 1)
        if wrong:
            raise UserError(
                f"{type(self.backbone).__name__} did not reach {len(wrong)} of {len(wanted)} tuned operations exactly "
                f"once, among them {wrong[0]!r}: this model family does not use the attention interface as expected."
            )

    def train(self, mode: bool = True) -> TunedModel:
        """Training or evaluation mode. Tensors that were kept for inference are made anew after training."""
        if mode:
            self._made = {}
        return super().train(mode)

    # One pass

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        return self.backbone.dtype

    def task_id(self, name: str) -> int:
        """The index of a task.

        Raises:
            UserError: the model was not trained on it.
        """
        if name not in self.tasks:
            raise unknown("task of this model", name, self.tasks)
        return self.tasks.index(name)

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
        - **task_ids**: index into `tasks` for each row, on the host rather than on an accelerator; may be left out if
          there is one task
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
        if candidates is not None:
            images = self.row_images(visual, visual_rows, input_ids.shape[0])
            return self.ranked(input_ids, attention_mask, task_ids, candidates, images, row_weights)
        if decoder_input_ids is None:
            if labels is None:
                raise UserError("forward needs `labels` or `decoder_input_ids`; to get answers call generate or score.")
            decoder_input_ids = self.shift_right(labels)
        images = self.row_images(visual, visual_rows, input_ids.shape[0])
        where = None if labels is None or keep_logits else target_positions(labels, targets)
        head = self.backbone.get_output_embeddings()
        with self.running(task_ids, input_ids, attention_mask, images) as running, read_only_at(head, where):
            inputs, mask = self.embedded(running, input_ids, attention_mask)
            output = self.backbone(**inputs, attention_mask=mask, decoder_input_ids=decoder_input_ids, use_cache=False)
        if labels is None:
            return TunedOutput(logits=output.logits)
        losses = token_losses(output.logits, labels, smoothing, where=where)
        row_loss, row_tokens = self.tied(losses.sum(dim=1), images), (labels != -100).sum(dim=1)
        if row_weights is not None:
            row_loss = row_loss * row_weights
        loss = row_loss.sum() / (row_tokens.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        logits = output.logits if where is None else None
        result = TunedOutput(logits=logits, loss=loss, row_loss=row_loss, row_tokens=row_tokens)
        if wrong is not None:
            states = output.encoder_last_hidden_state
            right = -token_losses(output.logits, labels, where=where) if smoothing else -losses
            terms = self.choice_losses(right, labels, wrong, states, mask, task_ids, images=images)
            return self.with_choices(result, terms, row_weights, wrong)
        return result

    def _task_ids(self, task_ids: Tensor | None, num_rows: int) -> Tensor:
        """The caller's ids of a batch's tasks, checked; 0 for every row where there is one task and none was given."""
        if task_ids is not None:
            if task_ids.shape != (num_rows,):
                raise UserError(f"Expected one task id for each of {num_rows} rows, got {list(task_ids.shape)}.")
            # Reading ids back from an accelerator would make it wait in every step.
            if task_ids.device.type == "cpu" and num_rows and not torch.compiler.is_compiling():
                low, high = (int(bound) for bound in task_ids.aminmax())
                if low < 0 or high >= len(self.tasks):
                    raise UserError(f"Expected task ids from 0 to {len(self.tasks) - 1}, got {task_ids.tolist()}.")
            return task_ids
        if len(self.tasks) > 1:
            raise UserError(f"Give `task_ids`: this model knows {len(self.tasks)} tasks.")
        return torch.zeros(num_rows, dtype=torch.long)

    def shift_right(self, labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """Decoder input for teacher forcing: the start token, then the labels without their last."""
        config = self.backbone.config
        start = labels.new_full((labels.shape[0], 1), config.decoder_start_token_id)
        return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == -100, config.pad_token_id)], dim=1)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """Recompute each layer's activations in backward instead of keeping them. The settings that transformers
        passes play no part: recomputation is the same for every layer."""
        self.switch.recompute(True)

    def gradient_checkpointing_disable(self) -> None:
        self.switch.recompute(False)
