"""The two errors people see: an InputError they can mend (status 2), a RunError of a run that failed (status 1)."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something outside the program is wrong and the reader of this message can fix it.

    Bugs inside the program are not InputErrors: let them crash with a traceback.
    """

    def __init__(self, where: object, *, found: object, expected: str, fix: str) -> None:
        self.where, self.found, self.expected, self.fix = str(where), str(found), expected, fix
        super().__init__(f"{where}: found {found}; expected {expected}. Fix: {fix}")

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the way from a worker process, where exceptions are pickled."""
        return _input_error, (type(self), self.where, self.found, self.expected, self.fix)

    def at(self, where: object) -> "InputError":
        """Say the same of another place: a server names no file of its user."""
        return type(self)(where, found=self.found, expected=self.expected, fix=self.fix)


class PassingError(InputError):
    """An InputError that may pass by itself, such as a full disk or a server that does not answer."""


class RunError(RuntimeError):
    """A run that was set up well ended without its result: a worker died or its code raised."""


@contextmanager
def known_to_be_there() -> Iterator[None]:
    """Turn an InputError into one that may pass: of what the driver has just read, and a node may not reach yet."""
    try:
        yield
    except InputError as error:
        raise PassingError(error.where, found=error.found, expected=error.expected, fix=error.fix) from None


def is_final(error: BaseException) -> bool:
    """Tell whether the same work would end with this error again, however often it is tried.

    >>> is_final(RunError("the loss is nan")), is_final(ConnectionError())
    (True, False)
    """
    return isinstance(error, RunError | InputError) and not isinstance(error, PassingError)


def _input_error(kind: type[InputError], where: str, found: str, expected: str, fix: str) -> InputError:
    return kind(where, found=found, expected=expected, fix=fix)
