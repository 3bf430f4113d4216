"""Slices kept as ordinary images: PNG, JPEG and TIFF, 8 or 16 bits, grey, RGB, RGBA or palette."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, ImageStat, UnidentifiedImageError

from neuralblack.data.slices import MAX_SIDE, Slice, check_sides
from neuralblack.errors import InputError

FORMATS = ("PNG", "JPEG", "TIFF")  # no others: each decoder Pillow may choose is one more that can be attacked
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # TIFF 6.0, section 3
SAMPLE_FORMAT = 339  # TIFF 6.0, section 19
# Pillow's mode, the file's sample format -> what the bits are.
HIDDEN: dict[tuple[str, tuple[int, ...]], type[np.generic]] = {("L", (2,)): np.int8, ("I", (1,)): np.uint32}


def recognises(data: bytes) -> bool:
    """Tell PNG, JPEG and TIFF by their first bytes; a PNG named .jpg is common and fine."""
    return data.startswith(MAGIC)


def read(data: bytes, *, where: object, labelled: bool) -> Slice:
    """Decode one image to grey; it never carries a label, so `labelled` changes nothing.

    Raises InputError where it is broken, too small or large, of several frames, or in the colours LAB.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_sides(image.height, image.width, where=where)  # before any pixel is decoded
            frames = getattr(image, "n_frames", 1)
            if frames != 1:
                raise InputError(
                    where,
                    found=f"an image of {frames} frames",
                    expected="one slice",
                    fix="split volumes into slices first",
                )
            if image.mode == "LAB":  # which Pillow opens, and converts to nothing
                raise InputError(
                    where, found="an image in the colours LAB", expected="grey or RGB", fix="export the slice in grey"
                )
            return Slice(_grey(image), colour=_colour(image))
    except InputError:
        raise
    except Image.DecompressionBombError:  # Pillow's own limit, met while it reads the header
        raise InputError(
            where,
            found="an image of hundreds of megapixels",
            expected=f"at most {MAX_SIDE} pixels on each side",
            fix="export the slice at its own size",
        ) from None
    except UnidentifiedImageError as error:  # also of whole files: no mode of Pillow's holds their pixels
        raise InputError(
            where,
            found="a broken or truncated image, or one with pixels of a rare kind (such as 64 bits)",
            expected="a whole PNG, JPEG or TIFF image of 8 or 16 bits",
            fix="export the slice again, with 8 or 16 bits a pixel",
        ) from error
    except Exception as error:  # broken images raise anything: OSError, SyntaxError, struct.error, ValueError, ...
        raise InputError(
            where,
            found=f"a broken or truncated image ({type(error).__name__} while decoding)",
            expected="a whole PNG, JPEG or TIFF image",
            fix="export the slice again",
        ) from error


def _grey(image: Image.Image) -> NDArray[np.generic]:
    """Return (H, W) in the depth of the file: convert("L") would clip 16 bits to the lowest 8.

    Colours become luma (ITU-R 601-2, exact where R = G = B); what is transparent becomes black. Colour images of
    16 bits a channel come out of Pillow with 8.
    """
    inverted, hidden = _white_is_zero(image), _hidden_type(image)
    image = ImageOps.exif_transpose(image)
    if hidden is not None:
        return np.asarray(image).view(hidden)  # never a negative: Pillow opens none of these
    if image.mode == "F" or image.mode.startswith("I"):
        deep: NDArray[np.generic] = np.asarray(image)
        return deep.max() - deep if inverted else deep
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "black")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return np.asarray(image.convert("L"))


def _colour(image: Image.Image) -> float:
    """Measure how far a picture is from grey: the mean of max(R, G, B) - min(R, G, B), 0..1.

    A grey slice saved as an RGB JPEG stays below 0.01; a sharp arrow in red on it hardly counts, a photograph does.
    """
    if image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I"):
        return 0.0
    red, green, blue = image.convert("RGB").split()
    most = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    least = ImageChops.darker(ImageChops.darker(red, green), blue)
    return float(ImageStat.Stat(ImageChops.subtract(most, least)).mean[0]) / 255


def _white_is_zero(image: Image.Image) -> bool:
    """Say whether a TIFF keeps negatives; Pillow turns these round for 8 bits, not for 16."""
    tags = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _hidden_type(image: Image.Image) -> type[np.generic] | None:
    """Name the type of a TIFF's pixels where Pillow (13.0) says another of the same width; None: as Pillow says."""
    tags = getattr(image, "tag_v2", {})
    return HIDDEN.get((image.mode, tags.get(SAMPLE_FORMAT, (1,))[:1])) if image.format == "TIFF" else None
