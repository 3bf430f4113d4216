"""Pictures of every state of the page, to look at: python -m tests.e2e.page.screenshots OUT

The page is real, and so is the browser; the slices are phantoms, and a stand-in for the model knows what each shows.
Two of the pictures are committed, docs/page.png and docs/page-dark.png.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from tests.e2e.page.conftest import CHROMIUM
from tests.e2e.page.fake_service import ANSWERS, REFUSED, UNMARKED, Prediction, broken_file
from tests.e2e.page.states import Addresses, Files, services, states

from neuralblack.data.phantoms import Patient, draw_phantom
from neuralblack.data.preprocessing import Preprocessing, preprocess

DESKTOP = {"width": 1200, "height": 900}
PHONE = {"width": 390, "height": 844}
PAPER = {"width": 703, "height": 1032}  # A4 without its margins, at 96 pixels an inch
KINDS = {  # suffix of the names -> the browser's page
    "": {"viewport": DESKTOP},
    "-dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "-phone": {"viewport": PHONE, "has_touch": True, "is_mobile": True, "device_scale_factor": 2},
}
COLOURS = 256  # of the README's pictures, which are committed
KNOWN = ("glioma", "meningioma", "pituitary")
SIZE = 256  # pixels
SLICES = 6  # of the made-up study


def sure_of(label: str, share: float, *also: str) -> Prediction:
    """Say `label`, and of the other classes half of the rest."""
    shares = {each: share if each == label else (1 - share) / 2 for each in KNOWN}
    return Prediction("ok", label, shares, (label, *also), 0.95)


def draw(label: str, view: str, *, seed: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw a made-up slice as the model sees it, (256, 256) uint8, and where its tumour is, (256, 256) bool."""
    phantom = draw_phantom(Patient.draw(label, seed=seed), view, offset=offset, size=SIZE)
    return preprocess(phantom.image, Preprocessing(size=SIZE), where="phantom"), phantom.mask


class StandIn:
    """What knows the pictures it has been given, and answers as it was told to."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Prediction, np.ndarray]] = {}

    def learn(self, pixels: np.ndarray, answer: Prediction, tumour: np.ndarray) -> None:
        self._known[pixels.tobytes()] = answer, tumour

    async def classify(self, pixels: np.ndarray) -> Prediction:
        return self._known[pixels.tobytes()][0]

    async def explain(self, pixels: np.ndarray, label: str) -> np.ndarray:
        """Look at the tumour and around it, as coarsely as a network does."""
        tumour = Image.fromarray(self._known[pixels.tobytes()][1]).convert("L")
        coarse = tumour.resize((8, 8), Image.Resampling.BOX).resize(tumour.size, Image.Resampling.BICUBIC)
        values = np.asarray(coarse, np.float32)
        return (255 * values / values.max()).astype(np.uint8)


def write_files(folder: Path, model: StandIn) -> Files:
    """Write what is chosen in the pictures, and tell the stand-in what it shows."""

    def write(name: str, answer: Prediction, pixels: np.ndarray, tumour: np.ndarray) -> Path:
        model.learn(pixels, answer, tumour)
        Image.fromarray(pixels).save(folder / name)
        return folder / name

    one = write("axial 31.png", sure_of("glioma", 0.86, "meningioma"), *draw("glioma", "axial", seed=5))
    study = []
    for number, offset in enumerate(np.linspace(-1, 1, SLICES), 1):
        answer = sure_of("meningioma", 0.55 + 0.07 * number) if number > 1 else sure_of("glioma", 0.52)
        study.append(write(f"coronal {number}.png", answer, *draw("meningioma", "coronal", seed=4, offset=offset)))
    noise = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE), np.uint8)
    refused = write("holiday.png", Prediction("refused", reasons=ANSWERS[REFUSED].reasons[1:]), noise, noise > 0)
    unmarked = write("axial 12.png", ANSWERS[UNMARKED], *draw("pituitary", "axial", seed=6))
    return Files(one, study, refused, unmarked, broken_file(folder / "half.png"))


def take(browser: Browser, at: Addresses, files: Files, out: Path, kind: str) -> None:
    """Take every state in one of the KINDS, and the heat map also as the README shows it."""
    page = browser.new_page(reduced_motion="reduce", **KINDS[kind])
    for name in states(page, at, files):
        page.screenshot(path=out / f"{name}{kind}.png", full_page=name != "card")
        if name == "heat-map":
            page.screenshot(path=out / f"page{kind}.png")
            picture = Image.open(out / f"page{kind}.png").convert("RGB")
            picture.quantize(COLOURS, dither=Image.Dither.NONE).save(out / f"page{kind}.png", optimize=True)
    page.close()


def take_print(browser: Browser, at: Addresses, files: Files, out: Path) -> None:
    """Take a result on paper."""
    page = browser.new_page(viewport=DESKTOP)
    next(state for state in states(page, at, files) if state == "heat-map")
    page.set_viewport_size(PAPER)
    page.emulate_media(media="print")
    page.screenshot(path=out / "print.png")
    page.close()


def main(out: Path) -> None:
    """Take the pictures into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    model = StandIn()
    flags = ["--no-sandbox"] if os.getuid() == 0 else []  # as in conftest
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as kept,
        services(Path(kept), classify=model.classify, explain=model.explain, size=SIZE) as addresses,
        sync_playwright() as started,
        started.chromium.launch(executable_path=str(CHROMIUM), args=flags) as browser,
    ):
        files = write_files(Path(folder), model)
        for kind in KINDS:
            take(browser, addresses, files, out, kind)
        take_print(browser, addresses, files, out)
    print(f"{len(list(out.glob('*.png')))} pictures in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
