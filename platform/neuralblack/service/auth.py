"""The bearer token: where it comes from, and whether a request has it."""

import hmac
from collections.abc import Mapping

from neuralblack.errors import InputError

VARIABLE = "NEURALBLACK_TOKEN"
MIN_LENGTH = 16  # below, trying all of them becomes thinkable
SCHEME = {"bearer": {"type": "http", "scheme": "bearer", "description": f"The value of {VARIABLE} on the server."}}


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
    if len(token) < MIN_LENGTH or not all("!" <= letter <= "~" for letter in token):
        raise InputError(
            f"environment {VARIABLE}",
            found=f"a token of {len(token)} characters",  # and not the token: this line may go into a log
            expected=f"at least {MIN_LENGTH} printable ASCII characters without blanks",
            fix=fix,
        )
    return token


def has_token(authorization: str, token: str) -> bool:
    """Look whether a header's value holds the token, in a time that does not tell how much of it was right.

    The scheme's name has no case (RFC 9110, 11.1).
    """
    scheme, _, given = authorization.partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    return same and scheme.lower() == "bearer"
