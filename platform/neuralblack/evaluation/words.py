"""How reports write numbers."""

from collections.abc import Sequence


def percent(value: float | None) -> str:
    """Write a share for people.

    >>> percent(0.9174), percent(None)
    ('91.7%', 'n/a')
    """
    return "n/a" if value is None else f"{100 * value:.1f}%"


def between(interval: Sequence[float] | None, *, shares: bool = True) -> str:
    """Write an interval for people.

    >>> between([0.8812, 0.9315]), between([0.31, 0.5], shares=False), between(None)
    ('88.1% to 93.2%', '0.310 to 0.500', 'n/a')
    """
    if interval is None:
        return "n/a"
    low, high = interval
    return f"{percent(low)} to {percent(high)}" if shares else f"{low:.3f} to {high:.3f}"
