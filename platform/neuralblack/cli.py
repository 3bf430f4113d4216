"""The command `neuralblack`: one verb per step; each verb imports what it needs, so that --help stays fast."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from neuralblack import __version__
from neuralblack.errors import InputError, RunError
from neuralblack.terminal import (
    print_audit,
    print_checks,
    print_comparison,
    print_crossval,
    print_drift,
    print_results,
    print_rows,
    print_runs,
    print_shadow,
    print_status,
    print_trials,
    progress_bar,
)

app = typer.Typer(
    help="Brain-tumour subtypes from MRI slices: prepare, train, search, evaluate, serve. Research use only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


INTERRUPTED = 130  # the status that typer ends with at Ctrl-C, without a word


def _say_version(asked: bool) -> None:
    """Print the version, where it is asked for, and end."""
    if asked:
        typer.echo(f"neuralblack {__version__}")
        raise typer.Exit


@app.callback()
def no_verb(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version and end.")
    ] = False,
) -> None:
    """Take the options that belong to no verb."""


def _outlives_job(parameter: typer.CallbackParam, value: Path | list[Path] | None) -> Path | list[Path] | None:
    """Refuse relative paths within a job, whose folder goes with it: of what is written, and of scans."""
    from neuralblack.cluster.environment import refuse_relative

    for path in value if isinstance(value, list) else [value] if value else []:
        refuse_relative(path, name=str(parameter.name))
    return value


Set = Annotated[list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of TrainConfig.")]
Registry = Annotated[Path, typer.Option(envvar="NEURALBLACK_REGISTRY", help="The registry's folder.")]
ChangedRegistry = Annotated[
    Path, typer.Option(envvar="NEURALBLACK_REGISTRY", help="The registry's folder.", callback=_outlives_job)
]
Model = Annotated[
    Path | None,
    typer.Option(
        help="A run, a model folder, or a name in the registry: champion (the default), challenger, roi, an id."
    ),
]
Engine = Annotated[str, typer.Option(help="auto, openvino-bf16, eager-fp32...; an unknown one lists them all.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that train together; 0: in this process, to debug.")]
Trials = Annotated[int, typer.Option(min=1, help="Configurations to try.")]
Concurrent = Annotated[int, typer.Option(min=0, help="Trials at a time; 0: as many as there is room for.")]
MinWorkers = Annotated[
    int | None, typer.Option(min=1, help="Go on with so many where a node is lost; none given: wait for all of them.")
]
TrialWorkers = Annotated[int, typer.Option(min=1, help="Workers of one trial.")]
Gpus = Annotated[bool, typer.Option("--gpus", help="One GPU for each worker, or for this process with --workers 0.")]
TrialGpus = Annotated[bool, typer.Option("--gpus", help="One GPU for each worker of a trial.")]
Track = Annotated[list[str], typer.Option("--track", help="Also show epochs in tensorboard or mlflow; again for both.")]
SearchBy = Annotated[str, typer.Option("--search", help="random, or optuna (extra `optuna`).")]
ShareGib = Annotated[
    float,
    typer.Option(min=0, help="Room on each node for what frozen stages say, which trials share; 0: nothing is shared."),
]
Wait = Annotated[float, typer.Option("--wait-for-nodes", min=0, help="Seconds that the autoscaler may take.")]


@app.command()
def prepare(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Folders of .mat files, or of class folders with images.", callback=_outlives_job),
    ],
    out: Annotated[Path, typer.Option(help="The dataset's folder.", callback=_outlives_job)],
    size: Annotated[int, typer.Option(help="Pixels a side that slices are stored with.")] = 256,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without bad files, and list them.")] = False,
) -> None:
    """Read scans into one memory-mapped dataset.

    Example: neuralblack prepare figshare_1512427 --out data/slices
    """
    from neuralblack.data.describe import describe_dataset
    from neuralblack.data.prepare import prepare as prepare_dataset

    with progress_bar("reading slices") as progress:
        dataset = prepare_dataset(sources, out, size=size, skip_bad=skip_bad, progress=progress)
    print_rows(str(out), describe_dataset(dataset))


@app.command()
def describe(path: Annotated[str, typer.Argument(help="A dataset, its shards, a model folder or a run.")]) -> None:
    """Print what is in a dataset, a model folder or a run.

    Example: neuralblack describe data/slices
    """
    from neuralblack.registry.describe import describe as rows_of

    print_rows(path, rows_of(path))


@app.command()
def shard(
    data: Annotated[Path, typer.Argument(help="A prepared dataset.", callback=_outlives_job)],
    out: Annotated[str, typer.Argument(help="A folder on every node, or s3://BUCKET/PREFIX.")],
    slices: Annotated[int, typer.Option(min=1, help="Slices of a shard.")] = 4096,
) -> None:
    """Write a dataset as shards, of which each node fetches what it needs: for more slices than a node can hold.

    Example: neuralblack shard data/slices /mnt/shared/shards
    """
    from neuralblack.cluster.environment import shared_dataset
    from neuralblack.data.dataset import open_dataset
    from neuralblack.data.write_shards import write_shards

    dataset, out = open_dataset(data), shared_dataset(out)
    with progress_bar("writing shards") as progress:
        write_shards(dataset, out, slices=slices, progress=progress)
    typer.echo(f"{len(dataset):,} slices in {-(-len(dataset) // slices):,} shards in {out}")


@app.command()
def export(
    data: Annotated[str, typer.Argument(help="A prepared dataset, or shards of one.")],
    out: Annotated[Path, typer.Argument(help="A new folder.", callback=_outlives_job)],
    layout: Annotated[Literal["class-folders"], typer.Option(help="A folder for each class.")] = "class-folders",
    crop: Annotated[Literal["none", "roi"], typer.Option(help="roi: cut to the outlined tumour.")] = "none",
    margin: Annotated[float, typer.Option(min=0, max=5, help="Around the tumour, a share of its longer side.")] = 0.1,
) -> None:
    """Write a dataset as PNG files in a folder for each class, with slices.csv of patients and folds, for other tools.

    Example: neuralblack export data/slices images --crop roi
    """
    from neuralblack.cluster.environment import shared_dataset
    from neuralblack.data.dataset import open_dataset
    from neuralblack.data.export import export as write

    dataset = open_dataset(shared_dataset(data))
    with progress_bar("writing slices") as progress:
        counts = write(dataset, out, roi=crop == "roi", margin=margin, progress=progress)
    each = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    typer.echo(f"{counts.total():,} slices in {out}: {each}")
    left_out = len(dataset) - counts.total()
    if left_out:
        typer.echo(f"{left_out:,} slices without an outlined tumour are left out")


@app.command()
def runs(folders: Annotated[list[Path], typer.Argument(help="Runs, or folders of runs.")]) -> None:
    """List runs side by side, the best first: state, epochs, numbers, and in which fields they differ.

    Example: neuralblack runs runs
    """
    from neuralblack.registry.runs import differences, runs_under

    found = runs_under(folders)
    print_runs(found, differences(found))


@app.command()
def phantoms(
    out: Annotated[
        Path, typer.Argument(help="A new folder, or one of phantoms, which it replaces.", callback=_outlives_job)
    ],
    patients: Annotated[int, typer.Option(min=4, help="Made-up heads.")] = 40,
    slices: Annotated[int, typer.Option(min=1, help="Neighbouring slices of each head and view.")] = 3,
    size: Annotated[int, typer.Option(min=64, max=2048, help="Pixels a side.")] = 512,  # MAX_SIDE of data/slices.py
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same heads.")] = 0,
) -> None:
    """Write made-up slices: OUT/figshare in the archive's .mat layout and OUT/images in class folders.

    Example: neuralblack phantoms made-up && neuralblack prepare made-up/figshare made-up/images --out data/made-up
    """
    from neuralblack.data.phantoms import write_phantoms

    count = write_phantoms(out, patients=patients, slices=slices, size=size, seed=seed)
    typer.echo(f"wrote {count} slices of {patients} made-up heads to {out}")


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="A prepared dataset, or shards of one.")],
    run: Annotated[str, typer.Argument(help="The run's folder; the same command again goes on.")],
    workers: Workers = 1,
    min_workers: MinWorkers = None,
    gpus: Gpus = False,
    wait_for_nodes: Wait = 0,
    track: Track = [],
    set_: Set = [],
) -> None:
    """Fine-tune a network with Ray Train and DDP.

    Example: neuralblack train data/slices runs/first --set model=efficientnet_lite0 --set epochs=8
    """
    from neuralblack.cluster.train import train_on_cluster
    from neuralblack.config import TrainConfig, with_overrides

    config = with_overrides(TrainConfig(), set_)
    model = train_on_cluster(
        config,
        data=data,
        run=run,
        workers=workers,
        min_workers=min_workers,
        gpus=gpus,
        wait_s=wait_for_nodes,
        track=track,
    )
    typer.echo(f"model {model.id} in {model.path}")


@app.command()
def feedback(
    folder: Annotated[Path, typer.Argument(help="What the service kept: `args: feedback` of its configuration.")],
    data: Annotated[str, typer.Argument(help="The dataset that the champion was trained on, or its shards.")],
    out: Annotated[Path, typer.Option(help="A new dataset of both.", callback=_outlives_job)],
) -> None:
    """Join what readers said to a dataset: slices that are learnt from, and never validated or tested on.

    Left out are patients of the dataset, called as in its file or as its folder is: of any folder of that name.

    Set NEURALBLACK_FEEDBACK_KEY to the service's own key: with another one no patient is found.

    Example: neuralblack feedback feedback data/slices --out data/with-feedback
    """
    from os import environ

    from neuralblack.cluster.environment import shared_dataset
    from neuralblack.data.dataset import open_dataset
    from neuralblack.data.describe import describe_dataset
    from neuralblack.data.feedback import key_from
    from neuralblack.data.join_feedback import join_feedback

    joined = join_feedback(folder, open_dataset(shared_dataset(data)), out, key=key_from(environ))
    print_rows(str(out), describe_dataset(joined))


@app.command()
def forget(
    folder: Annotated[
        Path,
        typer.Argument(help="What the service kept: `args: feedback` of its configuration.", callback=_outlives_job),
    ],
    patient: Annotated[str, typer.Option(prompt=True, help="As readers named it; asked for where it is not given.")],
) -> None:
    """Remove all that readers said of a patient from what the service kept, and the same pictures under other names.

    Set NEURALBLACK_FEEDBACK_KEY to the service's own key: with another one no patient is found.

    Example: neuralblack forget feedback --patient p1
    """
    from os import environ

    from neuralblack.data.feedback import erase_patient, key_from

    erased = erase_patient(folder, patient, key=key_from(environ))
    if erased.named:
        kept = "datasets that they were joined to before, and models of those, are as they were"
        typer.echo(f"{erased.named + erased.same} slices removed; {kept}")
        if erased.same:
            rest = "what else came under such a name is still there: where it is the patient's, forget that name, too"
            typer.echo(f"{erased.same} of them came under another name or none, as the same pictures; {rest}")
    else:
        typer.echo("no slices of this patient were found: it is named otherwise, or the key is not the service's")


@app.command()
def retrain(
    data: Annotated[str, typer.Argument(help="A dataset of the champion's folds and more, as `feedback` writes.")],
    run: Annotated[str, typer.Argument(help="The new run's folder; the same command again goes on.")],
    report: Annotated[Path, typer.Option(help="A new folder for its evaluation.")],
    registry: Registry = Path("registry"),
    promote: Annotated[bool, typer.Option("--promote", help="Ask the gate at once, and promote what passes.")] = False,
    workers: Workers = 1,
    gpus: Gpus = False,
    wait_for_nodes: Wait = 0,
    set_: Set = [],
) -> None:
    """Train the champion on, with its own recipe, evaluate it, and offer it to the gate.

    Example: neuralblack retrain data/with-feedback runs/second --report reports/second --set lr=1e-4
    """
    from neuralblack.cluster.retrain import retrain as retrain_champion

    model, result = retrain_champion(
        data=data,
        run=run,
        registry=registry,
        report=report,
        overrides=set_,
        workers=workers,
        gpus=gpus,
        wait_s=wait_for_nodes,
    )
    print_results(f"{model.id} on {result['slices']} slices of {result['patients']} patients", result)
    typer.echo(f"report {report / 'report.html'}")
    if promote:
        _ask_gate(Path(run), registry, evaluation=report)
    else:
        typer.echo(f"not promoted; the gate: neuralblack promote {run} --evaluation {report} --registry {registry}")


def tune_over(space: Mapping[str, Any] | None = None) -> Callable[..., None]:
    """Make the verb `tune` for a search space, TrainConfig's fields -> what Ray Tune draws; None: DEFAULT_SPACE."""

    def tune(
        data: Annotated[str, typer.Argument(help="A prepared dataset, or shards of one.")],
        run: Annotated[str, typer.Argument(help="The search's folder; the same command again goes on.")],
        trials: Trials = 8,
        search_by: SearchBy = "random",
        concurrent: Concurrent = 0,
        workers: TrialWorkers = 1,
        gpus: TrialGpus = False,
        wait_for_nodes: Wait = 0,
        share_gib: ShareGib = 16,
        track: Track = [],
        set_: Set = [],
    ) -> None:
        """Search learning rates, unfreeze schedule, loss, views and more with Ray Tune and ASHA.

        Values are drawn from DEFAULT_SPACE of cluster/space.py, in jobs/tune.py from SPACE at its top. A field that
        --set gives is not searched.

        Example: neuralblack tune data/slices runs/search --trials 16 --set epochs=8
        """
        from neuralblack.cluster.space import DEFAULT_SPACE, with_fixed
        from neuralblack.cluster.tune import tune_on_cluster

        config, searched = with_fixed(set_, DEFAULT_SPACE if space is None else space)
        model, rows = tune_on_cluster(
            config,
            data=data,
            run=run,
            space=searched,
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

    return tune


app.command("tune")(tune_over())


@app.command()
def crossval(
    data: Annotated[str, typer.Argument(help="A prepared dataset, or shards of one.")],
    run: Annotated[str, typer.Argument(help="A folder for all runs; the same command again does what is missing.")],
    seeds: Annotated[int, typer.Option(min=1, help="Runs for each fold, with seeds 0, 1, ...")] = 1,
    refit: Annotated[bool, typer.Option(help="Then fit each again on every fold but the tested one.")] = True,
    gpus: Annotated[bool, typer.Option("--gpus", help="One GPU for each run.")] = False,
    wait_for_nodes: Wait = 0,
    set_: Set = [],
) -> None:
    """Test every fold once with every seed, runs side by side on whatever the cluster has, and write one table.

    An epoch is chosen on the fold behind the tested one; then the same configuration is fitted on all the others, too.

    Example: neuralblack crossval data/slices runs/crossval --seeds 3 --set model=efficientnet_lite0
    """
    from neuralblack.cluster.crossval import PAGE, cross_validate
    from neuralblack.config import TrainConfig, with_overrides

    config = with_overrides(TrainConfig(), set_)
    table = cross_validate(config, data=data, run=run, seeds=seeds, refit=refit, gpus=gpus, wait_s=wait_for_nodes)
    print_crossval(table)
    typer.echo(f"table {Path(run) / PAGE}")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run, a model folder, or a model of the registry, such as champion.")],
    data: Annotated[str, typer.Argument(help="A prepared dataset, or shards of one.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for report.html, README.md, metrics.json, predictions.parquet.", callback=_outlives_job
        ),
    ],
    folds: Annotated[
        list[int] | None,
        typer.Option(help="Folds to evaluate on; none given: the run's test folds, or all of another dataset."),
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Also fit simpler means: size, frame, 1-NN, linear probe.")] = True,
    trained_on: Annotated[
        str | None, typer.Option(help="The run's dataset, where DATA is another: to look for copies, and baselines.")
    ] = None,
    skip_copies: Annotated[bool, typer.Option(help="Leave out copies of slices that the model learnt from.")] = False,
    closer: Annotated[
        int, typer.Option(min=0, help="Slices to disturb in 30 ways and to draw heat maps of; 0: not measured.")
    ] = 0,
    record_wise: Annotated[
        bool, typer.Option(help="Also train this recipe on a split by records, to show what a leak would add.")
    ] = False,
    registry: Registry = Path("registry"),
    engine: Engine = "auto",
) -> None:
    """Measure a model on patients that it was not chosen on, and write a report.

    Example: neuralblack evaluate runs/first data/slices --out reports/first
    """
    from neuralblack.evaluation.evaluate import check_out
    from neuralblack.evaluation.held_out import evaluate_held_out
    from neuralblack.inference.predictor import Predictor
    from neuralblack.registry.aliases import named_model

    check_out(out)  # before an engine is built, which takes a minute
    predictor = Predictor.load(named_model(model, registry), engine=engine)
    with progress_bar("classifying") as progress:
        result = evaluate_held_out(
            predictor,
            data,
            out,
            folds=folds,
            with_baselines=baselines,
            trained_on=trained_on,
            skip_copies=skip_copies,
            closer=closer,
            record_wise=record_wise,
            progress=progress,
        )
    print_results(f"{predictor.name} on {result['slices']} slices of {result['patients']} patients", result)
    typer.echo(f"report {out / 'report.html'}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="What `evaluate` wrote of a model.")],
    second: Annotated[Path, typer.Argument(help="The same of another, on the same slices.")],
) -> None:
    """Put two evaluations of the same slices side by side, each difference with its interval.

    Example: neuralblack compare reports/first reports/second
    """
    from neuralblack.evaluation.compare import compare as compare_evaluations

    print_comparison(compare_evaluations(first, second))


@app.command()
def predict(
    images: Annotated[
        list[Path], typer.Argument(help="Slices: PNG, JPEG, TIFF, .mat, DICOM or NIfTI; -: one from standard input.")
    ],
    model: Model = None,
    registry: Registry = Path("registry"),
    engine: Engine = "auto",
    box: Annotated[
        str | None,
        typer.Option(metavar="X0,Y0,X1,Y1", help="The tumour in one file, in its pixels: for a model of input roi."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="A JSON line for each file, with the fields of POST /predict.")
    ] = False,
) -> None:
    """Classify image files, a line for each: file, class, probability; or file, "refused" or "unreadable", why.

    Where its prediction set holds other classes, too, they are a fourth column: or glioma, pituitary (95%). So often
    the true class of a new patient's slice is among all that are named.

    Status 2 where one could not be read. A whole folder: python jobs/predict.py FOLDER OUT

    Example: neuralblack predict scan.png --model runs/first
    """
    from json import dumps

    from neuralblack.data.slices import box_from
    from neuralblack.inference.by_file import classify_files, words_of
    from neuralblack.registry.aliases import named_model
    from neuralblack.registry.model_folder import model_path, open_model
    from neuralblack.service.answers import NOTICE, named, result

    tumour, unreadable = box_from(box) if box is not None else None, 0
    folder = open_model(model_path(named_model(model, registry)))
    facts = {
        "model": named({"name": folder.id, "hash": folder.hash}),
        "preprocessing": folder.spec.version,
        "notice": NOTICE,
    }
    for image, answer in classify_files(images, folder, engine=engine, box=tumour):
        if isinstance(answer, InputError):
            unreadable += 1
            row = {"file": str(image), "status": "unreadable", "error": str(answer)}
            typer.echo(dumps(row) if json else "\t".join(row.values()))
        elif json:
            typer.echo(dumps({"file": str(image), **result(answer), **facts}))
        else:
            typer.echo("\t".join([str(image), *words_of(answer)]))
    if unreadable:
        raise SystemExit(2)


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="A run, or its model folder.", callback=_outlives_job)],
    data: Annotated[str, typer.Argument(help="The dataset that it was trained on.")],
) -> None:
    """Add an int8 network for OpenVINO to a model, if it keeps macro-F1 within 0.2 points and every golden slice.

    Example: neuralblack quantize runs/first data/slices
    """
    from neuralblack.inference.quantize import quantize as quantize_model

    folder = quantize_model(model, data)
    facts = folder.card["int8"]
    typer.echo(f"macro-F1 {facts['macro_f1_int8']:.4f} in int8, {facts['macro_f1_fp32']:.4f} in fp32")
    typer.echo(f"model {folder.id} in {folder.path}")


@app.command()
def promote(
    run: Annotated[Path, typer.Argument(help="A run, or a model folder.")],
    registry: ChangedRegistry = Path("registry"),
    evaluation: Annotated[Path | None, typer.Option(help="What `evaluate` wrote of this run.")] = None,
    champion_evaluation: Annotated[
        Path | None, typer.Option(help="Of the champion, on the same slices; none given: what it was promoted with.")
    ] = None,
    rule: Annotated[
        list[str],
        typer.Option(
            metavar="FIELD=VALUE", help="Change a number of the gate: metric, margin, most_ece, least_patients."
        ),
    ] = [],
    force: Annotated[str, typer.Option(metavar="REASON", help="Go past the gate; the reason is kept.")] = "",
) -> None:
    """Make a run's model the champion, if it beats the baselines and is not worse than the champion.

    Example: neuralblack promote runs/first --evaluation reports/first --registry registry
    """
    _ask_gate(run, registry, evaluation=evaluation, champions=champion_evaluation, overrides=rule, force=force)


@app.command()
def challenger(
    run: Annotated[Path, typer.Argument(help="A run, or a model folder.")],
    registry: ChangedRegistry = Path("registry"),
) -> None:
    """Make a run's model the challenger, which may answer behind the champion (`shadow:` in a service's configuration).

    Example: neuralblack challenger runs/second --registry registry
    """
    from neuralblack.registry.promotion import name_challenger

    model = name_challenger(run, registry)
    typer.echo(f"challenger {model.id} in {model.path}")


@app.command()
def shadow(
    folder: Annotated[Path, typer.Argument(help="A challenger's folder below `shadow_records` of the service.")],
    json: Annotated[bool, typer.Option("--json", help="All numbers as one JSON object.")] = False,
) -> None:
    """Sum up what a challenger said behind the champion.

    Example: neuralblack shadow shadow/efficientnet_lite0-0123456789ab
    """
    from json import dumps

    from neuralblack.evaluation.shadow import summarise_shadow

    found = summarise_shadow(folder)
    if json:
        typer.echo(dumps(found))
    else:
        print_shadow(found)


@app.command()
def drift(
    metrics: Annotated[list[str], typer.Argument(help="What /metrics said, files; or addresses of replicas to ask.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for drift.html and drift.json.", callback=_outlives_job)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="All numbers as one JSON object.")] = False,
) -> None:
    """Compare the slices that a service was asked with those that its model learnt from.

    Example: neuralblack drift http://127.0.0.1:8000 --out drift
    """
    from json import dumps
    from os import environ

    from neuralblack.evaluation.drift import in_words, measure_drift, write_drift
    from neuralblack.service.client import metrics_of

    found = measure_drift({where: metrics_of(where, token=environ.get("NEURALBLACK_TOKEN")) for where in metrics})
    if out:
        write_drift(found, out)
    if json:
        typer.echo(dumps(found))
    else:
        print_drift(found)
        typer.echo(in_words(found))
    if out and not json:
        typer.echo(f"report {out / 'drift.html'}")


@app.command()
def rollback(
    registry: ChangedRegistry = Path("registry"),
    name: Annotated[Literal["champion", "roi"], typer.Option(help="roi: the model of marked tumours.")] = "champion",
) -> None:
    """Make the champion of before the newest promotion the champion again; once more goes one further back.

    Example: neuralblack rollback --registry registry
    """
    from neuralblack.registry.aliases import SERVE_ANEW
    from neuralblack.registry.promotion import roll_back

    before, after = roll_back(registry, alias=name)
    typer.echo(f"{name} {after}, no longer {before}")
    typer.echo(f"a service that runs keeps its model: {SERVE_ANEW}")


@app.command()
def audit(registry: Registry = Path("registry")) -> None:
    """List who made which model the champion, when and why, and check that no line was changed.

    Example: neuralblack audit --registry registry
    """
    from neuralblack.registry.promotion import check_audit

    print_audit(check_audit(registry))


@app.command()
def serve(
    config: Annotated[Path, typer.Argument(help="serve_configs/local.yaml, production.yaml, or your own.")],
    registry: Annotated[
        Path | None,
        typer.Option(envvar="NEURALBLACK_REGISTRY", help="The registry's folder; none given: as the file says."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="The interface to listen on; none given: loopback; with --resolved as the file says."),
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="None given: as the file says.")] = None,
    resolved: Annotated[
        Path | None, typer.Option(help="Only write the configuration with the champion's hash, for `serve deploy`.")
    ] = None,
) -> None:
    """Serve the champion: the page at /, POST /predict, /health and /ready, until Ctrl-C.

    Example: neuralblack serve serve_configs/local.yaml --registry registry
    """
    if resolved:
        from neuralblack.cluster.serve_config import write_resolved

        model = write_resolved(config, resolved, registry=registry, host=host, port=port)
        typer.echo(f"wrote {resolved} for {model}; deploy it with: serve deploy {resolved}")
        return
    from neuralblack.cluster.serve_here import serve_here

    serve_here(
        config, registry=registry, host=host, port=port, ready=lambda address: typer.echo(f"serving at {address}")
    )


@app.command()
def status(
    service: Annotated[str, typer.Argument(help="The service's address.")] = "http://127.0.0.1:8000",
    registry: Annotated[
        Path | None,
        typer.Option(envvar="NEURALBLACK_REGISTRY", help="The registry's folder; none given: ./registry, if there."),
    ] = None,
    dashboard: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_API_SERVER_ADDRESS",
            help="Of the Ray cluster that serves, http://127.0.0.1:8265: every replica. To be run on one of its nodes.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="All of it as one JSON object.")] = False,
) -> None:
    """Show what runs where: champion and challenger, replicas, what they work on, what failed last. Status 1: trouble.

    Example: neuralblack status http://127.0.0.1:8000 --registry registry
    """
    from json import dumps
    from os import environ

    from neuralblack.cluster.status import status_of

    here = Path("registry")
    found = status_of(
        registry=registry or (here if here.is_dir() else None),
        service=service.rstrip("/"),
        dashboard=dashboard and dashboard.rstrip("/"),
        token=environ.get("NEURALBLACK_TOKEN"),
    )
    if json:
        typer.echo(dumps(found))
    else:
        print_status(found)
    if found["troubles"]:
        raise SystemExit(1)


def _ask_gate(
    run: Path,
    registry: Path,
    *,
    evaluation: Path | None,
    champions: Path | None = None,
    overrides: Sequence[str] = (),
    force: str = "",
) -> None:
    """Promote a run's model, if it passes, and say so; arguments as `challenge`."""
    from neuralblack.evaluation.challenge import challenge
    from neuralblack.registry.aliases import SERVE_ANEW, alias_for

    model, judgement = challenge(
        run, registry, evaluation=evaluation, champions=champions, overrides=overrides, force=force
    )
    print_checks(judgement.as_json())
    typer.echo(f"{alias_for(model)} {model.id} in {model.path}")
    typer.echo(f"a service that runs keeps its model: {SERVE_ANEW}")


def run_verb(verb: Callable[[], object]) -> None:
    """Run a command line. What people can mend is one line on stderr: status 2 for input, 1 for a failed run.

    Ctrl-C is a line as well, and status 130 where a verb does not say more of it.
    """
    from neuralblack.cluster.environment import set_environment

    set_environment()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("neuralblack").setLevel(logging.INFO)
    try:
        verb()
    except (InputError, RunError) as error:
        typer.secho(f"neuralblack: {error}", fg="red", err=True)
        raise SystemExit(2 if isinstance(error, InputError) else 1) from None
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        typer.secho("neuralblack: interrupted", fg="red", err=True)
        raise SystemExit(INTERRUPTED) from None


def main() -> None:
    """Entry point of the command."""
    run_verb(app)
