"""Pictures that are no brain MRI, for `benchmarks/gate.py`: drawn, or cut from what installed packages ship.

Each function takes a random generator and returns (H, W) or (H, W, 3) uint8. KINDS lists them; the CT and the knee are
drawings with the grey values of one, not scans.
"""

import gzip
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Picture = NDArray[np.uint8]
Draw = Callable[[np.random.Generator], Picture]
SIDE = 256
WORDS = ["patient", "scan", "report", "left", "right", "contrast", "series", "figure", "table", "of", "the", "and"]


@cache
def _photos() -> list[Picture]:
    """China and flower of scikit-learn, Grace Hopper of matplotlib."""
    import matplotlib
    from sklearn.datasets import load_sample_images

    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return [*load_sample_images().images, np.asarray(Image.open(hopper).convert("RGB"))]


def photo(rng: np.random.Generator) -> Picture:
    """Cut a random rectangle, at least half of each side, out of a photograph."""
    whole = _photos()[rng.integers(len(_photos()))]
    height, width = (int(side * rng.uniform(0.5, 1)) for side in whole.shape[:2])
    top, left = (int(rng.integers(side - part + 1)) for side, part in zip(whole.shape, (height, width), strict=False))
    return whole[top : top + height, left : left + width]


def grey_photo(rng: np.random.Generator) -> Picture:
    """Take the colour from a photograph."""
    return np.asarray(Image.fromarray(photo(rng)).convert("L"))


def vignetted_photo(rng: np.random.Generator) -> Picture:
    """Show a grey photograph in an ellipse on black, as a head lies in its slice."""
    picture = Image.fromarray(grey_photo(rng)).resize((SIDE, SIDE))
    return np.where(_ellipse(0.7, 0.85) > 0, np.asarray(picture), 0).astype(np.uint8)


def document(rng: np.random.Generator) -> Picture:
    """Write words, black on white."""
    page = Image.new("L", (300, 400), 255)
    draw = ImageDraw.Draw(page)
    for line in range(20, 380, 16):
        draw.text((20, line), " ".join(rng.choice(WORDS, 7)), fill=int(rng.integers(0, 60)))
    return np.asarray(page)


def dark_screenshot(rng: np.random.Generator) -> Picture:
    """Draw windows with pale text on a dark desktop, in grey."""
    page = Image.new("L", (400, 300), int(rng.integers(0, 30)))
    draw = ImageDraw.Draw(page)
    for _ in range(3):
        left, top = (int(value) for value in rng.integers(0, 200, 2))
        draw.rectangle((left, top, left + 180, top + 110), fill=int(rng.integers(20, 90)))
        for line in range(top + 8, top + 100, 14):
            draw.text((left + 8, line), " ".join(rng.choice(WORDS, 4)), fill=int(rng.integers(150, 255)))
    return np.asarray(page)


def chart(rng: np.random.Generator) -> Picture:
    """Draw axes, bars and a line."""
    page = Image.new("L", (360, 260), 255)
    draw = ImageDraw.Draw(page)
    draw.line([(30, 10), (30, 230), (350, 230)], fill=0, width=2)
    heights = rng.integers(20, 200, 8)
    for index, height in enumerate(heights):
        draw.rectangle((45 + 38 * index, 230 - int(height), 70 + 38 * index, 230), fill=int(rng.integers(60, 200)))
    draw.line([(57 + 38 * index, 220 - int(height)) for index, height in enumerate(heights)], fill=0, width=2)
    return np.asarray(page)


def white_noise(rng: np.random.Generator) -> Picture:
    """Draw every pixel by itself."""
    return rng.integers(0, 256, (SIDE, SIDE), np.uint8)


def pink_noise(rng: np.random.Generator) -> Picture:
    """Filter noise so that its amplitude falls with frequency, as in natural pictures."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    frequency[0, 0] = 1
    return _stretched(np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIDE, SIDE))) / frequency).real)


def blob_noise(rng: np.random.Generator) -> Picture:
    """Show pink noise in an ellipse on black."""
    return np.where(_ellipse(0.7, 0.85) > 0, pink_noise(rng), 0).astype(np.uint8)


def blank(rng: np.random.Generator) -> Picture:
    """Show one brightness."""
    return np.full((SIDE, SIDE), rng.integers(256), np.uint8)


def gradient(rng: np.random.Generator) -> Picture:
    """Draw a slope in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:SIDE, :SIDE]
    return _stretched(np.cos(angle) * x + np.sin(angle) * y)


def ct(rng: np.random.Generator) -> Picture:
    """Draw a head as CT shows it: the skull white, the brain one grey, the table below."""
    outer, inner = rng.uniform(0.65, 0.8), rng.uniform(0.05, 0.09)
    head = _ellipse(outer, outer * 1.15)
    picture = np.where(head > 0, 110.0, 0.0)
    picture[(head > 0) & (_ellipse(outer - inner, (outer - inner) * 1.15) <= 0)] = 255
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) * 2 - 1
    for side in (-1, 1):
        picture[((x - side * 0.09) / 0.06) ** 2 + (y / 0.25) ** 2 < 1] = 85  # ventricles
    picture[(np.abs(y - 0.95 + 0.1 * x**2) < 0.015) & (np.abs(x) < 0.7)] = 180
    return _scanned(picture, rng)


def knee(rng: np.random.Generator) -> Picture:
    """Draw two long bones that meet, with muscle around them, as a sagittal MRI of a knee shows them."""
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) * 2 - 1
    bend = rng.uniform(-0.15, 0.15)
    leg = np.abs(x - bend * y) < 0.62 - 0.1 * np.abs(y)
    picture = np.where(leg, 90.0, 0.0)
    picture[leg & (np.abs(x - bend * y) > 0.54 - 0.1 * np.abs(y))] = 220  # fat below the skin
    bone = (np.abs(x - bend * y) < 0.25 + 0.18 * np.exp(-((np.abs(y) - 0.18) ** 2) / 0.05)) & (np.abs(y) > 0.05)
    picture[bone] = 190
    return _scanned(picture, rng)


def belly(rng: np.random.Generator) -> Picture:
    """Draw a wide body in cross-section: liver, spine, two kidneys."""
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) * 2 - 1
    picture = np.where((x / 0.95) ** 2 + (y / 0.65) ** 2 < 1, 200.0, 0.0)
    picture[(x / 0.86) ** 2 + (y / 0.56) ** 2 < 1] = 90
    for left, top, wide, high, grey in (
        (-0.4, -0.1, 0.4, 0.35, 140),
        (0, 0.35, 0.13, 0.13, 230),
        (-0.4, 0.3, 0.14, 0.1, 180),
        (0.4, 0.3, 0.14, 0.1, 180),
    ):
        place = ((x - left - rng.normal() * 0.03) / wide) ** 2 + ((y - top) / high) ** 2 < 1
        picture[place] = grey
    return _scanned(picture, rng)


def terrain(rng: np.random.Generator) -> Picture:
    """Cut a square out of matplotlib's elevation map."""
    import matplotlib

    heights = np.load(Path(matplotlib.get_data_path()) / "sample_data" / "jacksboro_fault_dem.npz")["elevation"]
    top, left = (int(rng.integers(side - 200)) for side in heights.shape)
    return _stretched(heights[top : top + 200, left : left + 200].astype(float))


def other_mri() -> Picture:
    """Read the one MRI slice that matplotlib ships: a head, another sequence, another scanner."""
    import matplotlib

    with gzip.open(Path(matplotlib.get_data_path()) / "sample_data" / "s1045.ima.gz") as file:
        return _stretched(np.frombuffer(file.read(), np.uint16).reshape(256, 256).astype(float))


KINDS: dict[str, Draw] = {
    "photographs in colour": photo,
    "photographs in grey": grey_photo,
    "grey photographs in an ellipse on black": vignetted_photo,
    "elevation maps": terrain,
    "documents": document,
    "dark screenshots": dark_screenshot,
    "charts": chart,
    "white noise": white_noise,
    "pink noise": pink_noise,
    "pink noise in an ellipse on black": blob_noise,
    "blank": blank,
    "gradients": gradient,
    "drawn CT heads": ct,
    "drawn knees": knee,
    "drawn abdomens": belly,
}


def _ellipse(wide: float, high: float) -> NDArray[np.float64]:
    """Positive inside an ellipse of these half-axes, in halves of the picture."""
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) * 2 - 1
    inside: NDArray[np.float64] = 1 - (x / wide) ** 2 - (y / high) ** 2
    return inside


def _scanned(picture: NDArray[np.float64], rng: np.random.Generator) -> Picture:
    """Blur a drawing a little and add a scanner's noise, which is Rician."""
    soft = np.asarray(Image.fromarray(picture.astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.2)), np.float64)
    noisy = np.hypot(soft + rng.normal(0, 6, soft.shape), rng.normal(0, 6, soft.shape))
    return noisy.clip(0, 255).astype(np.uint8)


def _stretched(values: NDArray[np.float64]) -> Picture:
    return ((values - values.min()) / np.ptp(values) * 255).astype(np.uint8)
