"""The box of a tumour that comes with a slice, for a model that is shown nothing else: `box=x0,y0,x1,y1`."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from neuralblack.data.slices import Box, box_from
from neuralblack.errors import InputError
from neuralblack.service.problems import Problem

BOX = "box"  # the parameter


def box_of(request: Request) -> Box | None:
    """Read the box of a request, None where it has none; raises Problem 422."""
    text = request.query_params.get(BOX) if request.scope["query_string"] else None
    if text is None:
        return None
    try:
        return box_from(text)
    except InputError as error:
        raise Problem(422, "bad_box", str(error)) from None


def marked_by(mark: Callable[[Any, Box], Any], question: Any, box: Box) -> Any:
    """Mark a slice; raises Problem 422 where the box does not fit it."""
    try:
        return mark(question, box)
    except InputError as error:
        raise Problem(422, "bad_box", str(error)) from None
