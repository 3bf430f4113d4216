r"""Cross-validate on the cluster: five folds, each tested once with every seed.

ray job submit --working-dir . --runtime-env jobs/env.yaml -- \
    python jobs/crossval.py /mnt/shared/slices /mnt/shared/runs/crossval --seeds 3 --gpus \
    --wait-for-nodes 900 --set epochs=12
"""

from functools import partial

import typer

from neuralblack.cli import crossval, run_verb

if __name__ == "__main__":
    run_verb(partial(typer.run, crossval))
