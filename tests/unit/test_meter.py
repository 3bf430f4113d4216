"""What a replica counts about itself: numbers, and never a word of a user."""

import time

from prometheus_client.parser import text_string_to_metric_families
from tests.service import MODEL, NO, YES, Service, png

from neuralblack.service.meter import Meter


def scraped(service):
    response = service.request("GET", "/metrics")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_requests_are_counted_by_what_came_of_them():
    answers = iter([YES, NO, YES])

    async def classify(question):
        return next(answers)

    service = Service(classify=classify)
    for _ in range(3):
        service.predict(content=png())
    service.predict(content=b"%PDF")
    service.predict(address="/predict?explain=true", content=png())
    service.predict(content=png())  # the classifier has no answer left: a bug
    seen = scraped(service)

    assert seen["neuralblack_requests_total", "ok", "predict"] == 2
    assert seen["neuralblack_requests_total", "predict", "refused"] == 1
    assert seen["neuralblack_requests_total", "predict", "unsupported"] == 1
    assert seen["neuralblack_requests_total", "no_explanation", "predict"] == 1
    assert seen["neuralblack_requests_total", "internal", "predict"] == 1
    assert seen["neuralblack_labels_total", "pituitary"] == 2
    assert seen["neuralblack_refusals_total", "colour"] == 1
    assert seen["neuralblack_confidence_bucket", "0.7"] == 0 and seen["neuralblack_confidence_bucket", "0.8"] == 2
    assert seen["neuralblack_decode_seconds_count",] == seen["neuralblack_model_seconds_count",] == 3
    assert seen["neuralblack_pending",] == 0
    failed = {key[1:]: value for key, value in seen.items() if key[0] == "neuralblack_last_failure_timestamp_seconds"}
    assert set(failed) == {("internal", "predict")} and abs(failed["internal", "predict"] - time.time()) < 60
    assert seen["neuralblack_model_info", MODEL["hash"][:12], MODEL["name"]] == 1


def test_who_has_no_token_is_counted_too():
    meter = Meter()
    Service(token="x" * 16, meter=meter).predict(content=png())

    assert 'neuralblack_requests_total{outcome="unauthorised",route="predict"} 1.0' in meter.text().decode()


def test_batches_are_counted_by_whoever_forms_them():
    meter = Meter()
    service = Service(meter=meter)
    meter.batch(8, 0.5)
    meter.batch(2, 0.25)
    seen = scraped(service)

    assert seen["neuralblack_batch_slices_count",] == 2 and seen["neuralblack_batch_slices_sum",] == 10
    assert seen["neuralblack_batch_seconds_sum",] == 0.75


def test_a_slice_that_is_asked_about_again_counts_as_a_request_and_as_no_slice():
    async def refuse(question):
        return NO

    for service in (Service(), Service(classify=refuse)):
        service.predict(address="/predict?again=true", content=png())
        seen = scraped(service)

        assert sum(value for key, value in seen.items() if key[0] == "neuralblack_requests_total") == 1
        assert seen["neuralblack_decode_seconds_count",] == seen["neuralblack_model_seconds_count",] == 1
        assert not [key for key in seen if key[0] in ("neuralblack_labels_total", "neuralblack_refusals_total")]
        assert seen["neuralblack_confidence_count",] == 0


def test_slices_of_a_study_are_counted_one_by_one():
    service = Service()
    service.request("POST", "/study", files=[("file", ("a", png()))] * 3)
    seen = scraped(service)

    assert seen["neuralblack_requests_total", "ok", "study"] == 1
    assert seen["neuralblack_labels_total", "pituitary"] == 3
