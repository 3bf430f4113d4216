"""Slices to try the page with: made-up heads, drawn when they are first asked for.

They come from the generator of the demo's scans, so no picture lies in the repository, and none is of a person.
"""

import io
from functools import cache

from PIL import Image

from neuralblack.data.phantoms import Patient, draw_phantom
from neuralblack.data.preprocessing import Preprocessing, preprocess

EXAMPLES = {  # name in the address -> class, view, seed: of the first dozen seeds, one that is plain to see
    "glioma": ("glioma", "axial", 5),
    "meningioma": ("meningioma", "axial", 4),
    "pituitary": ("pituitary", "sagittal", 4),
    "no-tumour": ("no tumour", "axial", 1),
}
SIZE = 192  # pixels along each side
QUALITY = 80  # of the JPEG, some 8 kB
COMMENT = b"a made-up slice of NeuralBlack's page"  # within the JPEG's first bytes, by which a service knows it again
HEAD_BYTES = 128


@cache
def draw_example(name: str) -> bytes:
    """Draw one, a JPEG; `name` is a key of EXAMPLES. It takes a tenth of a second, the first time."""
    label, view, seed = EXAMPLES[name]
    phantom = draw_phantom(Patient.draw(label, seed=seed), view, size=SIZE)
    jpeg = io.BytesIO()
    image = Image.fromarray(preprocess(phantom.image, Preprocessing(size=SIZE), where=name))
    image.save(jpeg, "JPEG", quality=QUALITY, comment=COMMENT)
    return jpeg.getvalue()


def is_example(data: bytes) -> bool:
    """Tell an upload that is one of these: it says nothing about what a service sees, and counts as no input."""
    return COMMENT in data[:HEAD_BYTES]
