"""Plain sentences of the world for pretraining: what the tasks say, never what they answer.

python -m hyperpelt_tasks.tabletop --sentences 100000 --seed 0 > world.txt
"""

from __future__ import annotations

import argparse
import sys

from hyperpelt_tasks.tabletop.corpus import sentences


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hyperpelt_tasks.tabletop", description=__doc__)
    parser.add_argument("--sentences", type=int, default=1000, help="how many lines to print")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other lines")
    options = parser.parse_args()
    try:
        for line in sentences(options.sentences, seed=options.seed):
            sys.stdout.write(line + "\n")
    except BrokenPipeError:
        sys.stderr.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
