"""The charts of a report, each an <svg> element: training curves, ROC, reliability, risk and coverage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_curve

from neuralblack.evaluation.patients import Slices
from neuralblack.evaluation.svg import plain, svg
from neuralblack.metrics import BINS, bin_of, surest_first

TRAIN, VALIDATION = "#c2703d", "#14948a"  # told apart by the blind to red and green too, and by their dashes
COLOURS = ("#14948a", "#c2703d", "#4f6bb0", "#a0569c")  # of classes, with DASHES beside them
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))


def curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Draw loss and accuracy over the epochs, training and validation: an <svg> element."""

    def draw(figure: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        for axes, (name, key) in zip(figure.subplots(1, 2), (("loss", "loss"), ("accuracy", "accuracy")), strict=True):
            for label, column, colour, dash in (
                ("training", f"train_{key}", TRAIN, (0, (4, 2))),
                ("validation", key, VALIDATION, "solid"),
            ):
                points = [(row["epoch"] + 1, row[column]) for row in history if row.get(column) is not None]
                if points:
                    marker = "o" if len(points) < 40 else None
                    axes.plot(
                        *zip(*points, strict=True), color=colour, linestyle=dash, lw=2, marker=marker, ms=4, label=label
                    )
            plain(axes, name)
            axes.set_xlabel("epoch")
            axes.set_xlim(0.5, max((row["epoch"] for row in history), default=0) + 1.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if axes.lines and name == "loss":  # one legend for both
                axes.legend(frameon=False)

    return svg((9.6, 3.4), "Loss and accuracy over the epochs", draw)


def judgement_charts(slices: Slices, classes: Sequence[str]) -> str:
    """Draw each class's ROC curve, how far confidence is from accuracy, and accuracy over coverage, side by side."""

    def draw(figure: Any) -> None:
        roc, reliability, coverage = figure.subplots(1, 3)
        _roc(roc, slices, classes)
        _reliability(reliability, slices)
        _coverage(coverage, slices)

    return svg((13.2, 4.2), "ROC curves, reliability, and accuracy over coverage", draw)


def robustness_chart(found: Mapping[str, Any]) -> str:
    """Draw accuracy and calibration error over the strength of each disturbance, small charts of one scale."""
    disturbed = found["disturbed"]

    def draw(figure: Any) -> None:
        grid = figure.subplots(2, 5, sharex=True, sharey=True)
        for axes, (name, strengths) in zip(grid.flat, disturbed.items(), strict=True):
            steps = [found["undisturbed"], *strengths.values()]
            for key, colour, dash in (("accuracy", VALIDATION, "solid"), ("ece", TRAIN, (0, (4, 2)))):
                axes.plot([one[key] for one in steps], color=colour, linestyle=dash, lw=2, marker="o", ms=4, label=key)
            plain(axes, name)
            axes.set(ylim=(0, 1.02), xticks=range(4))
            axes.set_xticklabels(["none", "mild", "medium", "strong"], fontsize=8)
        grid[0, 0].legend(["accuracy", "calibration error"], frameon=False, fontsize=8, loc="center left")

    return svg((13.2, 5.2), "Accuracy and calibration error over the strength of disturbances", draw)


def drift_chart(statistics: Mapping[str, Any]) -> str:
    """Draw what was expected and what came, bin by bin, one small chart for each statistic."""

    def draw(figure: Any) -> None:
        grid = figure.subplots(2, 3)
        for axes in grid.flat[len(statistics) :]:
            axes.axis("off")
        for axes, (name, one) in zip(grid.flat, statistics.items(), strict=False):
            places, total = np.arange(len(one["bins"])), max(1, one["slices"])
            axes.bar(places - 0.2, one["expected"], 0.4, color=COLOURS[0], label="learnt from")
            axes.bar(places + 0.2, [count / total for count in one["seen"]], 0.4, color=COLOURS[1], label="came")
            plain(axes, f"{name}: {one['index']:.2f}")
            axes.set_xticks(places, [f"≤ {each}" if _is_number(each) else each for each in one["bins"]], fontsize=7)
            axes.tick_params(axis="x", rotation=55)
        grid[0, 0].legend(frameon=False, fontsize=9)

    return svg((13.2, 7.4), "Shares of slices expected and seen, for each statistic", draw)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("e-", "", 1).isdigit()


def _roc(axes: Any, slices: Slices, classes: Sequence[str]) -> None:
    for index, name in enumerate(classes):
        positive = slices.labels == index
        if positive.any() and not positive.all():
            false, true, _ = roc_curve(positive, slices.probabilities[:, index])
            axes.plot(false, true, color=COLOURS[index % 4], linestyle=DASHES[index % 4], lw=2, label=name)
    if axes.lines:  # none where all slices are of one class
        axes.legend(frameon=False, loc="lower right", fontsize=9)
    axes.plot([0, 1], [0, 1], lw=1, alpha=0.4, color="gray")
    plain(axes, "ROC, each class against the rest")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")


def _reliability(axes: Any, slices: Slices) -> None:
    top = slices.probabilities.max(1)
    right, index = slices.probabilities.argmax(1) == slices.labels, bin_of(top)
    counts = np.bincount(index, minlength=BINS)
    full = np.flatnonzero(counts)
    sure, hits = (np.bincount(index, values, BINS)[full] / counts[full] for values in (top, right))
    axes.plot([0, 1], [0, 1], lw=1, alpha=0.4, color="gray")
    axes.plot(sure, hits, color=VALIDATION, lw=1)
    axes.scatter(sure, hits, s=12 + 300 * counts[full] / counts.sum(), color=VALIDATION, alpha=0.75, linewidths=0)
    plain(axes, "Reliability; a dot's size is its slices")
    axes.set(
        xlabel="mean top probability", ylabel="share that was right", xlim=(0, 1.03), ylim=(0, 1.05), aspect="equal"
    )


def _coverage(axes: Any, slices: Slices) -> None:
    wrong = surest_first(slices.probabilities.max(1), slices.probabilities.argmax(1) != slices.labels)
    count = np.arange(1, len(wrong) + 1)
    axes.plot(count / len(wrong), wrong.cumsum() / count, color=VALIDATION, lw=2)
    axes.axvline(0.9, color="gray", lw=1, alpha=0.5, linestyle=(0, (4, 2)))
    plain(axes, "Risk over coverage, the surest first")
    axes.set(
        xlabel="share of the slices that is answered", ylabel="share of the answered that is wrong", xlim=(0, 1.02)
    )
    axes.set_ylim(bottom=0)
