"""The parts of `scripts/pretrain`: text -> tokens -> self-supervised examples -> a small backbone."""
