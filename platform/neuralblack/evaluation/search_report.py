"""The page of a search: one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from neuralblack.evaluation.bootstrap import DRAWS
from neuralblack.evaluation.report import NOTICE
from neuralblack.evaluation.search_pictures import importance, parallel_coordinates, trial_curves
from neuralblack.evaluation.words import between, percent
from neuralblack.files import write_bytes
from neuralblack.terminal import brief

Rows = Sequence[Mapping[str, Any]]
SHARED_DEPTHS = 2  # stages that learn, at most, in an epoch whose frozen stages trials share


def write_search_report(
    path: Path, rows: Rows, *, name: str, epochs: int, slices: int, intervals: Mapping[int, Sequence[float] | None]
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        rows: of the search's table, the chosen trial first.
        name: of the search.
        epochs: of a whole trial.
        slices: of the training part.
        intervals: of macro-F1 by trial number, for the first ones.

    """
    body = [
        _opening(rows, name=name, epochs=epochs, slices=slices),
        _finalists(rows, intervals),
        _coordinates(rows),
        "<h2>Learning curves</h2><figure>" + trial_curves(rows) + "<figcaption>The chosen trial in colour; numbers are "
        "those of the first three trials of the table.</figcaption></figure>",
        _importance(rows),
        _table(rows),
    ]
    page = Template(Path(__file__).with_name("report.html").read_text("utf-8"))
    write_bytes(path, page.substitute(title=escape(f"Search {name}"), body="\n".join(body)).encode())


def saved(rows: Rows, *, epochs: int, slices: int) -> dict[str, float]:
    """Count what the search did not have to compute.

    Returns:
        epochs: trained, of all trials; stopped: epochs that stopped trials did not train; passes: of training slices
        through frozen stages, in the epochs that could share; shared: those of them that another trial had made.

    """
    history = [epoch for row in rows for epoch in row["history"]]
    could = [epoch for epoch in history if epoch.get("stages", SHARED_DEPTHS + 1) <= SHARED_DEPTHS]
    return {
        "epochs": len(history),
        "stopped": sum(epochs - row["epochs"] for row in rows if row["stopped"]),
        "passes": len(could) * slices,
        "shared": sum(epoch.get("shared", 0.0) for epoch in could) * slices,
    }


def _opening(rows: Rows, *, name: str, epochs: int, slices: int) -> str:
    best, cost = rows[0], saved(rows, epochs=epochs, slices=slices)
    stopped, failed = (sum(bool(row[key]) for row in rows) for key in ("stopped", "error"))
    cards = {
        "macro F1 of the chosen trial": percent(best["macro_f1"]),
        "its calibration error": "n/a" if best.get("ece") is None else f"{best['ece']:.3f}",
        "trials": f"{len(rows)}",
        "stopped early": f"{stopped}",
        "failed": f"{failed}",
        "epochs trained": f"{cost['epochs']:,}",
        "epochs spared by stopping": f"{cost['stopped']:,}",
        "slices through frozen stages, shared": percent(cost["shared"] / cost["passes"] if cost["passes"] else None),
    }
    figures = "".join(f'<div class="card"><b>{value}</b><span>{text}</span></div>' for text, value in cards.items())
    sharing = (
        f"Of {cost['passes']:,.0f} passes of a training slice through frozen stages, {cost['shared']:,.0f} had been "
        "made by another trial and were read, bit for bit."
        if cost["passes"]
        else "No trial had an epoch in which at most two stages learn, so there was nothing to share."
    )
    return (
        f"<h1>Search {escape(name)}</h1><p class='soft'>Finished on {datetime.now(UTC):%d %B %Y}</p>"
        f"<p class='lead'>Trial <strong>{best['trial']}</strong> was chosen: of the trials whose macro-F1 lies within "
        f"a standard error of the highest, it has the lowest log loss. {sharing}</p>"
        f'<p class="notice" role="note">{NOTICE} All numbers are of the validation part, which chose epochs and '
        f'trials, and so they flatter.</p><div class="cards">{figures}</div>'
    )


def _finalists(rows: Rows, intervals: Mapping[int, Sequence[float] | None]) -> str:
    lines = []
    for row in rows:
        if row["trial"] in intervals:
            values = "".join(f"<td>{value}</td>" for value in _numbers(row))
            lines.append(
                f'<tr><th scope="row">{row["trial"]}</th>{values}<td>{between(intervals[row["trial"]])}</td></tr>'
            )
    if not lines:
        return ""
    return (
        "<h2>The best three</h2><div class='sheet'><table><thead><tr><th scope='col'>trial</th>"
        "<th scope='col'>macro F1</th><th scope='col'>accuracy</th><th scope='col'>log loss</th>"
        "<th scope='col'>calibration error</th><th scope='col'>macro F1, 95% interval</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div><p class='soft'>Intervals by drawing patients anew {DRAWS:,} "
        "times (percentile bootstrap), each trial by itself. All were judged on the same patients, so trials whose "
        "intervals overlap may still differ by more than chance.</p>"
    )


def _coordinates(rows: Rows) -> str:
    if not any(row["macro_f1"] is not None for row in rows):
        return ""
    return (
        f"<h2>What was tried</h2><figure>{parallel_coordinates(rows)}<figcaption>A line is a trial, from the value "
        "that it had in each field to its macro-F1. The chosen trial in colour.</figcaption></figure>"
    )


def _importance(rows: Rows) -> str:
    shares = importance(rows)
    if not shares:
        why = "No field foretells how good a trial is, or too few trials have a result."
        return f"<h2>What mattered</h2><p class='soft'>{why}</p>"
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="bar"><i style="width: {180 * share:.0f}px"></i>'
        f"{percent(share)}</td></tr>"
        for name, share in shares.items()
    )
    return (
        f"<h2>What mattered</h2><div class='sheet'><table><tbody>{lines}</tbody></table></div><p class='soft'>Share of "
        "the loss of fit when a field's values are shuffled (permutation importance of extremely randomised trees). "
        f"{len(rows)} trials make it a hint, not a finding.</p>"
    )


def _table(rows: Rows) -> str:
    names = list(rows[0]["params"])
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    lines = []
    for row in rows:
        params = "".join(f"<td>{escape(brief(row['params'][name]))}</td>" for name in names)
        values = "".join(f"<td>{value}</td>" for value in _numbers(row))
        own = ' class="own"' if row is rows[0] else ""
        lines.append(
            f'<tr{own}><th scope="row">{row["trial"]}</th>{params}<td>{row["epochs"]}</td>{values}'
            f"<td>{escape(outcome(row))}</td></tr>"
        )
    return (
        "<h2>Every trial</h2><div class='sheet'><table><thead><tr><th scope='col'>trial</th>"
        f"{heads}<th scope='col'>epochs</th><th scope='col'>macro F1</th><th scope='col'>accuracy</th>"
        "<th scope='col'>log loss</th><th scope='col'>calibration error</th><th scope='col'>how it ended</th></tr>"
        "</thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def outcome(row: Mapping[str, Any]) -> str:
    """Say how a trial ended, and why where it ended early.

    >>> outcome({"error": None, "stopped": True, "stop": {"epoch": 3, "value": 0.61, "needed": 0.72, "of": 5}})
    'stopped behind epoch 3: macro-F1 0.610, 0.720 would have been needed among 5'
    """
    if row["error"]:
        return f"failed: {row['error']}"
    if row["stopped"]:
        stop = row["stop"]
        return (
            f"stopped behind epoch {stop['epoch']}: macro-F1 {stop['value']:.3f}, {stop['needed']:.3f} would have been "
            f"needed among {stop['of']}"
        )
    return "trained to its end"


def _numbers(row: Mapping[str, Any]) -> list[str]:
    plain = ["n/a" if row.get(name) is None else f"{row[name]:.3f}" for name in ("loss", "ece")]
    return [percent(row["macro_f1"]), percent(row["accuracy"]), *plain]
