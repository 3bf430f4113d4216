"""A replica that cannot answer any more says so, to clients and to Serve, which replaces it."""

import asyncio
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from tests.service import Service, assert_problem, png

from neuralblack.cluster.serve import BROKEN, HUNG, Classifier
from neuralblack.config import TrainConfig
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.data.slices import Prepared
from neuralblack.inference.predictor import Predictor
from neuralblack.inference.reference import calibrate
from neuralblack.service.batcher import Batcher
from neuralblack.service.decoder import Decoder, DecoderDownError
from neuralblack.training.runs import train_here

CONFIG = TrainConfig(model="tiny", weights="none", schedule="all", lr=0.02, epochs=1, batch_size=16, precision="fp32")


class Engine:
    """One whose device has failed, until it is mended."""

    def __init__(self, engine):
        self.engine, self.broken = engine, True

    def __call__(self, images):
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return self.engine(images)


@pytest.fixture
def predictor(dataset, tiny, tmp_path):
    model = train_here(CONFIG, data=dataset.path, run=tmp_path / "run", calibrate=calibrate)
    predictor = Predictor(model, engine="eager-fp32")
    predictor._run = Engine(predictor._run)
    return predictor


@pytest.fixture
def decoder():
    return Decoder(Preprocessing(size=64), workers=2)


def replica(predictor, decoder):
    """The class that Serve runs, without Serve and without its constructor."""
    made = object.__new__(Classifier.func_or_class.__mro__[1])  # without what Serve wraps around it
    made.predictor, made.decoder, made.batcher = predictor, decoder, None
    made.args = SimpleNamespace(deadline_s=60)
    return made


def ask(predictor, *questions):
    with pytest.raises(RuntimeError, match="CUDA error"):
        predictor(questions)


def test_a_model_that_cannot_compute_any_more_is_replaced(predictor, decoder, dataset):
    made = replica(predictor, decoder)
    for _ in range(BROKEN):
        made.check_health()
        ask(predictor, dataset.images[0])

    with pytest.raises(RuntimeError, match=f"the last {BROKEN} forward passes failed"):
        made.check_health()


def test_one_success_between_keeps_a_replica(predictor, decoder, dataset):
    made = replica(predictor, decoder)
    for broken in [True] * (BROKEN - 1) + [False] + [True] * (BROKEN - 1):
        predictor._run.broken = broken
        if broken:
            ask(predictor, dataset.images[0])
        else:
            predictor.probabilities(dataset.images[:1])

    made.check_health()


def test_slices_that_the_network_never_sees_neither_hide_a_failure_nor_are_one(predictor, decoder, dataset):
    coloured = Prepared(np.array(dataset.images[0]), colour=0.5)
    for _ in range(BROKEN):
        ask(predictor, dataset.images[0])
        assert predictor([coloured])[0].status == "refused"

    with pytest.raises(RuntimeError, match="forward passes"):
        replica(predictor, decoder).check_health()


def test_a_decoder_that_cannot_be_started_any_more_is_a_reason_too(predictor, decoder, monkeypatch):
    made = replica(predictor, decoder)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # as fork fails where a machine has nothing left
    for _ in range(2 * BROKEN - 1):  # two workers take turns
        made.check_health()
        with pytest.raises(DecoderDownError):
            asyncio.run(decoder(png()))

    with pytest.raises(RuntimeError, match=f"the last {BROKEN} decoder starts failed"):
        made.check_health()
    monkeypatch.undo()
    decoder.start()
    made.check_health()
    decoder.close()


def test_clients_of_such_a_replica_hear_that_it_is_not_ready(predictor, dataset):
    made = replica(predictor, SimpleNamespace(failed=0))

    async def run():
        async def decode(data):
            return Prepared(np.array(dataset.images[0]))

        batcher = Batcher(predictor, max_size=8)
        service = Service(decode=decode, classify=batcher, ready=lambda: made.trouble() is None)
        async with service.client() as client:
            failed = [(await client.post("/predict", content=png())).status_code for _ in range(BROKEN)]
            answers = [await client.get("/ready"), await client.post("/predict", content=png())]
        await batcher.close()
        return failed, answers

    failed, answers = asyncio.run(run())

    assert failed == [500] * BROKEN
    for answer in answers:
        assert_problem(answer, 503, "not_ready")
        assert int(answer.headers["retry-after"]) > 0


def test_a_forward_pass_that_hangs_costs_the_replica_and_one_that_is_slow_does_not(predictor, dataset):
    made, gate = replica(predictor, SimpleNamespace(failed=0)), threading.Event()
    predictor._run.broken, run_slices = False, predictor._run.engine
    predictor._run.engine = lambda images: gate.wait(60) and run_slices(images)

    async def run():
        async def decode(data):
            return Prepared(np.array(dataset.images[0]))

        made.batcher = Batcher(predictor, max_size=8)
        service = Service(
            decode=decode, classify=made.batcher, ready=lambda: made.trouble() is None, deadline_s=made.args.deadline_s
        )
        async with service.client() as client:
            asked = asyncio.create_task(client.post("/predict", content=png()))
            async with asyncio.timeout(60):
                while not made.batcher.running_s:
                    await asyncio.sleep(0.01)
            slow = (await client.get("/ready")).status_code
            made.check_health()
            made.args.deadline_s = 0.01
            async with asyncio.timeout(60):
                while made.batcher.running_s <= HUNG * made.args.deadline_s:
                    await asyncio.sleep(0.01)
            answers = [await client.get("/ready"), await client.post("/predict", content=png())]
            with pytest.raises(RuntimeError, match="a forward pass has not ended for 0 s"):
                made.check_health()
            gate.set()
            late = await asked
        await made.batcher.close()
        return slow, answers, late

    slow, answers, late = asyncio.run(run())

    assert (slow, late.status_code) == (200, 200)
    for answer in answers:
        assert_problem(answer, 503, "not_ready")
    made.check_health()  # it has ended after all
