"""The pictures of a search's page: what was tried and what came of it, the curves, what mattered."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.evaluation.svg import INK, plain, svg

Rows = Sequence[Mapping[str, Any]]

BEST, OTHERS = "#14948a", "#8a939a"
ENOUGH = 8  # trials with a result; of fewer, importance would be read out of chance
RANGE_OF_A_LOG = 8.0  # the largest value over the smallest, from which on an axis is logarithmic
SCORE = "macro_f1"


def parallel_coordinates(rows: Rows) -> str:
    """Draw a line for each trial through its values and its macro-F1; the chosen one, the first row, on top."""
    rows = [row for row in rows if row[SCORE] is not None]
    columns: dict[str, list[Any]] = {name: [row["params"][name] for row in rows] for name in rows[0]["params"]}
    columns["macro-F1"] = [row[SCORE] for row in rows]
    scales = {name: scale(values) for name, values in columns.items()}

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        heights = np.array([scales[name][0] for name in columns])
        for index in reversed(range(len(rows))):
            best = index == 0
            axes.plot(
                heights[:, index], color=BEST if best else OTHERS, lw=2.6 if best else 1.1, alpha=1 if best else 0.7
            )
        for place, name in enumerate(columns):
            axes.axvline(place, color=INK, lw=0.8, alpha=0.5)
            for height, text in scales[name][1]:
                axes.annotate(text, (place, height), xytext=(4, 2), textcoords="offset points", fontsize=9)
        axes.set_xticks(range(len(columns)), list(columns), rotation=15 if len(columns) > 5 else 0)
        axes.set_yticks([])
        axes.patch.set_alpha(0)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)

    return svg((9.6, 3.8), "What each trial tried, and its macro-F1", draw)


def scale(values: Sequence[Any]) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    """Place values on an axis of 0..1 and write what stands where: numbers by size, others in their order of names.

    >>> scale(["b", "a", "b"])
    (array([1., 0., 1.]), [(0.0, 'a'), (1.0, 'b')])
    """
    if all(isinstance(value, int | float) for value in values):
        numbers = np.array(values, float)
        low, high = float(numbers.min()), float(numbers.max())
        logarithmic = low > 0 and high / low > RANGE_OF_A_LOG
        seen, ends = (np.log(numbers), np.log([low, high])) if logarithmic else (numbers, np.array([low, high]))
        width = float(ends[1] - ends[0])
        heights = (seen - ends[0]) / width if width else np.full(len(seen), 0.5)
        return heights, [(0.0, f"{low:.2g}"), (1.0, f"{high:.2g}")] if width else [(0.5, f"{low:.2g}")]
    names = sorted({str(value) for value in values})
    places = {name: index / (len(names) - 1) if len(names) > 1 else 0.5 for index, name in enumerate(names)}
    return np.array([places[str(value)] for value in values]), [(place, name) for name, place in places.items()]


def trial_curves(rows: Rows) -> str:
    """Draw every trial's macro-F1 on the validation part over its epochs; the chosen one on top."""

    def draw(figure: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        for index in reversed(range(len(rows))):
            points = [(epoch["epoch"] + 1, epoch[SCORE]) for epoch in rows[index]["history"]]
            if points:
                best = index == 0
                axes.plot(
                    *zip(*points, strict=True),
                    color=BEST if best else OTHERS,
                    lw=2.4 if best else 1.1,
                    alpha=1 if best else 0.7,
                    marker="o",
                    ms=4 if best else 2.5,
                )
                if index < 3:
                    axes.annotate(str(rows[index]["trial"]), points[-1], xytext=(5, -3), textcoords="offset points")
        plain(axes, "macro-F1, validation")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return svg((9.6, 3.4), "Macro-F1 of every trial over its epochs", draw)


def importance(rows: Rows) -> dict[str, float]:
    """Estimate how much each field mattered: the loss of fit of a forest of trees when its values are shuffled.

    Permutation importance (Breiman, 2001) of extremely randomised trees on macro-F1, divided by their sum; 0 where
    shuffling did no harm. With few trials it is a hint.

    Returns:
        {field: share}, the largest first; empty of fewer than ENOUGH trials, or where nothing mattered: where the trees
        foretell trials that they did not grow from (out of bag) no better than their mean does.

    """
    rows = [row for row in rows if row[SCORE] is not None]
    if len(rows) < ENOUGH:
        return {}
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.inspection import permutation_importance

    names = list(rows[0]["params"])
    table = np.stack([scale([row["params"][name] for row in rows])[0] for name in names], 1)
    scores = np.array([row[SCORE] for row in rows])
    trees = ExtraTreesRegressor(200, min_samples_leaf=2, bootstrap=True, oob_score=True, random_state=0)
    forest = trees.fit(table, scores)
    if forest.oob_score_ <= 0:
        return {}
    harm = permutation_importance(forest, table, scores, n_repeats=30, random_state=0).importances_mean.clip(0)
    if not harm.sum():
        return {}
    shares = dict(zip(names, (harm / harm.sum()).tolist(), strict=True))
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))
