"""The files of the page, each at its address."""

import asyncio
import gzip
import re
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from neuralblack.service.example_slices import EXAMPLES, draw_example

SCRIPTS = (
    "answers",
    "app",
    "card",
    "confidence",
    "copy",
    "door",
    "elements",
    "examples",
    "feedback",
    "limits",
    "mark",
    "progress",
    "server",
    "several",
    "shortcuts",
    "slice",
    "study",
    "turn",
    "viewer",
    "visit",
)
PAGE = {  # address -> file in page/, media type
    "/": ("index.html", "text/html; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in SCRIPTS},
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
}
GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))")  # in what a client takes
SWAGGER = {"/swagger-ui-bundle.js": "text/javascript; charset=utf-8", "/swagger-ui.css": "text/css; charset=utf-8"}


def add_page(app: FastAPI) -> None:
    """Serve the page, and the interface to be read in a browser; both are open to everybody and know nothing."""
    page = resources.files("neuralblack.service") / "page"
    for address, (name, kind) in PAGE.items():
        _add_file(app, address, page / name, kind)
    for address, kind in SWAGGER.items():
        _add_file(app, address, resources.files("fastapi_offline") / "static" / address.removeprefix("/"), kind)
    for name in EXAMPLES:
        _add_example(app, name)


def _add_file(app: FastAPI, address: str, file: Traversable, kind: str) -> None:
    content = file.read_bytes()
    packed: list[bytes] = []  # from the first request on; Swagger's takes a twentieth of a second

    async def answer(request: Request) -> Response:
        headers = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if not GZIP.search(request.headers.get("accept-encoding", "")):
            return Response(content, media_type=kind, headers=headers)
        if not packed:
            packed.append(await asyncio.to_thread(gzip.compress, content, mtime=0))
        return Response(packed[0], media_type=kind, headers=headers | {"Content-Encoding": "gzip"})

    app.add_api_route(address, answer, methods=["GET", "HEAD"], include_in_schema=False)


def _add_example(app: FastAPI, name: str) -> None:
    async def example() -> Response:
        picture = await asyncio.to_thread(draw_example, name)  # answers go on beside it
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "max-age=86400"})

    app.add_api_route(f"/examples/{name}.jpg", example, methods=["GET", "HEAD"], include_in_schema=False)
