r"""Train the champion on with what readers said, on the cluster, and write its report; the gate comes after.

ray job submit --working-dir . --runtime-env jobs/env.yaml -- \
    python jobs/retrain.py /mnt/shared/with-feedback /mnt/shared/runs/second --registry /mnt/shared/registry \
    --report /mnt/shared/reports/second --gpus --wait-for-nodes 900
"""

from functools import partial

import typer

from neuralblack.cli import retrain, run_verb

if __name__ == "__main__":
    run_verb(partial(typer.run, retrain))
