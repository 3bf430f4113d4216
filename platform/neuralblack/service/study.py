"""Several slices of one patient: read them from a form, and draw one verdict from what the model says of each."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from starlette.datastructures import UploadFile
from starlette.requests import Request

from neuralblack.errors import InputError
from neuralblack.metrics import LEAST
from neuralblack.service.answers import Prediction, result
from neuralblack.service.problems import Problem, as_problem
from neuralblack.service.uploads import FIELD, is_form, read_form, size_of

MOST_SLICES = 64
BODY_SLICES = 4  # a study's body may be so many times as large as the largest slice


async def read_study(request: Request, *, max_bytes: int, most: int) -> list[bytes]:
    """Read the files of a form into memory, in their order; never onto a disk, never their names.

    Args:
        request: its body is multipart/form-data with 1..`most` files in fields named `file`.
        max_bytes: largest slice. The whole body may have `BODY_SLICES` times as many.
        most: slices.

    Raises:
        Problem: 400 no form, an unreadable one, or one without a file; 413 too large a body or too many files.
    """
    if not is_form(request):
        raise no_form()
    whole = BODY_SLICES * max_bytes
    too_many = Problem(413, "too_many", f"A study has at most {most} slices here; this one has more.")
    form = await read_form(request, max_bytes=whole, most=most, larger=study_too_large(whole), more=too_many)
    files = form.getlist(FIELD)
    if not files or not all(isinstance(file, UploadFile) for file in files):
        raise Problem(400, "no_file", f"The form needs its slices as files in fields “{FIELD}”, and only files there.")
    return [await file.read() for file in files if isinstance(file, UploadFile)]


def no_form() -> Problem:
    """Say what a study is sent as."""
    return Problem(400, "bad_form", f"A study is a form (multipart/form-data) with its slices in fields “{FIELD}”.")


def study_too_large(max_bytes: int) -> Problem:
    """Say that a study is larger than its body may be."""
    return Problem(413, "too_large", f"The study is larger than {size_of(max_bytes)}. Send fewer slices.")


async def answer_study(
    files: Sequence[bytes], classify: Callable[[bytes], Awaitable[Prediction]], *, max_bytes: int
) -> dict[str, Any]:
    """Classify all slices at the same time, so that they share batches, and sum them up.

    Args:
        files: the slices as they came, 1 or more.
        classify: such a file -> its prediction; raises InputError where it cannot be read.
        max_bytes: a larger slice counts as unreadable.

    Returns:
        status, label, probabilities, disagreement and slices of the answer. Slices that are refused or cannot be read
        are listed and don't count; when none is left there is no verdict.

    Raises:
        Exception: what stopped a slice and is not its own fault.
    """

    async def one(data: bytes) -> Prediction:
        if len(data) > max_bytes:
            raise Problem(
                413, "too_large", "This slice is larger than the service takes. Send one slice, not a volume."
            )
        return await classify(data)

    return summed_up(await asyncio.gather(*map(one, files), return_exceptions=True))


def summed_up(answers: Sequence[Prediction | BaseException]) -> dict[str, Any]:
    """Draw one verdict from the answers to a study's slices; arguments, results and errors as of `answer_study`."""
    slices = [{"index": index, **_slice(answer)} for index, answer in enumerate(answers)]
    good = [each for each in slices if each["status"] == "ok"]
    disagreement: dict[str, float] = {
        "slices": len(slices),
        "refused": sum(each["status"] == "refused" for each in slices),
        "unreadable": sum(each["status"] == "unreadable" for each in slices),
    }
    if not good:
        reason = {"code": "no_slice", "sentence": "No slice of this study could be used; see the reasons of each."}
        return {"status": "refused", "reasons": [reason], "disagreement": disagreement, "slices": slices}
    probabilities = verdict([each["probabilities"] for each in good])
    label = max(probabilities, key=probabilities.__getitem__)
    agreeing = sum(each["label"] == label for each in good) / len(good)
    return {
        "status": "ok",
        "label": label,
        "probabilities": probabilities,
        "disagreement": {"agreeing": agreeing, **disagreement},
        "slices": slices,
    }


def verdict(slices: Sequence[dict[str, float]]) -> dict[str, float]:
    """Join slices' probabilities: the softmax of the mean of their logarithms, which is that of their mean logits.

    It is what `evaluation.patients` measures as the verdict on a patient.

    >>> joined = verdict([{"glioma": 0.9, "pituitary": 0.1}, {"glioma": 0.5, "pituitary": 0.5}])
    >>> {label: round(share, 3) for label, share in joined.items()}
    {'glioma': 0.75, 'pituitary': 0.25}
    """
    rows = np.array([list(each.values()) for each in slices], np.float64)
    mean = np.log(np.maximum(rows, LEAST)).mean(0)
    shares = np.exp(mean - mean.max())
    return dict(zip(slices[0], (shares / shares.sum()).tolist(), strict=True))


def _slice(answer: Prediction | BaseException) -> dict[str, Any]:
    match answer:
        case InputError() | Problem(status=413):
            problem = as_problem(answer)
            return {"status": "unreadable", "reasons": [{"code": problem.code, "sentence": problem.sentence}]}
        case BaseException():
            raise answer
    shown = result(answer)
    return {key: shown[key] for key in ("status", "label", "probabilities", "reasons") if key in shown}
