"""The app against its own description: requests made up from /openapi.json meet no 5xx and nothing undescribed."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.service import NAMED, NO, READER_TOKEN, SLICE, YES, Service, feedback_folder

from neuralblack.errors import InputError

TOKEN = "correct-horse-battery-staple"


@dataclass(frozen=True)
class Decoded:
    pixels: np.ndarray
    length: int


async def decode(data):
    if len(data) % 3 == 0:
        raise InputError("upload", found="a broken PNG", expected="one slice", fix="export it again")
    return Decoded(SLICE, len(data))


async def classify(question):
    return YES if question.length % 2 else NO


async def explain(question, label):
    return SLICE


FOLDER = tempfile.TemporaryDirectory()
FEEDBACK = feedback_folder(Path(FOLDER.name))
SERVICE = Service(
    decode=decode,
    classify=classify,
    explain=explain,
    token=TOKEN,
    max_bytes=2000,
    feedback=FEEDBACK,
    readers=FEEDBACK.readers,
)
# What does not fit the description is refused; where it is too large as well (413), before anybody looks at it.
REFUSALS = ["400", "401", "403", "404", "409", "413", "415", "422", "429"]
CONFIG = SchemathesisConfig.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}})
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", SERVICE.app, config=CONFIG)
pytestmark = pytest.mark.filterwarnings("ignore:Skipped test cases with unsupported payload")  # it writes no TIFF
SLOW = list(HealthCheck)  # the machine may be busy; nothing here is about time


@SCHEMA.hook
def map_path_parameters(context, parameters):
    """Name the model that there is: a made-up one is never found."""
    named = {"model_name": "neuralblack", "model_version": NAMED["version"]}
    return {name: named[name] for name in parameters or {}}


def ask(case):
    # No schema can say which bytes are a slice, so what fits it may still be refused.
    # A reader's token opens everything.
    headers = {"Authorization": f"Bearer {READER_TOKEN}"}
    case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])


@SCHEMA.parametrize()
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=SLOW)
def test_requests_made_up_from_the_description_meet_nothing_undescribed(case):
    ask(case)


def test_reports_of_tests_can_tell_the_routes_apart(request):
    made_up = [each for each in request.session.items if hasattr(each, "operation_label")]

    routes = [(each.originalname, dict(each.user_properties)["route"]) for each in made_up]
    assert len(set(routes)) == len(routes)


@pytest.mark.soak
@SCHEMA.parametrize()
@settings(max_examples=2000, deadline=None, suppress_health_check=SLOW)
def test_many_requests_made_up_from_the_description_meet_nothing_undescribed(case):
    ask(case)


def test_every_route_describes_the_statuses_it_can_have():
    paths = SERVICE.request("GET", "/openapi.json").json()["paths"]

    places = ["/v2/models/{model_name}", "/v2/models/{model_name}/versions/{model_version}"]
    protocol = {"/v2", "/v2/health/live", "/v2/health/ready"}
    protocol |= {f"{place}{end}" for place in places for end in ("", "/ready", "/infer")}
    own = {"/predict", "/study", "/feedback", "/model", "/card", "/metrics", "/health", "/ready"}
    assert set(paths) == own | protocol
    work = {"200", "400", "401", "408", "413", "422", "429", "500", "502", "503", "504"}
    assert set(paths["/predict"]["post"]["responses"]) == work | {"415"}
    assert set(paths["/study"]["post"]["responses"]) == work
    for place in places:
        assert set(paths[f"{place}/infer"]["post"]["responses"]) == work | {"404", "415"}
    assert set(paths["/feedback"]["post"]["responses"]) == work | {"403", "409", "415", "507"}
    for status in ("429", "502", "503", "504"):
        assert "Retry-After" in paths["/predict"]["post"]["responses"][status]["headers"]


def test_the_description_says_who_needs_a_token():
    for token, expected in ((TOKEN, [{"bearer": []}]), (None, [{"bearer": []}, {}])):
        described = Service(token=token).request("GET", "/openapi.json").json()
        asked = {path: next(iter(each.values())).get("security") for path, each in described["paths"].items()}

        open_ = {path for path in asked if path.endswith(("/health", "/live", "/ready"))}
        closed = asked.keys() - open_ - {"/feedback"}
        assert closed >= {"/predict", "/study", "/model", "/card", "/metrics", "/v2", "/v2/models/{model_name}/infer"}
        assert asked == dict.fromkeys(closed, expected) | dict.fromkeys(open_) | {"/feedback": [{"reader": []}]}
        assert described["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


def test_answers_fit_their_own_shape():
    """The shapes are only described, never enforced at run time: this is what holds the two together."""
    from neuralblack.service.answers import Answer, Facts, FeedbackAnswer, Health, Readiness, StudyAnswer

    service = Service(explain=explain, feedback=FEEDBACK, readers=FEEDBACK.readers)
    files = [("file", ("a", b"\x89PNG\r\n\x1a\n"))] * 2
    answer = service.predict(address="/predict?preview=true&explain=true", files=files[:1]).json()
    study = service.request("POST", "/study", files=files).json()
    headers = {"Authorization": f"Bearer {READER_TOKEN}", "Idempotency-Key": "of-its-shape"}
    said = service.request("POST", "/feedback", files=files[:1], data={"label": "glioma"}, headers=headers).json()

    facts, health, ready = (service.request("GET", address).json() for address in ("/model", "/health", "/ready"))

    shapes = (Answer, StudyAnswer, FeedbackAnswer, Facts, Health, Readiness)
    for shape, given in zip(shapes, (answer, study, said, facts, health, ready), strict=True):
        assert shape.model_validate(given, strict=True, extra="forbid").model_dump(exclude_unset=True) == given
