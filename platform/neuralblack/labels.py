"""The four classes, and how the sources of scans spell them."""

import re

from neuralblack.errors import InputError

NO_TUMOUR = "no tumour"
CLASSES = (NO_TUMOUR, "glioma", "meningioma", "pituitary")
FIGSHARE_CODES = {1: "meningioma", 2: "glioma", 3: "pituitary"}  # the archive's README
FOLDER_NAMES = {  # the class folders of published image collections, after _plain()
    "no": "no tumour",
    "none": "no tumour",
    "healthy": "no tumour",
    "normal": "no tumour",
    "glioma": "glioma",
    "meningioma": "meningioma",
    "pituitary": "pituitary",
}


def from_figshare(code: float, *, where: object) -> str:
    """Turn figshare's 1, 2, 3 into a class name; `where` is the file, for the message."""
    if code not in FIGSHARE_CODES:
        raise InputError(
            f"{where} cjdata/label",
            found=f"{code:g}",
            expected=", ".join(f"{code} ({name})" for code, name in FIGSHARE_CODES.items()),
            fix="download the file again; a new class goes into neuralblack/labels.py",
        )
    return FIGSHARE_CODES[int(code)]


def from_folder(name: str) -> str | None:
    """Turn a class folder's name into a class, or None where it is no class.

    >>> [from_folder(name) for name in ("glioma_tumor", "No Tumour", "notumor", "scans")]
    ['glioma', 'no tumour', 'no tumour', None]
    """
    return FOLDER_NAMES.get(_plain(name))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]|tumou?rs?", "", name.casefold())
