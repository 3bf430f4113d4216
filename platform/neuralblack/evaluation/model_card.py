"""The model card of an evaluation: README.md, for people, with a model-index in its head, for programs.

The fields are those of Mitchell et al., 2019, "Model cards for model reporting"; the head is what Hugging Face reads
(its documentation: model cards, model-index), so that the numbers show where a model is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from neuralblack.data.splits import PARTS
from neuralblack.evaluation.report import NOTICE
from neuralblack.evaluation.words import between, percent

NUMBERS = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss", "brier", "ece", "accuracy_at_90")
SHARES = {"accuracy", "balanced_accuracy", "macro_f1", "accuracy_at_90"}
ARCHIVE_FILES = 3_064
ARCHIVE = (
    "T1-weighted contrast-enhanced slices with glioma, meningioma and pituitary tumour come from Jun Cheng's *brain "
    "tumor dataset* (figshare, doi 10.6084/m9.figshare.1512427, CC BY 4.0): 3,064 slices of 233 patients of Nanfang "
    "Hospital, Guangzhou, and the General Hospital of Tianjin Medical University, 2005 to 2010 (Cheng et al., 2015, "
    "PLoS ONE)."
)
ARCHIVE_LIMITS = (
    "Fifteen slices of the archive are 256 x 256 pixels, all of pituitary tumours: size tells the class of these.",
    "The archive has no slice of `no tumour`: those come from other sources, and can be told by their look.",
)
KINDS = {
    "figshare": "files laid out as those of figshare 1512427",
    "images": "images in class folders",
    "feedback": "slices that readers labelled",
}

Sources = Sequence[Mapping[str, Any]]


def write_card(
    result: Mapping[str, Any],
    made: Mapping[str, Any],
    split: Mapping[str, Any],
    making: Mapping[str, str],
    *,
    sources: Sources = (),
) -> str:
    """Write the card of a model, Markdown.

    Args:
        result: what `evaluate` returns.
        made: the model folder's card.json: config, dataset, calibration, what it was made with.
        split: the split's manifest.
        making: how it was made (`making.facts_of_making`).
        sources: `kind` and `files` of each source of the dataset that it learnt from; none: not known.

    """
    head = yaml.safe_dump(_head(result, made), sort_keys=False, allow_unicode=True)
    sections = (
        _use(result, made["config"].get("input", "slice")),
        _data(result, made, split, sources),
        _numbers(result),
        _limits(result, sources),
        _making(making),
    )
    return f"---\n{head}---\n\n# {result['model']['name']}\n\n> {NOTICE}\n\n" + "\n\n".join(sections) + "\n"


def _head(result: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    metrics = [
        {"type": name, "name": f"{name} on {level}", "value": round(part[name], 4)}
        for level, part in (("slices", result), ("patients", result["by_patient"]))
        for name in NUMBERS
        if part[name] is not None
    ]
    results = {
        "task": {"type": "image-classification"},
        "dataset": {
            "type": "neuralblack",
            "name": f"slices {result['dataset']['hash'][:12]}, patients the model has not seen",
            "revision": result["dataset"]["hash"],
        },
        "metrics": metrics,
    }
    return {
        "library_name": "neuralblack",
        "pipeline_tag": "image-classification",
        "tags": ["brain-tumour", "mri", "t1-contrast-enhanced", "research-only", made["model"]],
        "model-index": [{"name": result["model"]["name"], "results": [results]}],
    }


SHOWN = {
    "slice": "",
    "head": " The network is shown the head, cut from the dark around it.",
    "roi": " **It needs a box around the tumour, which a person has to draw**: the network is shown that region with a "
    "margin, and without a box it refuses. The numbers below are of boxes around a human's outline, and say nothing of "
    "slices on which nobody has found a tumour.",
}


def _use(result: Mapping[str, Any], shown: str) -> str:
    return (
        "## What it is for\n\n"
        f"It says of one T1-weighted, contrast-enhanced slice of a brain which of these classes it shows: "
        f"{', '.join(result['classes'])}. For research on such slices, and on classifiers of them.\n\n"
        "**Not for**: diagnosis, triage or any decision about a patient; other sequences (T2, FLAIR), other "
        "modalities, other organs; tumours of other kinds, which it will call one of its own; children and the very "
        "old: nobody recorded ages. Its heat maps show where the network looked, not where a tumour is.\n\n"
        f"**Input**: one grey slice, upright, as PNG, JPEG, TIFF, `.mat`, DICOM or NIfTI; it is padded to a square, "
        f"scaled to {result['dataset']['preprocessing']['size']} pixels, and its grey values are stretched "
        f"({result['dataset']['preprocessing']['clip_percent']:g}% clipped).{SHOWN[shown]} "
        "**Output**: a probability for each class, and the prediction set; or a refusal, with reasons, of what does "
        "not look like the slices it learnt from."
    )


def _has_archive(sources: Sources) -> bool:
    """Tell whether Cheng's whole archive is among the sources; other data, and made-up heads, may have its layout."""
    return any((one["kind"], one["files"]) == ("figshare", ARCHIVE_FILES) for one in sources)


def _origin(sources: Sources) -> str:
    if not sources:
        return "Where the slices that it learnt from come from is not known here: ask whoever prepared them."
    counts = ", ".join(f"{one['files']:,} {KINDS.get(one['kind'], one['kind'])}" for one in sources)
    known = f"{ARCHIVE} " if _has_archive(sources) else ""
    licences = "Slices of other sources have" if known else "They have"
    return f"It was prepared from {counts}. {known}{licences} the licences of their sources; ask whoever prepared them."


def _data(result: Mapping[str, Any], made: Mapping[str, Any], split: Mapping[str, Any], sources: Sources) -> str:
    lines = ["| part | folds | slices | patients | " + " | ".join(result["classes"]) + " |"]
    lines.append("|---" * (4 + len(result["classes"])) + "|")
    for name in PARTS:
        part = split["parts"][name]
        counts = " | ".join(f"{part['per_class'].get(label, 0):,}" for label in result["classes"])
        folds = ", ".join(map(str, part["folds"])) or "-"
        lines.append(f"| {name} | {folds} | {part['slices']:,} | {len(part['patients']):,} | {counts} |")
    table = "\n".join(lines)
    fed = split.get("learnt_only")
    said = f"{fed:,} slices of the training part are in no fold, such as readers' feedback. " if fed else ""
    return (
        f"## Data\n\n{_origin(sources)}\n\n{table}\n\n{said}Parts are of different patients; "
        f"dataset {made['dataset']['hash'][:12]}, the judged slices {result['dataset']['hash'][:12]}."
    )


def _numbers(result: Mapping[str, Any]) -> str:
    slices, patients = f"{result['slices']:,} slices", f"{result['patients']:,} patients"
    if (verdicts := result["by_patient"]["slices"]) != result["patients"]:  # some have slices of two classes
        patients = f"{verdicts:,} verdicts on {patients}"
    lines = [f"| | {slices} | 95% interval | {patients} | 95% interval |", "|---|---|---|---|---|"]
    for name in NUMBERS:
        cells = [name.replace("_", " ")]
        for part in (result, result["by_patient"]):
            value = part[name]
            shown = percent(value) if name in SHARES else "n/a" if value is None else f"{value:.3f}"
            cells += [shown, between(part["intervals"][name], shares=name in SHARES)]
        lines.append(f"| {' | '.join(cells)} |")
    for label, one in result["per_class"].items():
        bounds = between(result["intervals"]["per_class"][label]["sensitivity"])
        lines.append(f"| sensitivity, {label} | {percent(one['sensitivity'])} | {bounds} | | |")
    rivals = ", ".join(f"{name} {percent(one['accuracy'])}" for name, one in result["baselines"].items())
    sets = result["prediction_sets"]
    return (
        "## Numbers\n\n" + "\n".join(lines) + "\n\nIntervals are over patients (bootstrap). "
        f"Accuracy of simpler means on the same slices: {rivals or 'not measured'}. Before the temperature of "
        f"{result['uncalibrated']['temperature']:.2f} the calibration error was {result['uncalibrated']['ece']:.3f}. "
        f"Prediction sets held the true class of {percent(sets['covered'])} of the slices, with "
        f"{sets['mean_size']:.2f} classes on average. {result['refused']:,} of the slices would have been refused."
    )


def _limits(result: Mapping[str, Any], sources: Sources) -> str:
    found = [
        *(ARCHIVE_LIMITS if _has_archive(sources) else ()),
        "A class from a source of its own can be told by the look of the source.",
        "Heat maps are Grad-CAM: they show what spoke for a class, and often lie beside the tumour.",
    ]
    if not result["copies"]["looked_for"]:
        found.append("Copies of slices it learnt from were not looked for among the judged ones.")
    if result["unnamed_patients"]:
        found.append(
            f"{result['unnamed_patients']:,} of the judged patients are groups of near-duplicates whose files name no "
            "patient; the intervals are too narrow by what these share."
        )
    only = result["tumour_only"]
    if only:
        found.append(f"On tumours alone the accuracy is {percent(only['accuracy'])}.")
    found += result["alarms"]
    return "## Known limits and leaks\n\n" + "\n".join(f"- {line}" for line in found)


def _making(making: Mapping[str, str]) -> str:
    return "## How it was made\n\n" + "\n".join(f"- **{name}**: {value}" for name, value in making.items())
