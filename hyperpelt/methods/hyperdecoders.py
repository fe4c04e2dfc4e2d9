"""Hyperdecoders (Ivison & Peters 2022, arXiv 2203.08304): the decoder's adapters are made for each instance.

    hyperdecoders = parallel adapter @ encoder feed_forward x shared,
                    parallel adapter @ decoder feed_forward x instance hypernetwork (mean encoder state, layer)

As in the authors' code one set of encoder adapters serves all tasks (`encoder_source: per_task` gives each its own),
norms stay frozen, and b = 64 in both, hidden width 128. Their network reads [MLP(mean) ; 10 numbers of the layer] and
makes tensors of one relu layer; ours goes through the trunk that all hypernetworks here have, with its layer norms.
Their adapters read the normed input or, by default, the un-normed residual (`reads: residual`). Tensors are a row's
own, so no task of it can be baked away; `export --to baked` keeps the network.

Identity: U = 0. Reference: float64 transcription.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.baselines import trained_norms
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Adapter
from hyperpelt.weights.hyper_config import HyperNetworkConfig


@method(
    "hyperdecoders",
    paper="Hyperdecoders, arXiv 2203.08304",
    family="hypernetworks",
    equations="its code",
    reference="transcription",
)
def hyperdecoders(
    *,
    bottleneck: int = 64,
    encoder_bottleneck: int = 64,
    encoder_source: str = "shared",
    reads: str = "input",
    activation: str = "relu",
    embedding_dim: int = 64,
    hidden_dim: int = 128,
    hyper_dim: int = 128,
    init: str = "plain",
    train_norms: bool = False,
) -> Method:
    """Hyperdecoders; **encoder_bottleneck**: width of the encoder's adapters; **encoder_source**: whose they are.

    - **reads**: `input` (normed) or `residual`; the network's settings as in `hyperpelt.weights.HyperNetworkConfig`
    """
    network = HyperNetworkConfig(
        embedding_dim=embedding_dim, hidden_dim=hidden_dim, hyper_dim=hyper_dim, reads=("task", "layer"), init=init
    )
    parts = (
        Part(
            name="encoder_adapter",
            tuner=Adapter(bottleneck=encoder_bottleneck, reads=reads, activation=activation),
            at=("encoder.*.feed_forward",),
            source=encoder_source,
        ),
        Part(
            name="decoder_adapter",
            tuner=Adapter(bottleneck=bottleneck, reads=reads, activation=activation),
            at=("decoder.*.feed_forward",),
            source="instance",
        ),
        *trained_norms(train_norms),
    )
    sources = {"instance": Source(type="instance_hypernetwork", hypernetwork=network)}
    return Method(name="hyperdecoders", parts=parts, sources=sources)
