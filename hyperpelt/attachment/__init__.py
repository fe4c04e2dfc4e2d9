"""How tuners sit on a frozen backbone, and one pass over it.

The walls of this room: switch (what is attached to a backbone, and the pass that is running), hooks (at operations),
joined_attention (prefixes inside the attention function), encoder_input (rows before the embedded input), recomputation
(activation checkpointing), passes (which row gets which tensors), kept (what attentions ask for again), row_images
(which images are whose), calibration (the backbone's own activations, from which some tensors start).
"""
