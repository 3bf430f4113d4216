"""What torch.compile needs of a machine, checked before it would fail in the midst of something."""

import os
import shutil

from neuralblack.errors import InputError


def need_compiler(where: str, *, instead: str) -> None:
    """Raise an InputError where there is no C++ compiler.

    Args:
        where: what the user asked for.
        instead: an option that does without.

    """
    compiler = os.environ.get("CXX", "g++")  # what torch.compile itself calls
    if shutil.which(compiler) is None:
        raise InputError(where, found=f"no {compiler}", expected="a C++ compiler", fix=f"apt install g++, or {instead}")
