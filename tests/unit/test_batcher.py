"""Batches form while the model is busy, and nobody waits for a batch that is not needed."""

import asyncio
import threading

import pytest

from neuralblack.service.batcher import Batcher


class Model:
    """Answers n with n * 10, remembers batch sizes, and waits in `gate` when it is shut."""

    def __init__(self):
        self.sizes = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, questions):
        self.sizes.append(len(questions))
        self.entered.set()
        assert self.gate.wait(10)
        if -1 in questions:
            raise ValueError("minus one")
        return [question * 10 for question in questions]


async def busy(batcher, model):
    """Start one question and wait until the model is inside it, with its gate shut."""
    model.gate.clear()
    model.entered.clear()
    first = asyncio.create_task(batcher(0))
    assert await asyncio.to_thread(model.entered.wait, 10)
    return first


async def waiting(batcher, *questions):
    tasks = [asyncio.create_task(batcher(question)) for question in questions]
    await asyncio.sleep(0)  # one turn of the loop: every task is now in the queue
    return tasks


def test_full_batches_form_while_the_model_is_busy():
    async def run():
        model = Model()
        batcher = Batcher(model, max_size=8)
        first = await busy(batcher, model)
        tasks = await waiting(batcher, *range(1, 41))
        model.gate.set()
        answers = await asyncio.gather(first, *tasks)
        await batcher.close()
        return model.sizes, answers

    sizes, answers = asyncio.run(run())

    assert sizes == [1] + [8] * 5
    assert answers == [n * 10 for n in range(41)]


def test_a_lone_question_goes_in_alone_and_at_once():
    async def run():
        model = Model()
        batcher = Batcher(model, max_size=8)
        answer = await batcher(4)
        await batcher.close()
        return model.sizes, answer

    assert asyncio.run(run()) == ([1], 40)


def test_a_new_size_holds_from_the_next_batch_on():
    async def run():
        model = Model()
        batcher = Batcher(model, max_size=8)
        first = await busy(batcher, model)
        batcher.max_size = 3
        tasks = await waiting(batcher, *range(6))
        model.gate.set()
        await asyncio.gather(first, *tasks)
        await batcher.close()
        return model.sizes

    assert asyncio.run(run()) == [1, 3, 3]


def test_who_hung_up_takes_no_place_in_a_batch():
    async def run():
        model = Model()
        batcher = Batcher(model, max_size=8)
        first = await busy(batcher, model)
        tasks = await waiting(batcher, 1, 2, 3, 4)
        tasks[0].cancel()
        tasks[2].cancel()
        model.gate.set()
        answers = await asyncio.gather(first, *tasks, return_exceptions=True)
        await batcher.close()
        return model.sizes, answers

    sizes, answers = asyncio.run(run())

    assert sizes == [1, 2]
    assert [answers[index] for index in (0, 2, 4)] == [0, 20, 40]


def test_who_hangs_up_while_the_model_works_breaks_nobody_elses_answer():
    async def run():
        model = Model()
        batcher = Batcher(model, max_size=8)
        first = await busy(batcher, model)
        first.cancel()
        tasks = await waiting(batcher, 1, 2)
        model.gate.set()
        answers = await asyncio.gather(*tasks)
        await batcher.close()
        return model.sizes, answers

    assert asyncio.run(run()) == ([1, 2], [10, 20])


def test_a_queue_of_people_who_hung_up_costs_the_model_nothing():
    async def run():
        model = Model()
        batcher = Batcher(model, max_size=8)
        first = await busy(batcher, model)
        tasks = await waiting(batcher, *range(1, 20))
        for task in tasks:
            task.cancel()
        model.gate.set()
        assert await first == 0
        assert await batcher(7) == 70
        await batcher.close()
        return model.sizes

    assert asyncio.run(run()) == [1, 1]


def test_every_batch_is_observed():
    async def run():
        seen = []
        model = Model()
        batcher = Batcher(model, max_size=4, observe=lambda size, seconds: seen.append((size, seconds >= 0)))
        first = await busy(batcher, model)
        tasks = await waiting(batcher, 1, 2, 3)
        model.gate.set()
        await asyncio.gather(first, *tasks)
        await batcher.close()
        return seen

    assert asyncio.run(run()) == [(1, True), (3, True)]


def test_an_error_reaches_its_batch_and_the_next_batch_goes_on():
    async def run():
        model = Model()
        batcher = Batcher(model, max_size=2)
        first = await busy(batcher, model)
        tasks = await waiting(batcher, 1, -1, 2, 3)
        model.gate.set()
        answers = await asyncio.gather(first, *tasks, return_exceptions=True)
        await batcher.close()
        return answers

    first, one, minus_one, *others = asyncio.run(run())

    assert first == 0
    assert isinstance(one, ValueError) and isinstance(minus_one, ValueError)
    assert others == [20, 30]


def test_a_model_that_loses_an_answer_gives_nobody_the_wrong_one():
    async def run():
        batcher = Batcher(lambda questions: questions[:-1], max_size=8)
        with pytest.raises(RuntimeError, match="0 answers to 1 question"):
            await batcher(1)
        await batcher.close()

    asyncio.run(run())


def test_closing_tells_everyone_who_still_waits():
    async def run():
        model = Model()
        batcher = Batcher(model, max_size=1)
        first = await busy(batcher, model)
        tasks = await waiting(batcher, 1, 2)
        await batcher.close()
        model.gate.set()
        answers = await asyncio.gather(first, *tasks, return_exceptions=True)
        with pytest.raises(RuntimeError, match="closed"):
            await batcher(3)
        return answers

    assert all(isinstance(answer, RuntimeError) for answer in asyncio.run(run()))


def test_two_threads_call_the_model_at_once_and_every_question_gets_its_own_answer():
    async def ask():
        both, calls = threading.Barrier(2), []

        def model(questions):
            calls.append(len(questions))
            if len(calls) <= 2:
                both.wait(30)  # two calls meet here, or the test fails
            return [question * 10 for question in questions]

        batcher = Batcher(model, max_size=4, threads=2)
        answers = await asyncio.gather(*(batcher(number) for number in range(50)))
        await batcher.close()
        return answers, calls

    answers, calls = asyncio.run(ask())

    assert answers == [number * 10 for number in range(50)]
    assert sum(calls) == 50 and max(calls) <= 4


def test_it_says_for_how_long_the_oldest_batch_runs():
    async def run():
        model = Model()
        batcher = Batcher(model, max_size=1, threads=2)
        before = batcher.running_s
        first = await busy(batcher, model)
        alone = batcher.running_s
        model.entered.clear()
        (second,) = await waiting(batcher, 1)
        assert await asyncio.to_thread(model.entered.wait, 10)
        both = batcher.running_s
        model.gate.set()
        await asyncio.gather(first, second)
        with pytest.raises(ValueError, match="minus one"):
            await batcher(-1)
        after = batcher.running_s
        await batcher.close()
        return before, alone, both, after

    before, alone, both, after = asyncio.run(run())

    assert before == after == 0
    assert 0 < alone < both  # the second is younger
