"""More work than fits is refused at once, and nothing is waited for without end."""

import asyncio

import pytest
from tests.service import YES, Service, assert_problem, png

from neuralblack.service.batcher import Batcher

ADDRESSES = ("/predict", "/study", "/v2/models/neuralblack/infer")


class Gate:
    """A classifier that answers when it is let, and counts who is inside."""

    def __init__(self):
        self.open = asyncio.Event()
        self.inside, self.most, self.cancelled = 0, 0, 0

    async def __call__(self, question):
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.inside -= 1
        return YES


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_only_as_many_as_fit_are_worked_on_and_the_others_hear_at_once():
    async def run():
        gate = Gate()
        service = Service(classify=gate, max_pending=3)
        async with service.client() as client:
            tasks = [asyncio.create_task(client.post("/predict", content=png())) for _ in range(10)]
            await until(lambda: gate.inside == 3 and sum(task.done() for task in tasks) == 7)
            gate.open.set()
            answers = await asyncio.gather(*tasks)
            return gate, answers, await client.post("/predict", content=png())

    gate, answers, later = asyncio.run(run())

    refused = [answer for answer in answers if answer.status_code != 200]
    assert gate.most == 3 and len(refused) == 7
    for answer in refused:
        assert_problem(answer, 429, "overloaded")
        assert int(answer.headers["retry-after"]) > 0
    assert later.status_code == 200


def test_an_overloaded_service_reads_no_body():
    async def never():
        raise AssertionError("the body was asked for")
        yield b""

    async def run():
        gate = Gate()
        async with Service(classify=gate, max_pending=1).client() as client:
            first = asyncio.create_task(client.post("/predict", content=png()))
            await until(lambda: gate.inside == 1)
            answers = [await client.post(address, content=never()) for address in ADDRESSES]
            gate.open.set()
            assert (await first).status_code == 200
            return answers

    for answer in asyncio.run(run()):
        assert_problem(answer, 429, "overloaded")


@pytest.mark.parametrize("fault", [b"", b"%PDF"])
def test_a_refused_upload_gives_its_place_back(fault):
    async def run():
        async with Service(max_pending=1).client() as client:
            return [(await client.post("/predict", content=body)).status_code for body in (fault, fault, png())]

    assert asyncio.run(run())[-1] == 200


def test_what_takes_too_long_is_cancelled_and_its_place_is_free_again():
    async def run():
        gate = Gate()
        async with Service(classify=gate, max_pending=1, deadline_s=0.05).client() as client:
            answer = await client.post("/predict", content=png())
            gate.open.set()
            return gate, answer, await client.post("/predict", content=png())

    gate, answer, later = asyncio.run(run())

    assert_problem(answer, 503, "too_slow")
    assert int(answer.headers["retry-after"]) > 0
    assert gate.cancelled == 1 and later.status_code == 200


def test_an_upload_that_does_not_arrive_is_not_the_services_fault():
    async def slow():
        yield png()[:10]
        await asyncio.Event().wait()

    async def run():
        async with Service(deadline_s=0.05).client() as client:
            return await client.post("/predict", content=slow())

    assert_problem(asyncio.run(run()), 408, "slow_upload")


def test_somebody_elses_timeout_is_a_bug_and_not_overload():
    async def broken(question):
        raise TimeoutError

    assert_problem(Service(classify=broken, deadline_s=60).predict(content=png()), 500, "internal")


def test_what_the_deadline_has_ended_never_reaches_the_model():
    """The queue behind a slow batch empties by itself."""
    sizes = []

    async def run():
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()

        def model(questions):
            sizes.append(len(questions))
            if len(sizes) == 1:
                asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)
            return [YES] * len(questions)

        batcher = Batcher(model, max_size=4)
        async with Service(classify=batcher, deadline_s=0.2).client() as client:
            answers = await asyncio.gather(*[client.post("/predict", content=png()) for _ in range(5)])
            gate.set()
            good = await client.post("/predict", content=png())
        await batcher.close()
        return answers, good

    answers, good = asyncio.run(run())

    assert [answer.status_code for answer in answers] == [503] * 5
    assert good.status_code == 200 and sizes[1:] == [1]
