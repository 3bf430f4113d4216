r"""Search on the cluster; SPACE is the place to change what is searched.

ray job submit --working-dir . --runtime-env jobs/env.yaml -- \
    python jobs/tune.py /mnt/shared/slices /mnt/shared/runs/search --trials 32 --gpus \
    --wait-for-nodes 900 --set epochs=12
"""

from functools import partial
from typing import Annotated

import typer

from neuralblack.cli import Concurrent, Gpus, SearchBy, Set, ShareGib, Track, Trials, TrialWorkers, Wait, run_verb
from neuralblack.cluster.space import DEFAULT_SPACE, with_fixed
from neuralblack.cluster.tune import tune_on_cluster
from neuralblack.terminal import print_trials

# Or your own, with `from ray import tune` below the imports above:
# {"lr": tune.loguniform(1e-4, 1e-2), "loss": tune.grid_search([...])}
SPACE = DEFAULT_SPACE


def search(
    data: Annotated[str, typer.Argument(help="A prepared dataset, or shards of one.")],
    run: Annotated[str, typer.Argument(help="The search's folder; a run with the best trial's model.")],
    trials: Trials = 8,
    search_by: SearchBy = "random",
    concurrent: Concurrent = 0,
    workers: TrialWorkers = 1,
    gpus: Gpus = False,
    wait_for_nodes: Wait = 0,
    share_gib: ShareGib = 16,
    track: Track = [],
    set_: Set = [],
) -> None:
    """Search learning rate, schedule and more on the cluster; the same command goes on with a search that ended early.

    SPACE in this file is the place for another search space. Example:
    python jobs/tune.py /mnt/shared/slices /mnt/shared/runs/search --trials 32 --gpus --wait-for-nodes 900
    """
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
        track=track,
    )
    print_trials(rows)
    typer.echo(f"model {model.id} in {model.path}")


if __name__ == "__main__":
    run_verb(partial(typer.run, search))
