"""What a reader says of a slice: taken out of a form, and kept where the operator has named a folder."""

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from starlette.datastructures import UploadFile
from starlette.requests import Request

from neuralblack.data.feedback import NEW_KEY, Feedback, Said, key_from, keyed, mark_key, sweep, write_feedback
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.errors import InputError
from neuralblack.files import NO_SPACE
from neuralblack.service.answers import Prediction, pixels_of
from neuralblack.service.auth import READERS, readers_from
from neuralblack.service.example_slices import is_example
from neuralblack.service.idempotency import KEY, KEY_WORDS
from neuralblack.service.problems import Problem
from neuralblack.service.uploads import FIELD, checked_upload, is_form, read_form

log = logging.getLogger(__name__)

LABEL, PATIENT = "label", "patient"
LONGEST_PATIENT = 128  # characters
NO_ROOM = "There is no room to keep it, and nothing was. Tell the operator."
DAMAGED = "What was kept under this Idempotency-Key cannot be read any more, so this was not kept. Tell the operator."
OUT_OF_REACH = "The folder for feedback is out of reach: this may not be kept. Try again later, or tell the operator."
OFF = "This service keeps no feedback: its operator has not switched it on."


@dataclass(frozen=True)
class Opinion:
    """One request's: the file's bytes, the class that the reader says it is, and whose it is, or None."""

    data: bytes
    label: str
    patient: str | None


@dataclass(frozen=True)
class FeedbackFolder:
    """Where feedback goes, and what is written beside each slice."""

    folder: Path  # exists
    key: bytes  # of patients' hashes, never in the folder
    readers: Mapping[str, str]  # name -> token
    classes: tuple[str, ...]  # that a slice can be said to be
    model: str  # hash of the one that answers
    preprocessing: Preprocessing

    async def keep(
        self, request: Request, opinion: Opinion, question: object, prediction: Prediction
    ) -> Literal["kept", "repeated"]:
        """Put an opinion and its prepared slice on the disk before this returns.

        Args:
            request: whose `state.holder` is the reader, with its Idempotency-Key.
            opinion: what the reader said.
            question: what the decoder made of the file.
            prediction: what the model says of it.

        Raises:
            Problem: 409 something else was said under this key, 500 what was is damaged, 507 no room, or the folder is
                gone.
        """
        reader, label = request.state.holder, prediction.label
        feedback = Feedback(
            at=datetime.now(UTC).replace(microsecond=0),
            reader=reader,
            label=opinion.label,
            answer=Said(
                status="ok" if prediction.status == "ok" else "refused",
                label=label,
                probability=prediction.probabilities[label] if label and prediction.probabilities else None,
            ),
            model=self.model,
            patient=keyed(self.key, opinion.patient) if opinion.patient else None,
            preprocessing=self.preprocessing,
        )
        name = keyed(self.key, f"{reader} {key_of(request)}")
        write = partial(write_feedback, self.folder, name, feedback, pixels_of(question))
        try:
            outcome = await asyncio.get_running_loop().run_in_executor(None, write)
        except InputError as error:
            log.error("feedback: %s", error)
            raise Problem(500, "damaged", DAMAGED) from None
        except OSError as error:
            log.error("feedback: %s: %s", self.folder, error)
            if error.errno in NO_SPACE:
                raise Problem(507, "no_room", NO_ROOM) from None
            raise Problem(507, "not_kept", OUT_OF_REACH) from None
        if outcome == "other":
            raise Problem(409, "other_feedback", "Something else came under this Idempotency-Key. Use a new one.")
        return outcome


def open_feedback(
    folder: Path,
    environ: Mapping[str, str],
    *,
    classes: tuple[str, ...],
    model: str,
    preprocessing: Preprocessing,
) -> FeedbackFolder:
    """Open the operator's folder, made where there is none; arguments as the fields of `FeedbackFolder`.

    What replicas left in it unfinished, longer than an hour ago, is removed.

    Raises:
        InputError: no readers, no key of patients' hashes, another one than before, or no place to write to.
    """
    readers, key = need_secrets(environ)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
        if writable:
            mark_key(folder, key)
            sweep(folder)
    except OSError:
        writable = False
    if not writable:
        raise InputError(
            f"args feedback {folder}",
            found="a folder that cannot be written to",
            expected="room for what readers send",
            fix="name another folder, or leave `feedback` out: then nothing is kept",
        )
    return FeedbackFolder(folder, key, readers, classes, model, preprocessing)


def need_secrets(environ: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """Read what feedback needs: the readers' tokens and the key of patients' hashes; raises InputError without."""
    readers = readers_from(environ)
    if not readers:
        raise InputError(
            f"environment {READERS}",
            found="no readers",
            expected="a token for each who may say what a slice is, as args feedback is there",
            fix=f'export {READERS}="anna=$(openssl rand -hex 32)", or leave `feedback` out',
        )
    return readers, key_from(environ, fix=NEW_KEY)


def key_of(request: Request) -> str:
    """Read the Idempotency-Key, under which a repeated request is kept once; raises Problem 422 without a good one."""
    key = request.headers.get("idempotency-key", "")
    if not KEY.fullmatch(key):
        raise Problem(422, "no_key", f"Send a header Idempotency-Key of {KEY_WORDS}, the same for a repetition.")
    return key


async def read_opinion(request: Request, *, classes: tuple[str, ...], max_bytes: int) -> Opinion:
    """Read a form of a slice in `file`, its class in `label`, and whose it is in `patient`, which may be missing.

    Raises:
        Problem: 400 no form or an unreadable one, 413 and 415 as for any slice, 422 another class or field, or
            a slice that the page made up.
    """
    if not is_form(request):
        raise Problem(400, "bad_form", "Feedback is a form (multipart/form-data) with the fields file and label.")
    form = await read_form(request, max_bytes=max_bytes, most=1)
    names = [name for name, _ in form.multi_items()]
    if len(set(names)) < len(names) or not {FIELD, LABEL} <= set(names) <= {FIELD, LABEL, PATIENT}:
        raise Problem(422, "invalid_request", f"The form has each once: {FIELD}, {LABEL} and, if known, {PATIENT}.")
    file, label, patient = form[FIELD], form[LABEL], form.get(PATIENT, "")
    if not isinstance(file, UploadFile) or not isinstance(label, str) or not isinstance(patient, str):
        raise Problem(422, "invalid_request", f"In the form {FIELD} is a file, and only that.")
    if label not in classes:
        raise Problem(422, "unknown_label", f"This model knows the classes {', '.join(classes)}; choose one of them.")
    if len(patient) > LONGEST_PATIENT:
        raise Problem(422, "invalid_request", f"The patient is named with at most {LONGEST_PATIENT} characters.")
    if any("\ud800" <= letter <= "\udfff" for letter in patient):  # half a pair, as of UTF-7: it has no bytes
        raise Problem(422, "invalid_request", "The patient is named with whole characters. Send the form as UTF-8.")
    data = checked_upload(await file.read(), max_bytes=max_bytes)
    if is_example(data):
        sentence = "This is one of the page's made-up slices: it is of nobody, and was not kept. Send a scan."
        raise Problem(422, "made_up", sentence)
    return Opinion(data, label, patient.strip() or None)
