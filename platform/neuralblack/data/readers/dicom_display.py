"""From the values that a DICOM file stores to those that a screen would show."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.errors import InputError

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")  # PS3.3 C.11.2.1.3: how a window maps values


def shown_values(values: NDArray[np.generic], header: Any, *, little: bool, where: object) -> NDArray[np.generic]:
    """Apply what PS3.3 C.11.1 (modality), C.7.5.1.1.2 (padding) and C.11.2 (display) say about stored values (H, W).

    Of several windows or tables the first is taken. `little` is the order of the bytes in tables. Raises InputError
    where a window has no width or no known function, and pydicom's own errors where the header is broken.
    """
    from pydicom.pixels.processing import apply_modality_lut, apply_windowing

    padding = _padding(values, header)
    if header.get("ModalityLUTSequence"):
        values = _looked_up(values, header.ModalityLUTSequence[0], little=little)
    elif header.get("RescaleSlope") is not None and header.get("RescaleIntercept") is not None:
        values = apply_modality_lut(values, header)
    if padding.any() and not padding.all():
        picture = values[~padding]
        darkest = picture.max() if header.PhotometricInterpretation == "MONOCHROME1" else picture.min()
        values = np.where(padding, darkest, values)
    if header.get("VOILUTSequence"):
        return _looked_up(values, header.VOILUTSequence[0], little=little)
    if header.get("WindowCenter") is None or header.get("WindowWidth") is None:
        return values
    header.VOILUTFunction = _function(header, where=where)
    shown: NDArray[np.generic] = apply_windowing(values, header)
    return shown


def _function(header: Any, *, where: object) -> str:
    """Name the function of the first window; raises InputError where it cannot be applied."""
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    width = header.WindowWidth[0] if header["WindowWidth"].VM > 1 else header.WindowWidth
    if function not in FUNCTIONS:
        raise InputError(
            where,
            found="a display window whose VOILUTFunction is none of the standard's",
            expected=" or ".join(FUNCTIONS),
            fix="set one of them or none, and export the slice again",
        )
    linear = function == "LINEAR"
    if width < 1 if linear else width <= 0:  # PS3.3 C.11.2.1.2.1 and C.11.2.1.3
        raise InputError(
            where,
            found=f"a display window {'narrower than 1' if linear else 'of width 0 or less'}",
            expected=f"a WindowWidth {'of 1 or more' if linear else 'above 0'}",
            fix="set a window and export the slice again",
        )
    return function


def _padding(values: NDArray[np.generic], header: Any) -> NDArray[np.bool_]:
    """Find the pixels that only fill the picture up: a padding of -32768 left as it is would make all tissue white."""
    ends = [header.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return np.zeros(values.shape, np.bool_)
    lowest = -(2**15) if header.PixelRepresentation else 0  # the ends have 16 bits, some without their sign
    known = [(int(end) - lowest) % 2**16 + lowest for end in ends if end is not None]
    whole = values.astype(np.int64)
    return (whole >= min(known)) & (whole <= max(known))


def _looked_up(values: NDArray[np.generic], item: Any, *, little: bool) -> NDArray[np.generic]:
    """Send values through a table (PS3.3 C.11.1.1): below its first entry they get the first, above its last the last.

    Not pydicom's own: version 3.0 keeps the index in the type of the entries, so 12 bits wrap in a table of 8.
    """
    entries, first, _ = (int(number) for number in item.LUTDescriptor)
    entries = entries or 2**16  # which two bytes cannot say
    data = item.LUTData
    if not isinstance(data, bytes):
        table: NDArray[np.generic] = np.asarray(data, np.uint16)
    elif len(data) < 2 * entries:
        table = np.frombuffer(data, np.uint8)
    else:
        table = np.frombuffer(data, "<u2" if little else ">u2")
    index = np.clip(values.astype(np.float64) - first, 0, entries - 1)
    return table[index.astype(np.int64)]
