r"""Search on the cluster; SPACE is the place to change what is searched.

ray job submit --working-dir . --runtime-env jobs/env.yaml -- \
    python jobs/tune.py /mnt/shared/slices /mnt/shared/runs/search --trials 32 --gpus --set epochs=12
"""

from functools import partial

import typer

from neuralblack.cli import Concurrent, Gpus, SearchBy, Set, ShareGib, Trials, TrialWorkers, Wait, run_verb
from neuralblack.cluster.space import DEFAULT_SPACE, with_fixed
from neuralblack.cluster.tune import tune_on_cluster
from neuralblack.terminal import print_trials

SPACE = DEFAULT_SPACE  # or your own: {"lr": tune.loguniform(1e-4, 1e-2), "lr_decay": tune.choice([1.5, 2.6])}


def search(
    data: str,
    run: str,
    trials: Trials = 8,
    search_by: SearchBy = "random",
    concurrent: Concurrent = 0,
    workers: TrialWorkers = 1,
    gpus: Gpus = False,
    wait_for_nodes: Wait = 0,
    share_gib: ShareGib = 16,
    set_: Set = [],
) -> None:
    """Read the choices, name the run, hand over."""
    config, space = with_fixed(set_, SPACE)
    model, rows = tune_on_cluster(
        config,
        data=data,
        run=run,
        space=space,
        trials=trials,
        search=search_by,
        concurrent=concurrent,
        workers=workers,
        gpus=gpus,
        wait_s=wait_for_nodes,
        share_gib=share_gib,
    )
    print_trials(rows)
    typer.echo(f"model {model.id} in {model.path}")


if __name__ == "__main__":
    run_verb(partial(typer.run, search))
