"""The parts of a report for who doubts it: alarms, the leak ledger, tumours alone, each source, disturbances, gaze."""

from collections.abc import Mapping
from html import escape
from typing import Any

from neuralblack.evaluation.charts import robustness_chart
from neuralblack.evaluation.leakage import RECIPE
from neuralblack.evaluation.words import between, percent

CLOSER = "neuralblack evaluate ... --closer 200"


def alarm(result: Mapping[str, Any]) -> str:
    """Open with what must be checked first; nothing where nothing must."""
    if not result["alarms"]:
        return ""
    first, *checks = result["alarms"]
    items = "".join(f"<li>{escape(check)}</li>" for check in checks)
    return f'<div class="alarm" role="alert"><b>{escape(first)}</b><ol>{items}</ol></div>'


def ledger(result: Mapping[str, Any]) -> str:
    """Show the model beside simpler means, on other patients and record-wise, and the gap between the two."""
    copies = result["copies"]
    said = "Copies of slices it learnt from were not looked for: --trained-on DATASET looks."
    if copies["looked_for"]:
        left = len(copies["left_out"])
        said = (
            f"{left:,} copies of slices it learnt from were left out."
            if left
            else "No copy of a slice it learnt is here."
        )
    if not result["baselines"] and not result["record_wise"]:
        return (
            "<h2>Beside simpler means</h2><p class='soft'>Not measured: the slices the model learnt from were not "
            f"given (--trained-on DATASET), or --no-baselines was. {said}</p>"
        )
    if not result["baselines"]:
        said = f"Simpler means were left out (--no-baselines). {said}"
    lines = []
    for name, one in {result["model"]["name"]: result, **result["baselines"]}.items():
        mixed = result["record_wise"].get(RECIPE if one is result else name)
        width = 48 * (one["accuracy"] or 0)
        bar = f'<td class="bar"><i style="width: {width:.0f}px"></i>{percent(one["accuracy"])}</td>'
        gap = f"{100 * (mixed['accuracy'] - one['accuracy']):+.1f}" if mixed else "-"
        found = "".join(f"<td>{percent(each['sensitivity'])}</td>" for each in one["per_class"].values())
        own = ' class="own"' if one is result else ""
        lines.append(
            f'<tr{own}><th scope="row">{escape(name)}</th>{bar}<td>{percent(one["macro_f1"])}</td>'
            f"<td>{percent(mixed['accuracy']) if mixed else '-'}</td><td>{gap}</td>{found}</tr>"
        )
    heads = "".join(f'<th scope="col">found of<br>{escape(name)}</th>' for name in result["classes"])
    return (
        "<h2>Beside simpler means, and the leak ledger</h2><p class='soft'>The same slices, classed by simpler means. "
        "What a model does not beat here, it has not learnt: size only knows nothing but the size a slice came in, "
        "frame only the outer tenth of it, where no tumour is. Record-wise is what each would be said to reach if "
        f"slices of one patient were on both sides. {said}</p>"
        '<div class="sheet"><table><thead><tr><th scope="col">method</th><th scope="col" class="bar">accuracy</th>'
        f'<th scope="col">macro F1</th><th scope="col">record-wise</th><th scope="col">gap, points</th>{heads}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def parts(result: Mapping[str, Any]) -> str:
    """Show the tumours alone, and each source by itself."""
    only, said = result["tumour_only"], ""
    if only:
        said = (
            f"<p>Of the {only['slices']:,} slices with a tumour alone, {percent(only['accuracy'])} were classed "
            f"rightly ({between(only['intervals']['accuracy'])}), macro F1 {percent(only['macro_f1'])}; "
            f"{only['called_no_tumour']:,} of them were taken for no tumour.</p>"
        )
    lines = []
    for name, one in result["by_source"].items():
        found = "".join(f"<td>{percent(one['sensitivity'].get(label))}</td>" for label in result["classes"])
        lines.append(
            f'<tr><th scope="row">{escape(name)}</th><td>{one["slices"]:,}</td>'
            f"<td>{'not known' if one['learnt'] is None else format(one['learnt'], ',')}</td>"
            f"<td>{percent(one['accuracy'])}</td>{found}</tr>"
        )
    heads = "".join(f'<th scope="col">found of<br>{escape(name)}</th>' for name in result["classes"])
    return (
        f"<h2>Tumours alone, and source by source</h2>{said}<p class='soft'>A class that comes from a source of its "
        "own can be told by the look of the source. Only sources that it learnt nothing from show whether it was.</p>"
        '<div class="sheet"><table><thead><tr><th scope="col">source</th><th scope="col">slices</th>'
        '<th scope="col">learnt from it</th>'
        f'<th scope="col">accuracy</th>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def robustness(result: Mapping[str, Any]) -> str:
    """Show accuracy and calibration error over the strength of each disturbance."""
    found = result["robustness"]
    if not found:
        return f"<h2>Disturbed slices</h2><p class='soft'>Not measured: {CLOSER} does.</p>"
    names = list(next(iter(found["disturbed"].values())))
    lines = []
    for name, strengths in found["disturbed"].items():
        cells = "".join(
            f"<td>{percent(one['accuracy'])}<small>{escape(strength)}, ECE {one['ece']:.3f}</small></td>"
            for strength, one in strengths.items()
        )
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{word}</th>' for word in ("mild", "medium", "strong")[: len(names)])
    plain = found["undisturbed"]
    return (
        f"<h2>Disturbed slices</h2><p class='soft'>The same {found['slices']:,} slices, spread over classes and "
        f"patients, as they are: accuracy {percent(plain['accuracy'])}, calibration error {plain['ece']:.3f}; and "
        f"changed in one way at a time.</p><figure>{robustness_chart(found)}</figure>"
        f'<div class="sheet"><table><thead><tr><th scope="col">accuracy</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def gaze(result: Mapping[str, Any]) -> str:
    """Show how often heat maps point into the outlined tumour."""
    found = result["pointing"]
    if found is None:
        return f"<h2>Where it looks</h2><p class='soft'>Not measured: {CLOSER} does.</p>"
    lines = "".join(
        f'<tr><th scope="row">{escape(label)}</th><td>{one["slices"]:,}</td>'
        + "".join(f"<td>{percent(one[key])}</td>" for key in ("pointing", "mass", "box"))
        + "</tr>"
        for label, one in found.items()
    )
    return (
        "<h2>Where it looks</h2><p class='soft'>Grad-CAM of the true class beside the box around the outlined tumour. "
        "A map that knows nothing would have the last column in both others. A heat map shows where the network "
        "looked, not where a tumour is.</p>"
        '<div class="sheet"><table><thead><tr><th scope="col">class</th><th scope="col">slices with a box</th>'
        '<th scope="col">hottest point in it</th><th scope="col">heat in it</th><th scope="col">its share of the slice'
        f"</th></tr></thead><tbody>{lines}</tbody></table></div>"
    )
