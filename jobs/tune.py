r"""Search on the cluster; SPACE is the place to change what is searched.

ray job submit --working-dir . --runtime-env jobs/env.yaml -- \
    python jobs/tune.py /mnt/shared/slices /mnt/shared/runs/search --trials 32 --gpus \
    --wait-for-nodes 900 --set epochs=12
"""

from functools import partial

import typer

from neuralblack.cli import run_verb, tune_over
from neuralblack.cluster.space import DEFAULT_SPACE

# Or your own, with `from ray import tune` below the imports above:
# {"lr": tune.loguniform(1e-4, 1e-2), "loss": tune.grid_search([...])}
SPACE = DEFAULT_SPACE

if __name__ == "__main__":
    run_verb(partial(typer.run, tune_over(SPACE)))
