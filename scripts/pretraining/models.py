"""What is pretrained: mini-bart's decoder and mini-t5.

Each says which of its tensors are trained and saved, and gives the loss of every target token of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.bart.modeling_bart import shift_tokens_right

from hyperpelt.backbones import embedded
from pretraining.objectives import IGNORED, Batch, Vocabulary, make_questions
from pretraining.tokenizer import NUM_SENTINELS


@dataclass
class MiniBart:
    """A frozen MiniLM encoder and the decoder that learns to read it.

    The decoder starts from MiniLM's own first layers (self-attention, feed-forward, norms; "BERT2BERT", Rothe et al.
    2020); its cross-attentions start at random. Embeddings and positions are shared with the encoder and frozen.
    """

    config: BartConfig
    model: BartForConditionalGeneration

    @classmethod
    def fresh(cls, *, seed: int, warm: bool = True) -> MiniBart:
        config = embedded.mini_bart_config()
        return cls.assemble(config, random_decoder(config, seed=seed, warm=warm))

    @classmethod
    def assemble(cls, config: BartConfig, state: dict[str, Tensor]) -> MiniBart:
        model = embedded.assemble_mini_bart(config, state)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_decoder_tensor(name))
        return cls(config, model)

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad)

    def state(self) -> dict[str, Tensor]:
        """What is saved: the decoder, and the output bias that holds the unigram model."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if is_decoder_tensor(name)}

    def load(self, state: dict[str, Tensor]) -> None:
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        assert not unexpected, unexpected
        assert not any(map(is_decoder_tensor, missing)), missing

    def set_unigram(self, log_probabilities: Tensor) -> None:
        self.model.final_logits_bias.copy_(log_probabilities[None])

    def hidden(self, batch: Batch) -> Tensor:
        """Decoder states [B, T, D] under teacher forcing."""
        mask = None if batch.full else batch.source_mask
        with torch.no_grad():
            encoded = self.model.model.encoder(input_ids=batch.source, attention_mask=mask).last_hidden_state
        inputs = shift_tokens_right(batch.labels, self.config.pad_token_id, self.config.decoder_start_token_id)
        return self.model.model.decoder(
            input_ids=inputs, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False
        ).last_hidden_state

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
        weight, bias = self.model.model.shared.weight, self.model.final_logits_bias[0]
        labels, candidates = batch.labels[batch.labels != IGNORED], batch.candidates
        if candidates is None:
            return weight, bias, labels
        # The frozen output bias is the unigram model (`set_unigram`).
        bias = bias[candidates.ids] - candidates.log_inclusion(bias)
        return weight[candidates.ids], bias, candidates.positions(labels)


class FrozenHeadLoss(torch.autograd.Function):
    """Cross-entropy of `softmax(h W' + b)` where W and b are frozen, a few rows at a time.

    As no gradient of W is wanted, the gradient of h, (p - onehot) W, is made in the forward pass while a chunk's
    logits are still in the cache; the [N, V] logits never exist as a whole.
    """

    CHUNK = 128

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
        """hidden [N, D], weight [V, D], bias [V], labels [N] -> losses [N] in float32."""
        losses, gradients = [], []
        for rows, targets in zip(hidden.split(FrozenHeadLoss.CHUNK), labels.split(FrozenHeadLoss.CHUNK), strict=True):
            logits = F.linear(rows, weight, bias).float()
            gold = logits.gather(1, targets[:, None])
            total = logits.logsumexp(1, keepdim=True)
            losses.append((total - gold)[:, 0])
            if ctx.needs_input_grad[0]:
                logits.sub_(total).exp_()
                logits[torch.arange(len(targets), device=logits.device), targets] -= 1.0
                gradients.append(logits.to(weight.dtype) @ weight)
        ctx.gradient = torch.cat(gradients) if gradients else None
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient * outputs[0][:, None].to(ctx.gradient.dtype), None, None, None


def is_decoder_tensor(name: str) -> bool:
    """Trained and shipped; embeddings and positions are MiniLM's."""
    if name == "final_logits_bias":
        return True
    return name.startswith("model.decoder.") and "embed_tokens" not in name and "embed_positions" not in name


def random_decoder(config: BartConfig, *, seed: int, warm: bool) -> dict[str, Tensor]:
    """A decoder's first weights: Glorot matrices, or MiniLM's layers where a decoder has the same part."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in BartForConditionalGeneration(config).state_dict().items()}
    state = {name: torch.zeros(shape) for name, shape in shapes.items() if is_decoder_tensor(name)}
    for name, tensor in state.items():
        if tensor.dim() == 2 and name != "final_logits_bias":
            tensor.normal_(0.0, math.sqrt(2.0 / sum(tensor.shape)), generator=generator)
        elif "norm" in name and name.endswith("weight"):
            tensor.fill_(1.0)
    if warm:
        minilm = embedded.minilm_state()
        for name, tensor in state.items():
            source = minilm.get(name.removeprefix("model.").replace("decoder.", "encoder."))
            if source is not None and source.shape == tensor.shape:
                state[name] = source.clone()
    return state


def bart_vocabulary() -> Vocabulary:
    tokenizer = embedded.mini_bart_tokenizer()
    return Vocabulary(
        prefix=(embedded.CLS,),
        end=embedded.SEP,
        pad=embedded.PAD,
        mask=embedded.MASK,
        questions=make_questions(lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]),
    )


@dataclass
class MiniT5:
    """A whole T5, trained from nothing. The tied embedding is one tensor, `shared.weight`."""

    config: T5Config
    model: T5ForConditionalGeneration

    @classmethod
    def fresh(cls, config: T5Config, *, seed: int) -> MiniT5:
        """transformers' T5 initialisation, drawn from `seed` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, T5ForConditionalGeneration(config).eval())

    @classmethod
    def assemble(cls, config: T5Config, state: dict[str, Tensor]) -> MiniT5:
        return cls(config, embedded.assemble_mini_t5(config, state))

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.model.named_parameters()

    def state(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def load(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(state[name])

    def set_unigram(self, log_probabilities: Tensor) -> None:
        """A T5 has no output bias: nothing to set."""

    def token_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods [N] of the batch's target tokens, row by row, and their weights [N]."""
        mask = None if batch.full else batch.source_mask
        encoded = self.model.encoder(input_ids=batch.source, attention_mask=mask).last_hidden_state
        inputs = shift_tokens_right(batch.labels, self.config.pad_token_id, self.config.decoder_start_token_id)
        hidden = self.model.decoder(
            input_ids=inputs, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False
        ).last_hidden_state
        scored = batch.labels != IGNORED
        logits = F.linear(hidden[scored] * self.config.d_model**-0.5, self.model.shared.weight)
        losses = F.cross_entropy(logits.float(), batch.labels[scored], reduction="none")
        return losses, batch.weights[:, None].expand_as(scored)[scored]


def mini_t5_config(*, vocab_size: int) -> T5Config:
    """About 7.3M parameters with 8,064 pieces: together with mini-bart's decoder, in bf16, under 25 MB."""
    return T5Config(
        vocab_size=vocab_size,
        d_model=256,
        d_kv=32,
        num_heads=8,
        d_ff=1024,
        num_layers=4,
        num_decoder_layers=2,
        dropout_rate=0.1,
        feed_forward_proj="relu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )


def t5_vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(NUM_SENTINELS)])
    return Vocabulary(prefix=(), end=tokenizer.eos_token_id, pad=tokenizer.pad_token_id, sentinels=tuple(sentinels))
