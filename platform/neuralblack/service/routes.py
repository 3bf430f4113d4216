"""The kinds of route: FastAPI describes them, and the request goes straight to its function.

FastAPI's own way from a request to a function (resolving parameters, checking the answer) costs more than the rest of
this service's part in a request, and our routes take nothing but the request.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from neuralblack.service.auth import Holders, holder_of
from neuralblack.service.problems import Problem

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

MODEL = "/v2/models/{model_name}"  # of the Open Inference Protocol
MODEL_PLACES = (MODEL, f"{MODEL}/versions/{{model_version}}")
# And the page; every other route asks for the token.
OPEN = ("/health", "/ready", "/v2/health/live", "/v2/health/ready", *(f"{place}/ready" for place in MODEL_PLACES))
TOKEN = "This service asks for a token: send it as the header “Authorization: Bearer TOKEN”."
READER = "Only a reader may say what a slice is: send a reader's token as the header “Authorization: Bearer TOKEN”."
FLAGS = {"true": True, "1": True, "false": False, "0": False}


class Bare(APIRoute):
    """A route that everybody may ask."""

    def get_route_handler(self) -> Handler:
        """Give the function itself."""
        return self.endpoint


def guarded(holders: Holders, refused: Callable[[str], None], sentence: str = TOKEN) -> type[APIRoute]:
    """Make routes that answer only who has one of the tokens, and look at nothing but one header before.

    A class of routes and not a middleware: it belongs to the route, so no spelling of an address gets past it. The
    request's `state.holder` says whose token it was.

    Args:
        holders: whose tokens open the routes.
        refused: hears the path of a route that refused.
        sentence: says what is missing.
    """

    class Guarded(Bare):
        def get_route_handler(self) -> Handler:
            handle, path = super().get_route_handler(), self.path

            async def check(request: Request) -> Response:
                holder = holder_of(request.headers.get("authorization", ""), holders)
                if holder is None:
                    refused(path)
                    raise Problem(401, "unauthorised", sentence, headers={"WWW-Authenticate": "Bearer"})
                request.state.holder = holder
                return await handle(request)

            return check

    return Guarded


def flags(request: Request, *names: str, beside: Sequence[str] = ()) -> tuple[bool, ...]:
    """Read the parameters that a route takes, each true or false, and false where it is absent.

    Those of `beside` may be there too; another function reads them.

    Raises:
        Problem: 422 another value, one twice, or one that there is not: a misspelt name must not pass for absent.
    """
    if not request.scope["query_string"]:
        return (False,) * len(names)
    given = request.query_params.multi_items()
    known = ", ".join((*names, *beside)) or "none"
    if len(dict(given)) < len(given) or any(name not in (*names, *beside) for name, _ in given):
        raise Problem(422, "invalid_request", f"A parameter is unknown or there twice. Known here: {known}.")
    given = [(name, value.lower()) for name, value in given if name in names]
    if any(value not in FLAGS for _, value in given):
        raise Problem(422, "invalid_request", f"A parameter is neither true nor false. Known here: {known}.")
    values = {name: FLAGS[value] for name, value in given}
    return tuple(values.get(name, False) for name in names)
