r"""Train on the cluster.

ray job submit --working-dir . --runtime-env jobs/env.yaml -- \
    python jobs/train.py /mnt/shared/slices /mnt/shared/runs/first --workers 4 --gpus \
    --wait-for-nodes 900 --set epochs=20
"""

from functools import partial

import typer

from neuralblack.cli import run_verb, train

if __name__ == "__main__":
    run_verb(partial(typer.run, train))
