"""Keep libraries that read medical files from quoting headers, which may name a patient."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_one_at_a_time = threading.Lock()  # a logger's level and the filters of warnings are the whole process's


@contextmanager
def silenced(package: str) -> Iterator[None]:
    """Drop what a package logs or warns of in here; where a value breaks a rule, both would repeat the value."""
    logger = logging.getLogger(package)
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(before)
