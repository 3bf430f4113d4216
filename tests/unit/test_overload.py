"""More work than fits is refused at once, and nothing is waited for without end."""

import asyncio
from pathlib import Path

import pytest
import yaml
from tests.service import MAX_BYTES, YES, Service, assert_problem, image, png

from neuralblack.service.batcher import Batcher

CONFIGS = Path(__file__).parents[2] / "serve_configs"
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


@pytest.mark.parametrize(
    ("stated", "fit"),
    [(1, 8), (MAX_BYTES, 8), (MAX_BYTES + 1, 4), (3 * MAX_BYTES, 2), (9 * MAX_BYTES, 2), (None, 2)],
    ids=["small", "one slice", "a byte more", "three slices", "too long", "chunked"],
)
@pytest.mark.parametrize("address", ADDRESSES[1:])
def test_a_body_of_several_slices_has_their_places_while_it_comes_in(address, stated, fit):
    async def run():
        inside, everything = [], asyncio.Event()

        async def body():
            inside.append(1)
            yield b"-"
            await everything.wait()

        async with Service(max_pending=8).client() as client:
            headers = {"content-type": "multipart/form-data; boundary=-"}
            headers |= {} if stated is None else {"content-length": str(stated)}
            tasks = [asyncio.create_task(client.post(address, content=body(), headers=headers)) for _ in range(12)]
            await until(lambda: len(inside) + sum(task.done() for task in tasks) == 12)
            refused = [task.result() for task in tasks if task.done()]
            everything.set()
            await asyncio.gather(*tasks)
            return len(inside), refused, await client.post("/predict", content=png())

    inside, refused, later = asyncio.run(run())

    assert inside == fit and len(refused) == 12 - fit
    for answer in refused:
        assert_problem(answer, 429, "overloaded")
    assert later.status_code == 200


def test_of_many_clients_at_once_each_with_a_slice_none_is_refused_and_of_too_many_the_others_hear_429():
    service = yaml.safe_load((CONFIGS / "local.yaml").read_text())["applications"][0]["args"]

    async def run(clients):
        async with Service(max_pending=service["max_pending"]).client() as client:
            forms = [{"files": {"file": ("a", png(), "image/png")}}, {"json": {"inputs": [image(png())]}}]
            asked = [client.post(address, **form) for address, form in zip(ADDRESSES[1:], forms, strict=True)]
            asked += [client.post("/predict", content=png()) for _ in range(clients - len(asked))]
            return {answer.status_code for answer in await asyncio.gather(*asked)}

    assert asyncio.run(run(128)) == {200}
    assert asyncio.run(run(512)) <= {200, 429}


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
