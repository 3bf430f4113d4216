"""The bearer tokens: where they come from, how one is sent, and whose a request has."""

import hmac
import re
from collections.abc import Mapping

from neuralblack.errors import InputError

VARIABLE = "NEURALBLACK_TOKEN"
READERS = "NEURALBLACK_READERS"
MIN_LENGTH = 16  # below, trying all of them becomes thinkable
READER = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")  # a name that may stand in a file
SCHEME = {
    "bearer": {"type": "http", "scheme": "bearer", "description": f"The value of {VARIABLE} on the server."},
    "reader": {"type": "http", "scheme": "bearer", "description": f"A reader's token, one of {READERS}."},
}
Holders = Mapping[str, str]  # whose token it is ("" for everybody's) -> the token


def token_from(environ: Mapping[str, str], *, anonymous: bool) -> str | None:
    """Decide who may ask: whoever has the token that is returned, or everybody (None).

    A token that is set is asked for, whatever the configuration allows.

    Raises:
        InputError: no token and not `anonymous`, or one that is too short or cannot be sent in a header.
    """
    token = environ.get(VARIABLE, "").strip()
    fix = f"export {VARIABLE}=$(openssl rand -hex 32)"
    if not token:
        if anonymous:
            return None
        raise InputError(
            f"environment {VARIABLE}",
            found="no token",
            expected="a secret that clients send, or a service that is open on purpose",
            fix=f"{fix}, or set args: {{anonymous: true}} in the configuration",
        )
    _check(token, where=f"environment {VARIABLE}", fix=fix)
    return token


def readers_from(environ: Mapping[str, str]) -> dict[str, str]:
    """Read the tokens of readers, who may say what a slice is: {name: token}, empty where there are none.

    The variable holds NAME=TOKEN, several with blanks between.

    Raises:
        InputError: something else, a name or a token twice, or a token that is too short or cannot be sent in a header.
    """
    readers: dict[str, str] = {}
    fix = f'export {READERS}="anna=$(openssl rand -hex 32) ben=$(openssl rand -hex 32)"'
    for number, part in enumerate(environ.get(READERS, "").split(), start=1):
        name, equals, token = part.partition("=")
        where = f"environment {READERS}, the part {number}"
        if not equals or not READER.fullmatch(name) or name in readers:
            raise InputError(
                where,
                found="a name that is there twice" if name in readers else "something else",  # it may hold a token
                expected="NAME=TOKEN, each name once, of small letters, digits, - and _",
                fix=fix,
            )
        _check(token, where=where, fix=fix)
        readers[name] = token
    tokens = [*readers.values(), environ.get(VARIABLE, "").strip()]
    if len(set(tokens)) < len(tokens):
        raise InputError(f"environment {READERS}", found="a token twice", expected="another for each reader", fix=fix)
    return readers


def holder_of(authorization: str, holders: Holders) -> str | None:
    """Find whose token a header's value holds, None for nobody's, in a time that does not tell how much was right.

    The scheme's name has no case (RFC 9110, 11.1).
    """
    scheme, _, given = authorization.partition(" ")
    sent = given.strip().encode("utf-8", "surrogateescape")
    same = [name for name, token in holders.items() if hmac.compare_digest(sent, token.encode())]
    return same[0] if same and scheme.lower() == "bearer" else None


def bearer(token: str | None, *, where: str, fix: str) -> dict[str, str]:
    """Write the header that sends a token, without what is blank around it; none for no token.

    Raises:
        InputError: it cannot stand in a header; the token is not repeated.
    """
    token = (token or "").strip()
    if not is_plain(token):
        raise InputError(
            where,
            found=f"a token of {len(token)} characters that cannot be sent",
            expected="printable ASCII characters without blanks",
            fix=fix,
        )
    return {"Authorization": f"Bearer {token}"} if token else {}


def is_plain(text: str) -> bool:
    """Say whether a word is printable ASCII without blanks, as what stands in a header or an address must be."""
    return all("!" <= letter <= "~" for letter in text)


def _check(token: str, *, where: str, fix: str) -> None:
    if len(token) < MIN_LENGTH or not is_plain(token):
        raise InputError(
            where,
            found=f"a token of {len(token)} characters",  # and not the token: this line may go into a log
            expected=f"at least {MIN_LENGTH} printable ASCII characters without blanks",
            fix=fix,
        )
