"""The kinds of route: FastAPI describes them, and the request goes straight to its function.

FastAPI's own way from a request to a function (resolving parameters, checking the answer) costs more than the rest of
this service's part in a request, and our routes take nothing but the request.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from neuralblack.service.auth import has_token
from neuralblack.service.problems import Problem

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

OPEN = ("/health", "/ready")  # and the page; every other route asks for the token
FLAGS = {"true": True, "1": True, "false": False, "0": False}


class Bare(APIRoute):
    """A route that everybody may ask."""

    def get_route_handler(self) -> Handler:
        """Give the function itself."""
        return self.endpoint


def guarded(token: str | None, refused: Callable[[str], None]) -> type[APIRoute]:
    """Make routes that answer only who has `token`, and look at nothing but one header before.

    A class of routes and not a middleware: it belongs to the route, so no spelling of an address gets past it.

    Args:
        token: None: everybody may ask.
        refused: hears the path of a route that refused.
    """

    class Guarded(Bare):
        def get_route_handler(self) -> Handler:
            handle, path = super().get_route_handler(), self.path
            if token is None:
                return handle

            async def check(request: Request) -> Response:
                if not has_token(request.headers.get("authorization", ""), token):
                    refused(path)
                    raise Problem(
                        401,
                        "unauthorised",
                        "This service asks for a token: send it as the header “Authorization: Bearer TOKEN”.",
                        headers={"WWW-Authenticate": "Bearer"},
                    )
                return await handle(request)

            return check

    return Guarded


def flags(request: Request, *names: str) -> tuple[bool, ...]:
    """Read the parameters that a route takes, each true or false, and false where it is absent.

    Raises:
        Problem: 422 another value, one twice, or one that there is not: a misspelt name must not pass for an absent one.
    """
    if not request.scope["query_string"]:
        return (False,) * len(names)
    given = request.query_params.multi_items()
    known = ", ".join(names) or "none"
    if len(dict(given)) < len(given) or any(name not in names for name, _ in given):
        raise Problem(422, "invalid_request", f"A parameter is unknown or there twice. Known here: {known}.")
    if any(value.lower() not in FLAGS for _, value in given):
        raise Problem(422, "invalid_request", f"A parameter is neither true nor false. Known here: {known}.")
    values = {name: FLAGS[value.lower()] for name, value in given}
    return tuple(values.get(name, False) for name in names)
