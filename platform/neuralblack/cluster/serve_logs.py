"""What this package says in a replica goes into the log that Serve keeps of it, as JSON with the request's id."""

import logging
from logging.handlers import MemoryHandler

import neuralblack


def log_beside_serve(level: int = logging.INFO) -> None:
    """Give the package's loggers the files and filters of Serve's own; in a replica, where Serve has made them.

    Serve holds lines of its access log back, up to a thousand of them. Ours are written at once.
    """
    ours = logging.getLogger(neuralblack.__name__)
    ours.setLevel(level)
    ours.propagate = False  # else each line came a second time, by way of stderr
    for theirs in logging.getLogger("ray.serve").handlers:
        handler = MemoryHandler(1, target=theirs.target) if isinstance(theirs, MemoryHandler) else theirs
        for each in theirs.filters:
            handler.addFilter(each)
        ours.addHandler(handler)
