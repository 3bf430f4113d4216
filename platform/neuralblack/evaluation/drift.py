"""What a service was asked, against what its model learnt from: numbers, a page, and words.

neuralblack drift http://127.0.0.1:8000 --out drift
"""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from neuralblack.data.drift import STATISTICS, chance, stability_index, verdict
from neuralblack.errors import InputError
from neuralblack.evaluation.charts import drift_chart
from neuralblack.evaluation.report import NOTICE
from neuralblack.evaluation.scrape import numbers_of
from neuralblack.files import check_replaceable, new_folder, write_bytes, write_json

COUNTED, EXPECTED = "neuralblack_input_slices_total", "neuralblack_input_expected_share"
REFERENCE, MODEL = "neuralblack_input_reference", "neuralblack_model_info"


def measure_drift(texts: Mapping[str, str]) -> dict[str, Any]:
    """Add replicas up and compare what they were asked with what is expected.

    Args:
        texts: where it is from -> what GET /metrics said, of a replica or of a node of a Ray cluster with all its
            replicas; of one model.

    Returns:
        model: name and version; statistics: name -> bins, expected (shares), seen (slices), slices, index, chance (how
        large it gets without drift), verdict.

    Raises:
        InputError: no metrics of this service, of a model without a reference, or of different models.
    """
    models, expected, reference = dict[tuple[str, str], str](), dict[str, dict[str, float]](), dict[str, int]()
    seen: dict[str, dict[str, float]] = {}
    for where, text in texts.items():
        samples = numbers_of(text, where)
        mine = [labels for name, labels, _ in samples if name == MODEL]
        if not mine:
            raise InputError(
                where, found="no metrics of a replica", expected="what GET /metrics says", fix="check file or address"
            )
        models |= {(labels["name"], labels["version"]): where for labels in mine}
        for name, labels, value in samples:
            if name == EXPECTED:
                expected.setdefault(labels["statistic"], {})[labels["bin"]] = value
            elif name == REFERENCE:
                reference[labels["statistic"]] = int(value)
            elif name == COUNTED:
                counts = seen.setdefault(labels["statistic"], {})
                counts[labels["bin"]] = counts.get(labels["bin"], 0) + value
    if len(models) > 1:
        raise InputError(
            ", ".join(sorted({*models.values()})),
            found=f"metrics of {len(models)} models",
            expected="replicas of one model: each has its own reference",
            fix="give those of one model",
        )
    ((name, version),) = models
    if not expected:
        raise InputError(
            name,
            found="a model that was calibrated without a reference for drift",
            expected="one of a newer run",
            fix="remove RUN/model and give its train command again: it makes the model anew from its checkpoint",
        )
    statistics = {
        each: _statistic(expected[each], seen.get(each, {}), reference[each]) for each in STATISTICS if each in expected
    }
    return {"model": {"name": name, "version": version}, "statistics": statistics}


def write_drift(found: Mapping[str, Any], out: Path) -> None:
    """Write drift.json and drift.html, whole or not at all; arguments as `measure_drift` returns."""
    check_replaceable(out, ("drift.json", "drift.html"), what="drift report")
    page = Template(Path(__file__).with_name("report.html").read_text("utf-8"))
    title = f"Drift before {found['model']['name']}"
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{one["slices"]:,}</td><td>{one["index"]:.3f}</td>'
        f"<td>{escape(one['verdict'])}</td><td>{escape(STATISTICS[name])}</td></tr>"
        for name, one in found["statistics"].items()
    )
    body = (
        f"<h1>{escape(title)}</h1><p class='soft'>{escape(NOTICE)}</p><p>{escape(in_words(found))}</p>"
        '<div class="sheet"><table><thead><tr><th scope="col">statistic</th><th scope="col">slices</th>'
        '<th scope="col">stability index</th><th scope="col"></th><th scope="col">what a change tells</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
        "<p class='soft'>The population stability index compares shares in the same bins: below 0.1 is as expected, "
        "above 0.25 another population. Slices of few patients are alike, and move it by chance.</p>"
        f"<figure>{drift_chart(found['statistics'])}<figcaption>Shares of slices in the bins of what was learnt from, "
        "and of what came.</figcaption></figure>"
    )
    with new_folder(out) as folder:
        write_bytes(folder / "drift.html", page.substitute(title=escape(title), body=body).encode())
        write_json(folder / "drift.json", found)


def in_words(found: Mapping[str, Any]) -> str:
    """Sum up in a sentence."""
    moved = [name for name, one in found["statistics"].items() if "drift" in one["verdict"].lower()]
    few = [name for name, one in found["statistics"].items() if "too few" in one["verdict"]]
    if moved:
        return f"What comes is not like what was learnt from: {', '.join(moved)}. Look at it before trusting answers."
    if few:
        return f"Too few slices so far to say anything about {', '.join(few)}."
    return "What comes is like what was learnt from, as far as these statistics tell."


def _statistic(shares: Mapping[str, float], counts: Mapping[str, float], reference: int) -> dict[str, Any]:
    bins = list(shares)
    seen = [int(counts.get(each, 0)) for each in bins]
    slices, expected = sum(seen), list(shares.values())
    index = stability_index(expected, seen) if slices else 0.0
    return {
        "bins": bins,
        "expected": expected,
        "seen": seen,
        "slices": slices,
        "index": index,
        "chance": chance(len(bins), slices, reference) if slices else None,
        "verdict": verdict(index, bins=len(bins), slices=slices, reference=reference),
    }
