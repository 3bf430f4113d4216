"""Take one file out of a request: a raw body or a multipart form, never more than a limit, never onto a disk."""

from collections.abc import AsyncGenerator

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from neuralblack.data.readers import KINDS, recognised
from neuralblack.service.problems import Problem

FRAME_BYTES = 64 * 1024  # of a multipart form around its file: boundaries and part headers
FIELD = "file"
OF_DICOM = "A DICOM file has DICM behind its first 128 bytes; one without is exported again as a file (PS3.10)."


async def read_upload(request: Request, *, max_bytes: int) -> bytes:
    """Read the one file of a request into memory.

    Raises:
        Problem: 400 nothing or an unreadable form, 413 more than `max_bytes`, 415 no format that has a reader.
    """
    if is_form(request):
        data = await _form_file(request, max_bytes=max_bytes)
    else:
        data = await read_body(request, max_bytes=max_bytes)
    return checked_upload(data, max_bytes=max_bytes)


def is_form(request: Request) -> bool:
    """Tell whether a request says that its body is a multipart form."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """Read a whole body into memory; raises Problem 413."""
    return b"".join([chunk async for chunk in _limited(request, max_bytes=max_bytes, larger=too_large(max_bytes))])


def size_of(count: int) -> str:
    """Write a number of bytes for a sentence.

    >>> size_of(20 * 2**20), size_of(1000)
    ('20 MiB', '1000 bytes')
    """
    return f"{count / 2**20:g} MiB" if count >= 2**20 else f"{count} bytes"


def checked_upload(data: bytes, *, max_bytes: int) -> bytes:
    """Give back a file's bytes where they can be a slice; raises Problem 400, 413 or 415 as `read_upload`."""
    if len(data) > max_bytes:
        raise too_large(max_bytes)
    if not data:
        raise Problem(400, "empty", f"The upload is empty. Send one slice as {KINDS}.")
    if not recognised(data):
        raise Problem(415, "unsupported", f"The upload is of no kind this service reads: send {KINDS}. {OF_DICOM}")
    return data


async def _form_file(request: Request, *, max_bytes: int) -> bytes:
    form = await read_form(request, max_bytes=max_bytes, most=1)
    file = form.get(FIELD)
    if not isinstance(file, UploadFile):
        raise Problem(400, "no_file", f"The form has no file in its field “{FIELD}”.")
    return await file.read()


async def read_form(
    request: Request, *, max_bytes: int, most: int, larger: Problem | None = None, more: Problem | None = None
) -> FormData:
    """Read a multipart form of at most `most` files into memory, `max_bytes` and its frame in all.

    Raises:
        Problem: 400 it cannot be read; `larger` or else 413, where it is; `more` or else 400, where it has more files.
    """
    stream = _limited(request, max_bytes=max_bytes + FRAME_BYTES, larger=larger or too_large(max_bytes))
    parser = _InMemory(request.headers, stream, max_files=most, max_fields=8, max_part_size=FRAME_BYTES)
    try:
        return await parser.parse()
    except MultiPartException as error:
        if more and error.message.startswith("Too many files"):
            raise more from None
        raise Problem(400, "bad_form", f"The form cannot be read: {error.message}") from None


async def _limited(request: Request, *, max_bytes: int, larger: Problem) -> AsyncGenerator[bytes, None]:
    """Pass on a body's pieces until there are too many bytes, whatever its header promised; then raise `larger`.

    A client hears an answer only when it has sent its body, so twice the limit more is read and thrown away.
    """
    stated = request.headers.get("content-length", "")
    over = stated.isdecimal() and int(stated) > max_bytes
    taken = 0
    async for chunk in request.stream():
        taken += len(chunk)
        over = over or taken > max_bytes
        if not over:
            yield chunk
        elif taken > 3 * max_bytes:
            break
    if over:
        raise larger


def too_large(max_bytes: int) -> Problem:
    """Say that an upload is larger than a slice may be."""
    return Problem(413, "too_large", f"The upload is larger than {size_of(max_bytes)}. Send one slice, not a volume.")


class _InMemory(MultiPartParser):
    """Starlette's parser, which would write files of more than 1 MB to the disk and pass over a part without an end."""

    spool_max_size = 2**40
    has_ended = False

    def on_end(self) -> None:
        self.has_ended = True

    async def parse(self) -> FormData:
        try:
            form = await super().parse()
        except UnicodeError:  # of a charset like `undefined` or `punycode`, which is the client's choice
            raise MultiPartException("its charset does not decode it") from None
        if not self.has_ended:
            raise MultiPartException("it ends before its last boundary")
        return form
