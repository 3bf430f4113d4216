r"""Classify a folder, a Parquet or Arrow file, a prepared dataset or shards of one on the cluster; again goes on.

ray job submit --working-dir . --runtime-env jobs/env.yaml -- \
    python jobs/predict.py /mnt/shared/scans /mnt/shared/answers \
    --registry /mnt/shared/registry --gpus --wait-for-nodes 900

On one machine, without a cluster: python jobs/predict.py scans answers --registry registry
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from neuralblack.cli import Engine, Gpus, Model, Registry, Wait, run_verb
from neuralblack.cluster.batch_predict import classify_all
from neuralblack.cluster.environment import shared_path
from neuralblack.registry.aliases import is_name, named_model
from neuralblack.terminal import print_rows, progress_bar


def predict(
    source: Annotated[
        str, typer.Argument(help="A folder of slices; Parquet or Arrow files; a prepared dataset; shards.")
    ],
    out: Annotated[str, typer.Argument(help="The results' folder; the same command again goes on.")],
    model: Model = None,
    registry: Registry = Path("registry"),
    engine: Engine = "auto",
    column: Annotated[str | None, typer.Option(help="A table's column with the bytes of files.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Models at work; none given: one a CPU or GPU there is, or with --wait-for-nodes that cluster.yaml "
            "allows; 0: in this process.",
        ),
    ] = None,
    gpus: Gpus = False,
    wait_for_nodes: Wait = 0,
) -> None:
    """Classify a folder of slices, Parquet or Arrow files, a prepared dataset or shards; the same command goes on.

    Example: python jobs/predict.py scans answers --registry registry
    """
    if model is None or is_name(model):  # else the registry is not looked into
        registry = shared_path(registry, name="registry")
    with progress_bar("classifying") as progress:
        result = classify_all(
            source,
            out,
            model=named_model(model, registry),
            engine=engine,
            column=column,
            workers=workers,
            gpus=gpus,
            wait_s=wait_for_nodes,
            progress=progress,
        )
    counts = {**result["statuses"], **result["labels"]}
    print_rows(out, [("slices", str(result["items"])), *((name, str(count)) for name, count in counts.items())])
    typer.echo(f"answers in {out}/parts, counted in {out}/summary.json")


if __name__ == "__main__":
    run_verb(partial(typer.run, predict))
