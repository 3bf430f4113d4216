"""THE forward pass: evaluation, `neuralblack predict` and the service all ask this one object."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from neuralblack.data.crops import NEED_BOX, REGIONS, WHOLE, box_at, crop, uncrop
from neuralblack.data.slices import Box, Prepared
from neuralblack.errors import InputError
from neuralblack.inference.calibration import in_set, softmax
from neuralblack.inference.engines import build_engine
from neuralblack.inference.gradcam import enlarged, grad_cam
from neuralblack.inference.out_of_distribution import REASONS, Reason
from neuralblack.inference.outputs import Outputs
from neuralblack.inference.reference import load_gate
from neuralblack.models.inputs import to_input
from neuralblack.registry.model_folder import ModelFolder, load_weights, model_path, open_model

BATCH = 32  # slices per forward pass; above 8 nothing is gained on a CPU, a GPU wants more


@dataclass(frozen=True)
class Prediction:
    """One slice's answer. Refused: no label and nothing that sounds like one, but the reasons.

    `probabilities` are calibrated and sum to 1. `prediction_set` holds the true class for `coverage` of the slices of
    new patients, most probable class first; of a model that was not calibrated it is all classes and `coverage` None.
    """

    status: str  # "ok" or "refused"
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    prediction_set: tuple[str, ...] | None = None
    coverage: float | None = None
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a model says of N slices, for counting.

    probabilities (N, K) float32; in_set (N, K) whether a class is in the prediction set; refused (N,) by the gate.
    """

    probabilities: NDArray[np.float32]
    in_set: NDArray[np.bool_]
    refused: NDArray[np.bool_]


class Predictor:
    """A loaded model: prepared slices in, answers out."""

    def __init__(self, folder: ModelFolder, *, engine: str = "auto", device: str | None = None) -> None:
        self.folder = folder
        self.classes, self.spec, self.hash, self.name = folder.classes, folder.spec, folder.hash, folder.id
        self._run = build_engine(folder, name=engine, device=device)
        self.engine = self._run.name  # which `auto` may have chosen
        self.calls_at_once = self._run.calls_at_once
        calibration = folder.calibration
        self.temperature = float(calibration.get("temperature", 1.0))
        sets = calibration.get("prediction_set", {})
        self._least, self.coverage = float(sets.get("least_probability", 0.0)), sets.get("coverage")
        self._gate = load_gate(folder)
        self.needs_box = folder.config.input in NEED_BOX
        self._region = REGIONS[folder.config.input]
        self._stages: torch.nn.Sequential | None = None
        self.failed = 0  # forward passes in a row that raised

    @classmethod
    def load(cls, path: Path, *, engine: str = "auto", device: str | None = None) -> "Predictor":
        """Load a model folder, or a run's; every hash is checked before the first weight."""
        return cls(open_model(model_path(path)), engine=engine, device=device)

    def probabilities(
        self, images: NDArray[np.uint8], boxes: NDArray[np.int64] | None = None, *, batch: int = BATCH
    ) -> NDArray[np.float32]:
        """Classify prepared slices, also those that the gate would refuse: (N, S, S) uint8 -> (N, K) float32.

        `boxes` (N, 4) are those of a dataset, for a model that needs them; raises InputError where one is missing.
        """
        return self._ask(self._shown(images, boxes), batch=batch)[0]

    def judge(self, images: NDArray[np.uint8], boxes: NDArray[np.int64] | None = None) -> Judgement:
        """Classify prepared slices as `probabilities` does, and say which of them would have been refused."""
        shares, behind = self._ask(self._shown(images, boxes), batch=BATCH)
        refused = [bool(self._gate.before(Prepared(one)) or late) for one, late in zip(images, behind, strict=True)]
        return Judgement(shares, in_set(shares, self._least), np.array(refused, bool))

    def __call__(self, questions: Sequence[Prepared | NDArray[np.uint8]]) -> list[Prediction]:
        """Answer slices in one batch; a plain array, (S, S) uint8, is a slice that was grey.

        The network sees only those whose pixels pass the gate.
        """
        asked = [one if isinstance(one, Prepared) else Prepared(one) for one in questions]
        boxless = (Reason("no_box", REASONS["no_box"]),) if self.needs_box else ()
        answers = [self._refusal(self._gate.before(one) or (boxless if one.box is None else ())) for one in asked]
        passed = [index for index, answer in enumerate(answers) if answer is None]
        if passed:
            shown = np.stack([self._cut(asked[index].pixels, asked[index].box) for index in passed])
            shares, behind = self._ask(shown, batch=len(passed))
            held = in_set(shares, self._least)
            for index, row, members, reasons in zip(passed, shares, held, behind, strict=True):
                answers[index] = self._refusal(reasons) or self._prediction(row, members)
        return [answer for answer in answers if answer is not None]

    def explain(self, pixels: NDArray[np.uint8], label: str | None = None, box: Box | None = None) -> NDArray[np.uint8]:
        """Draw where the network found what speaks for a class: (S, S) uint8 -> (S, S) uint8, 255 where most.

        It shows where the network looked, not where a tumour is. The gradients need the network itself: the first call
        loads its weights a second time, in fp32 on the CPU, and keeps them.

        Args:
            pixels: a prepared slice.
            label: the class; none given: the most probable one.
            box: of the tumour in the slice, for a model that needs it.

        Returns:
            The heat where it lies in the slice; 0 outside of what the network was shown.

        Raises:
            InputError: the model's folder is no more what it was.
        """
        if self._stages is None:
            self._stages = load_weights(self.folder).requires_grad_(False)
        region = self._region(pixels, box)
        shown = crop(pixels, region)
        inputs = to_input(torch.from_numpy(np.array(shown[None])), self.folder.network)
        with torch.inference_mode():
            top = int(self._stages(inputs).argmax())
        heat = grad_cam(self._stages, inputs, self.classes.index(label) if label else top)
        return uncrop(enlarged(heat, self.spec.size), region)

    def _shown(self, images: NDArray[np.uint8], boxes: NDArray[np.int64] | None) -> NDArray[np.uint8]:
        """Show slices as the network takes them; raises InputError where a box is needed and missing."""
        if self.folder.config.input == WHOLE or not len(images):
            return images
        known = [None] * len(images) if boxes is None else [box_at(box) for box in boxes]
        if self.needs_box and None in known:
            raise InputError(
                self.name,
                found=f"{known.count(None)} of {len(known)} slices without the box of a tumour",
                expected="an outlined tumour on each",
                fix="take a dataset of outlined tumours alone, or another model",
            )
        return np.stack([self._cut(*each) for each in zip(images, known, strict=True)])

    def _cut(self, pixels: NDArray[np.uint8], box: Box | None) -> NDArray[np.uint8]:
        return crop(pixels, self._region(pixels, box))

    def _ask(self, images: NDArray[np.uint8], *, batch: int) -> tuple[NDArray[np.float32], list[tuple[Reason, ...]]]:
        """Run slices through the network: calibrated probabilities, and what speaks against each."""
        shares, reasons = [np.zeros((0, len(self.classes)), np.float32)], []
        for at in range(0, len(images), batch):
            outputs = self._forward(images[at : at + batch])
            shares.append(softmax(outputs.logits.numpy(), self.temperature))
            reasons += self._gate.behind(outputs.features.numpy())
        return np.concatenate(shares), reasons

    def _forward(self, images: NDArray[np.uint8]) -> Outputs:
        """Run one batch and count failures in a row.

        Nothing but (B, S, S) uint8 comes here, so what raises is the engine or its device, never somebody's upload.
        """
        try:
            outputs = self._run(torch.from_numpy(np.array(images)))
        except Exception:
            self.failed += 1
            raise
        self.failed = 0
        return outputs

    def _refusal(self, reasons: tuple[Reason, ...]) -> Prediction | None:
        return Prediction("refused", reasons=reasons) if reasons else None

    def _prediction(self, row: NDArray[np.float32], members: NDArray[np.bool_]) -> Prediction:
        order = np.argsort(-row, kind="stable")
        return Prediction(
            "ok",
            self.classes[order[0]],
            float(row[order[0]]),
            {name: float(value) for name, value in zip(self.classes, row, strict=True)},
            tuple(self.classes[index] for index in order if members[index]),
            self.coverage,
        )
