"""Classify the files that a person names, one after the other."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from neuralblack.data.crops import NEED_BOX
from neuralblack.data.preprocessing import Preprocessing, marked, prepared
from neuralblack.data.readers import read_slice, stream_bytes
from neuralblack.data.slices import Box, Prepared
from neuralblack.errors import InputError
from neuralblack.inference.predictor import Prediction, Predictor
from neuralblack.registry.model_folder import ModelFolder

STANDARD_INPUT = "-"


def classify_files(
    files: Sequence[Path], folder: ModelFolder, *, engine: str = "auto", box: Box | None = None
) -> Iterator[tuple[Path, Prediction | InputError]]:
    """Classify files; what cannot be read is yielded with its error, and the others go on.

    Args:
        files: one slice each; `-` is standard input.
        folder: the model; its engine is built for the first file that can be read, which takes seconds.
        engine: a key of ENGINES.
        box: of the tumour in the only file, in its pixels, for a model that is shown marked tumours.

    Raises:
        InputError: a box with several files, for a model that is shown none, or outside of the slice.

    """
    if box and len(files) > 1:
        fix = "ask about each alone"
        raise InputError("--box", found=f"{len(files)} files", expected="one, as the box is in its pixels", fix=fix)
    if box and folder.config.input not in NEED_BOX:
        raise InputError(
            "--box",
            found=f"a box for {folder.id}, which looks at whole slices",
            expected="a model of input roi",
            fix="leave out --box, or name such a model: --model",
        )
    predictor: Predictor | None = None
    for file in files:
        try:
            slice_ = read_prepared(file, folder.spec)
        except InputError as error:
            yield file, error
            continue
        predictor = predictor or Predictor(folder, engine=engine)
        yield file, predictor([marked(slice_, box, where=f"{file}, --box") if box else slice_])[0]


def read_prepared(file: Path, spec: Preprocessing) -> Prepared:
    """Read and prepare a file, `-` from standard input; raises InputError where it is not a slice."""
    named = str(file) != STANDARD_INPUT
    if named and file.is_dir():
        fix = f"name the files in it, or python jobs/predict.py {file} OUT"
        raise InputError(file, found="a folder", expected="a file", fix=fix)
    source = file if named else stream_bytes(sys.stdin.buffer, where=file)
    return prepared(read_slice(source, where=file, labelled=False), spec, where=file)


def words_of(answer: Prediction) -> list[str]:
    """Say an answer in columns: class, probability, and the other classes of its prediction set; or refused, why."""
    if answer.label is None:
        return [answer.status, " ".join(reason.sentence for reason in answer.reasons)]
    others = [name for name in answer.prediction_set or () if name != answer.label]
    sure = "not calibrated" if answer.coverage is None else f"{answer.coverage:.0%}"
    return [answer.label, f"{answer.probability:.3f}", *([f"or {', '.join(others)} ({sure})"] if others else [])]
