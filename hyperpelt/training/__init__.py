"""Joint training of one method on many tasks: `train(config)` makes a run folder.

    from hyperpelt.config import load_run
    results = train(load_run("scripts/glue_cpu.yaml", ["output_dir=runs/first"]))

The run folder: `config.json` and `model.safetensors` (what `TunedModel.from_pretrained` loads), `results.json`,
`run.yaml` (every setting), `tensorboard/`, `checkpoints/step-N/` (for `resume`). The same call trains with one process
or with many, under `accelerate launch` or torchrun.

The walls of this room: run (the whole), setup (all before the first step), loop (steps, evaluations, saving),
folder (what is there already), resuming (what a resumed run may change), checkpoints, optimisation, objective,
distributed, step_records, callbacks (who is told), progress (the screen), tracking (TensorBoard and others),
interrupts (Ctrl-C).
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
