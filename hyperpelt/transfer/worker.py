"""A worker process of `hyperpelt transfer --processes N`: `python -m hyperpelt.transfer.worker REQUEST.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hyperpelt.errors import UserError, of_the_machine
from hyperpelt.files.damage import of_files


def main() -> int:
    """Do this process's share of the cells; the exit status is the command line's."""
    from hyperpelt.backbones.quiet import quiet_transformers
    from hyperpelt.transfer.run import work
    from hyperpelt.transfer.settings import TransferConfig

    quiet_transformers()
    try:
        request = json.loads(Path(sys.argv[1]).read_text(encoding="utf8"))
        work(TransferConfig.model_validate(request["config"]), request["cells"])
    except Exception as error:
        sentence = str(error) if isinstance(error, UserError) else of_files(error) or of_the_machine(error)
        if sentence is None:
            raise
        print(f"hyperpelt: {sentence}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
