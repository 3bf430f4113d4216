r"""Search on the cluster; SPACE is the place to change what is searched.

ray job submit --working-dir . --runtime-env jobs/env.yaml -- \
    python jobs/tune.py /mnt/shared/slices /mnt/shared/runs/search --trials 32 --gpus --set epochs=12
"""

from functools import partial

import typer

from neuralblack.cli import Concurrent, Gpus, Set, Trials, TrialWorkers, Wait, run_verb
from neuralblack.cluster.tune import DEFAULT_SPACE, config_of, tune_on_cluster
from neuralblack.terminal import print_trials

SPACE = DEFAULT_SPACE  # or your own: {"lr": tune.loguniform(1e-4, 1e-2), "lr_decay": tune.choice([1.5, 2.6])}


def search(
    data: str,
    run: str,
    trials: Trials = 8,
    concurrent: Concurrent = 0,
    workers: TrialWorkers = 1,
    gpus: Gpus = False,
    wait_for_nodes: Wait = 0,
    set_: Set = [],
) -> None:
    """Read the choices, name the run, hand over."""
    model, rows = tune_on_cluster(
        config_of(set_, SPACE),
        data=data,
        run=run,
        space=SPACE,
        trials=trials,
        concurrent=concurrent,
        workers=workers,
        gpus=gpus,
        wait_s=wait_for_nodes,
    )
    print_trials(rows)
    typer.echo(f"model {model.id} in {model.path}")


if __name__ == "__main__":
    run_verb(partial(typer.run, search))
