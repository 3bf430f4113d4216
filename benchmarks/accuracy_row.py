"""What a part keeps of a method's answers: enough for a table over all parts, and nothing that names a patient."""

from typing import Any

from neuralblack.evaluation.patients import Slices
from neuralblack.metrics import calibration_gaps


def row_of(
    name: str,
    said: Slices,
    *,
    block: str,
    learnt: int,
    minutes: float | None,
    before: Slices | None = None,
    after: Slices | None = None,
) -> dict[str, Any]:
    """Keep of answers what a table over all parts needs, and nothing that names a patient.

    Args:
        name: of the method.
        said: its answers.
        block: of the table, a name in `accuracy_part`.
        learnt: slices that it learnt from.
        minutes: of one worker.
        before, after: its probabilities before and behind its temperature; None where there is no such thing.

    Returns:
        patients: for each, in one order for all rows, its class, how many slices were given which class, its verdict,
        and its number; one with slices of two classes is there twice, with one number. gaps: for each bin of a
        calibration error the sum of right (1 or 0) minus probability.

    """
    patients: dict[tuple[str, int], list[int]] = {}
    given = said.probabilities.argmax(1)
    count = said.probabilities.shape[1]
    for patient, label, answer in zip(said.patients, said.labels.tolist(), given, strict=True):
        patients.setdefault((patient, label), [0] * count)[answer] += 1
    verdicts = dict(zip(patients, said.by_patient().probabilities.argmax(1).tolist(), strict=True))  # in one order
    numbers = {patient: number for number, patient in enumerate(sorted(set(said.patients)))}
    return {
        "name": name,
        "block": block,
        "learnt": learnt,
        "minutes": None if minutes is None else round(minutes, 2),
        "patients": [[key[1], counts, verdicts[key], numbers[key[0]]] for key, counts in sorted(patients.items())],
        "gaps": {"before": _gaps(before), "after": _gaps(after)},
    }


def _gaps(said: Slices | None) -> list[float] | None:
    if said is None:
        return None
    return [round(float(gap), 6) for gap in calibration_gaps(said.labels, said.probabilities)]
