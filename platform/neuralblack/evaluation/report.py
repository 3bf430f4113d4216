"""The report of an evaluation: one HTML file that needs nothing else, for a screen in light or dark and for paper."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.dataset import Dataset
from neuralblack.evaluation import doubts
from neuralblack.evaluation.bootstrap import DRAWS
from neuralblack.evaluation.charts import curves, judgement_charts
from neuralblack.evaluation.closer import Explain
from neuralblack.evaluation.patients import VERDICT, Slices
from neuralblack.evaluation.pictures import choose_examples, example
from neuralblack.evaluation.words import between, percent
from neuralblack.files import write_bytes

NOTICE = "Research use only: not a medical device, and no prediction here is a diagnosis."
COLUMNS = {
    "sensitivity": "TP / (TP + FN): of the slices of this class, the share that was found",
    "specificity": "TN / (TN + FP): of the other slices, the share that was not taken for it",
    "precision": "TP / (TP + FP): of the slices taken for this class, the share that was",
    "f1": "the harmonic mean of sensitivity and precision",
    "auroc": "the chance that a slice of this class gets a higher score than one of another",
}
NUMBERS = {
    "accuracy": ("accuracy", "the share that was right"),
    "balanced_accuracy": ("balanced accuracy", "the mean sensitivity to the classes"),
    "macro_f1": ("macro F1", "the mean F1 of the classes"),
    "mcc": ("MCC", "Matthews' correlation of true and predicted classes: 0 by chance, 1 when all is right"),
    "log_loss": ("log loss", "in nats; lower is better"),
    "brier": ("Brier score", "squared errors summed over classes: 0 at best, 2 at worst"),
    "ece": ("calibration error", "how far the top probability is from the share that was right"),
    "accuracy_at_90": ("accuracy at 90% coverage", "of the nine tenths that the model is surest of"),
}
SHARES = {"accuracy", "balanced_accuracy", "macro_f1", "accuracy_at_90"}
EXAMPLES = 6  # of each kind


def write_report(
    path: Path,
    result: Mapping[str, Any],
    dataset: Dataset,
    rows: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    *,
    history: Sequence[Mapping[str, Any]] | None = None,
    split: Mapping[str, Any] | None = None,
    explain: Explain | None = None,
    making: Mapping[str, str] = {},
) -> None:
    """Write the report.

    Args:
        path: the HTML file.
        result: what `evaluate` returns.
        dataset: whose slices are shown; their ids are, their patients are not.
        rows: (N,) the rows that were judged, and `probabilities` (N, K) what the model said of them.
        history: the training's epochs, for the curves.
        split: the split's manifest.
        explain: draws the heat maps of the slices shown; none given: there are none.
        making: how the model was made (`making.facts_of_making`).
    """
    sections = [
        doubts.alarm(result),
        _opening(result),
        _certainty(result),
        _confusion(result),
        _per_class(result),
        _charts(result["classes"], dataset, rows, probabilities),
        doubts.ledger(result),
        doubts.parts(result),
        doubts.robustness(result),
        doubts.gaze(result),
        _curves(history),
        _examples(result["classes"], dataset, rows, probabilities, explain),
        _making(making),
        _facts(result, dataset, split),
    ]
    page = Template(Path(__file__).with_name("report.html").read_text("utf-8"))
    title = f"Evaluation of {result['model']['name']}"
    write_bytes(path, page.substitute(title=escape(title), body="\n".join(sections)).encode())


def _opening(result: Mapping[str, Any]) -> str:
    right = sum(row[index] for index, row in enumerate(result["confusion"]))
    found = {name: one["sensitivity"] for name, one in result["per_class"].items() if one["sensitivity"] is not None}
    weakest = min(found, key=lambda name: found[name])
    rivals = {name: one["accuracy"] for name, one in result["baselines"].items()}
    beside = ""
    if rivals:
        best = max(rivals, key=lambda name: rivals[name])
        beside = f" The best baseline, {escape(best)}, reaches {percent(rivals[best])}."
    cards = {
        "accuracy": percent(result["accuracy"]),
        "macro F1": percent(result["macro_f1"]),
        "accuracy, patients": percent(result["by_patient"]["accuracy"]),
        "calibration error": _number("ece", result["ece"]),
        "classes in a prediction set": f"{result['prediction_sets']['mean_size']:.2f}",
        "true class in the set": percent(result["prediction_sets"]["covered"]),
        "refused by the gate": f"{result['refused']:,}",
        "slices": f"{result['slices']:,}",
        "patients": f"{result['patients']:,}",
    }
    figures = "".join(f'<div class="card"><b>{value}</b><span>{name}</span></div>' for name, value in cards.items())
    bounds = result["intervals"]["accuracy"]
    elsewhere = f"; with other patients of the same kind it would be {between(bounds)} (95% interval)" if bounds else ""
    return (
        f"<h1>{escape(result['model']['name'])}</h1>"
        f'<p class="soft">Evaluated on {datetime.now(UTC):%d %B %Y}</p>'
        f'<p class="lead">Of {result["slices"]:,} slices from {result["patients"]:,} patients the model classed '
        f"<strong>{right:,} rightly ({percent(result['accuracy'])})</strong>{elsewhere}. It is weakest on "
        f"{escape(weakest)}, of which it found {percent(found[weakest])}.{beside}</p>"
        f'<p class="notice" role="note">{NOTICE}</p><div class="cards">{figures}</div>'
    )


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "n/a"
    return percent(value) if name in SHARES else f"{value:.3f}"


def _certainty(result: Mapping[str, Any]) -> str:
    patients = result["by_patient"]
    lines = []
    for name, (heading, meaning) in NUMBERS.items():
        cells = ""
        for part in (result, patients):
            interval = between(part["intervals"][name], shares=name in SHARES)
            cells += f"<td><b>{_number(name, part[name])}</b></td><td>{interval}</td>"
        lines.append(f'<tr><th scope="row" title="{escape(meaning)}">{heading}</th>{cells}</tr>')
    meanings = "; ".join(f"<em>{heading}</em>: {escape(meaning)}" for heading, meaning in NUMBERS.values())
    others = ", ".join(f"{name} {percent(one['accuracy'])}" for name, one in patients["alternatives"].items())
    before = result["uncalibrated"]
    unnamed, of_whom = "", "patients"
    if result["unnamed_patients"]:
        unnamed = (
            f" {result['unnamed_patients']:,} of the {result['patients']:,} patients are groups of near-duplicates, "
            "because their files name no patient: one person may be several of them, and then intervals are too narrow."
        )
    if more := patients["slices"] - result["patients"]:
        of_whom = "verdicts on patients"
        unnamed += (
            f" There are {more:,} verdicts more than the {result['patients']:,} patients, because some have slices of "
            "two classes, such as near-duplicates under two class folders, and a verdict for each."
        )
    return (
        "<h2>The numbers, and how certain they are</h2><div class='sheet'><table><thead><tr><th scope='col'></th>"
        f"<th scope='col'>{result['slices']:,} slices</th><th scope='col'>95% interval</th>"
        f"<th scope='col'>{patients['slices']:,} {of_whom}</th><th scope='col'>95% interval</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div><p class='soft'>{meanings}.</p>"
        f"<p class='soft'>Intervals by drawing patients anew {DRAWS:,} times (percentile bootstrap, of the calibration "
        "error the basic one): slices of one patient resemble each other. Where no draw differs there is none: what "
        f"went wrong nowhere says nothing of how often it would.{unnamed} "
        f"A patient's verdict is the {VERDICT} of its slices; by other rules its accuracy is: {escape(others)}. "
        f"Before the temperature of {before['temperature']:.2f} the calibration error was "
        f"{before['ece']:.3f} and the log loss {before['log_loss']:.3f}.</p>"
    )


def _charts(
    classes: Sequence[str], dataset: Dataset, rows: NDArray[np.int64], probabilities: NDArray[np.floating]
) -> str:
    labels = np.array([classes.index(dataset.labels[row]) for row in rows])
    slices = Slices(labels, probabilities, [dataset.patients[row] for row in rows])
    return f"<h2>What its probabilities are worth</h2><figure>{judgement_charts(slices, classes)}</figure>"


def _confusion(result: Mapping[str, Any]) -> str:
    names = [escape(name) for name in result["classes"]]
    lines = []
    for true, counts in enumerate(result["confusion"]):
        whole = sum(counts)
        cells = ""
        for given, count in enumerate(counts):
            share = count / whole if whole else 0.0
            colour = f"rgba(var(--{'hit' if true == given else 'miss'}), {0.06 + 0.5 * share:.3f})"
            part = percent(share if whole else None)
            cells += f'<td style="background: {colour}"><b>{count:,}</b><span>{part}</span></td>'
        lines.append(f'<tr><th scope="row">{names[true]}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        "<h2>Confusion matrix</h2><p class='soft'>Rows are the true classes, columns what the model said. "
        "Shares are of the row, so the diagonal shows each class's sensitivity.</p>"
        f'<div class="sheet"><table class="confusion"><thead><tr><th scope="col">true \\ predicted</th>{heads}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _per_class(result: Mapping[str, Any]) -> str:
    lines = []
    for name, one in result["per_class"].items():
        counts = "".join(f"<td>{one[key]:,}</td>" for key in ("slices", "tp", "fp", "fn", "tn"))
        bounds = result["intervals"]["per_class"][name]
        values = "".join(
            f"<td>{_value(key, one[key])}<small>{between(bounds[key], shares=key != 'auroc')}</small></td>"
            for key in COLUMNS
        )
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{counts}{values}</tr>')
    names = ["slices", "TP", "FP", "FN", "TN", *("F1" if key == "f1" else key for key in COLUMNS)]
    heads = "".join(f'<th scope="col">{"AUROC" if name == "auroc" else name}</th>' for name in names)
    meanings = "; ".join(
        f"<em>{'AUROC' if key == 'auroc' else key.replace('f1', 'F1')}</em>: {text}" for key, text in COLUMNS.items()
    )
    return (
        f'<h2>Class by class</h2><div class="sheet"><table><thead><tr><th scope="col">class</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div><p class='soft'>Each class against all others. {meanings}. "
        "Below each its 95% interval. n/a: no slice to measure it on.</p>"
    )


def _value(key: str, value: float | None) -> str:
    return percent(value) if key != "auroc" or value is None else f"{value:.3f}"


def _curves(history: Sequence[Mapping[str, Any]] | None) -> str:
    if not history:
        return "<h2>Training</h2><p class='soft'>This model came without a record of its training.</p>"
    return (
        "<h2>Training</h2><figure>"
        f"{curves(history)}<figcaption>Loss and accuracy after each epoch, on the training and on the validation "
        "part. Training values are the mean over an epoch of augmented slices, so they can be the worse ones."
        "</figcaption></figure>"
    )


def _examples(
    classes: Sequence[str],
    dataset: Dataset,
    rows: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    explain: Explain | None,
) -> str:
    labels = np.array([classes.index(dataset.labels[row]) for row in rows])
    patients = [dataset.patients[row] for row in rows]
    heat = ", warm colours what spoke for the class that the model said" if explain else ""
    parts = []
    for heading, kind, wanted, note in (
        ("Wrong, and most sure of it", "wrong", False, "The mistakes with the highest probability, one a patient."),
        (
            "Right",
            "right",
            True,
            "Of each class in turn, slices from the middle of the model's confidence, one a patient.",
        ),
    ):
        chosen = choose_examples(labels, probabilities, patients, right=wanted, count=EXAMPLES)
        shown = "".join(
            example(dataset, int(rows[index]), probabilities[index], classes, kind, explain) for index in chosen
        )
        body = f'<div class="slices">{shown}</div>' if shown else "<p>There is none.</p>"
        parts.append(
            f"<h2>{heading}</h2><p class='soft'>{note} A dashed box marks the outlined tumour{heat}.</p>{body}"
        )
    return "".join(parts)


def _making(making: Mapping[str, str]) -> str:
    return f"<h2>How it was made</h2>{_list(making)}" if making else ""


def _list(facts: Mapping[str, str]) -> str:
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    return f'<div class="sheet"><dl>{lines}</dl></div>'


def _facts(result: Mapping[str, Any], dataset: Dataset, split: Mapping[str, Any] | None) -> str:
    spec = dataset.spec
    facts = {
        "model": f"{result['model']['name']}, hash {result['model']['hash'][:12]}",
        "dataset": f"hash {dataset.hash[:12]}, {len(dataset):,} slices in all",
        "preprocessing": f"version {spec.version}, {spec.size} x {spec.size} pixels, {spec.clip_percent:g}% clipped",
    }
    for name, part in (split or {}).get("parts", {}).items():
        per_class = ", ".join(f"{count:,} {label}" for label, count in part["per_class"].items())
        folds = ", ".join(map(str, part["folds"])) or "none"
        text = f"{part['slices']:,} slices of {len(part['patients']):,} patients ({per_class})"
        facts[f"{name} part"] = f"folds {folds}: {text}" if part["slices"] else "empty"
    if split and "learnt_only" in split:
        facts["only learnt from"] = f"{split['learnt_only']:,} slices of the training part, such as readers' feedback"
    for label, ids in result["left_out"].items():
        facts[f"left out: {label}"] = (
            f"{len(ids):,} slices, a class this model does not have; in none of the numbers above "
            f"({', '.join(ids[:5])}{', ...' if len(ids) > 5 else ''})"
        )
    return (
        f"<h2>Data and split</h2>{_list(facts)}"
        "<p class='soft'>Every slice's prediction is in predictions.parquet, every number in metrics.json, both beside "
        "this file.</p>"
    )
