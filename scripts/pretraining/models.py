"""What learns to write: the decoders of mini-bart and mini-t5, each over its frozen encoder.

Each says which of its tensors are trained and which are saved, and gives the loss of every target token of a batch.
Embeddings are MiniLM's, frozen and shared between encoder, decoder and output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BartConfig, T5Config, T5ForConditionalGeneration
from transformers.models.bart.modeling_bart import shift_tokens_right

from hyperpelt.attachment.joined_attention import ATTENTION_NAME
from hyperpelt.backbones import embedded, mini_bart, mini_t5, minilm
from pretraining.batches import IGNORED, Batch
from pretraining.heads import FrozenHeadLoss
from pretraining.judgements import make_questions
from pretraining.rows import Vocabulary
from pretraining.starts import decoder_from_bart, is_decoder_tensor, random_decoder


class Writer:
    """The decoder is trained; of each target token the loss is taken, over all words or a batch's candidates."""

    config: Any
    model: Any

    def encode(self, source: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError

    def decode(self, inputs: Tensor, encoded: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError

    def output(self) -> tuple[Tensor, Tensor, Tensor]:
        """Output embeddings [V, D] and bias [V], and the unigram log-probabilities [V] that candidates are drawn by."""
        raise NotImplementedError

    def to(self, device: torch.device) -> None:
        self.model.to(device)
        self.model.set_attn_implementation(ATTENTION_NAME)  # SDPA with a backward that is not slow in bfloat16 on a CPU

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad)

    def hidden(self, batch: Batch) -> Tensor:
        """Decoder states [B, T, D] under teacher forcing."""
        mask = None if batch.full else batch.source_mask
        with torch.no_grad():
            encoded = self.encode(batch.source, mask)
        inputs = shift_tokens_right(batch.labels, self.config.pad_token_id, self.config.decoder_start_token_id)
        return self.decode(inputs, encoded, mask)

    def token_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods [N] of the batch's target tokens, row by row, and their weights [N].

        The 30,522-way softmax is computed at target positions only.
        """
        hidden = self.hidden(batch)
        scored = batch.labels != IGNORED
        losses = FrozenHeadLoss.apply(hidden[scored], *self._head(batch))
        return losses, batch.weights[:, None].expand_as(scored)[scored]

    def _head(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Output embeddings [C, D], bias [C] and labels [N] over the batch's candidates, or over all words."""
        weight, bias, unigram = self.output()
        labels, candidates = batch.labels[batch.labels != IGNORED], batch.candidates
        if candidates is None:
            return weight, bias, labels
        bias = bias[candidates.ids] - candidates.log_inclusion(unigram)
        return weight[candidates.ids], bias, candidates.positions(labels)


@dataclass
class MiniBart(Writer):
    """A frozen MiniLM encoder and the decoder that learns to read it.

    The decoder starts from MiniLM's own first layers (self-attention, feed-forward, norms; "BERT2BERT", Rothe et al.
    2020); its cross-attentions start at random. Its output bias is the unigram model and is not trained.
    """

    config: BartConfig
    model: mini_bart.MiniBart

    @classmethod
    def fresh(cls, *, seed: int, warm: bool = True) -> MiniBart:
        config = mini_bart.mini_bart_config()
        return cls.assemble(config, random_decoder(config, seed=seed, warm=warm))

    @classmethod
    def assemble(cls, config: BartConfig, state: dict[str, Tensor]) -> MiniBart:
        model = mini_bart.assemble_mini_bart(config, state)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_decoder_tensor(name))
        return cls(config, model)

    def state(self) -> dict[str, Tensor]:
        """What is saved: the decoder, and the output bias that holds the unigram model."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if is_decoder_tensor(name)}

    def load(self, state: dict[str, Tensor]) -> None:
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        assert not unexpected, unexpected
        assert not any(map(is_decoder_tensor, missing)), missing

    def set_unigram(self, log_probabilities: Tensor) -> None:
        self.model.final_logits_bias.copy_(log_probabilities[None])

    def encode(self, source: Tensor, mask: Tensor | None) -> Tensor:
        return self.model.model.encoder(input_ids=source, attention_mask=mask).last_hidden_state

    def decode(self, inputs: Tensor, encoded: Tensor, mask: Tensor | None) -> Tensor:
        return self.model.model.decoder(
            input_ids=inputs, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False
        ).last_hidden_state

    def output(self) -> tuple[Tensor, Tensor, Tensor]:
        bias = self.model.final_logits_bias[0]
        return self.model.model.shared.weight, bias, bias


@dataclass
class MiniT5(Writer):
    """A T5 whose encoder has learnt to imitate MiniLM's and is frozen, and the decoder that learns to read it.

    A T5 has no output bias; `unigram` only corrects the loss over candidates.
    """

    config: T5Config
    model: T5ForConditionalGeneration
    unigram: Tensor | None = None

    @classmethod
    def fresh(cls, imitator: dict[str, Tensor]) -> MiniT5:
        """The decoder starts as a copy of mini-bart's, which has learnt to read what the encoder imitates.

        Args:
            imitator: a checkpoint of `distillation.MiniT5Encoder`.
        """
        config = mini_t5.mini_t5_config()
        last = f"maps.{config.num_layers - 1}"
        encoder = {name.removeprefix("encoder."): t for name, t in imitator.items() if name.startswith("encoder.")}
        decoder = decoder_from_bart(config, bart_decoder(), minilm.minilm_state(), imitator[last])
        return cls.over(config, mini_t5.assemble_mini_t5(config, encoder | decoder))

    @classmethod
    def over(cls, config: T5Config, model: T5ForConditionalGeneration) -> MiniT5:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("decoder.") and mini_t5.stored(name))
        return cls(config, model)

    def state(self) -> dict[str, Tensor]:
        """What is saved and ships: encoder and decoder, without the embeddings."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if mini_t5.stored(name)}

    def load(self, state: dict[str, Tensor]) -> None:
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        assert not unexpected, unexpected
        assert not any(map(mini_t5.stored, missing)), missing

    def set_unigram(self, log_probabilities: Tensor) -> None:
        self.unigram = log_probabilities

    def encode(self, source: Tensor, mask: Tensor | None) -> Tensor:
        return self.model.encoder(input_ids=source, attention_mask=mask).last_hidden_state

    def decode(self, inputs: Tensor, encoded: Tensor, mask: Tensor | None) -> Tensor:
        return self.model.decoder(
            input_ids=inputs, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False
        ).last_hidden_state

    def output(self) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.model.shared.weight * self.config.d_model**-0.5
        bias = weight.new_zeros(len(weight))
        return weight, bias, bias if self.unigram is None else self.unigram.to(bias.device)


def bart_decoder() -> dict[str, Tensor]:
    """The decoder that ships in mini-bart, in float32."""
    state = load_file(embedded.asset_folder("mini-bart") / "model.safetensors")
    return {name: tensor.float() for name, tensor in state.items()}


def minilm_vocabulary() -> Vocabulary:
    tokenizer = minilm.minilm_tokenizer()
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return Vocabulary(
        prefix=(minilm.CLS,),
        end=minilm.SEP,
        pad=minilm.PAD,
        mask=minilm.MASK,
        questions=make_questions(lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]),
        words=np.array([token.isalpha() and len(token) > 2 for token in tokens]),
        inner=np.array([token.startswith("##") for token in tokens]),
    )
