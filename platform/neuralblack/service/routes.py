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


def flag(request: Request, name: str) -> bool:
    """Read a parameter that is true or false, and false where it is absent; raises Problem 422."""
    given = request.query_params.getlist(name)
    if not given:
        return False
    if len(given) > 1 or given[0].lower() not in FLAGS:
        raise Problem(422, "invalid_request", f"The parameter {name} must be true or false.")
    return FLAGS[given[0].lower()]
