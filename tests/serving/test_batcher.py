"""Images share batches, in the order of arrival, and every one gets its own answer."""

import asyncio

import pytest

from serving.batcher import BATCH_BYTES, Answer, Batcher, Upload
from serving.refusal import Refusal


def upload(number: int) -> Upload:
    return Upload(str(number), b"x")


class Recorder:
    """Answers each image with its name. batches: the names of each."""

    def __init__(self):
        self.batches: list[list[str]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def run(self, uploads):
        self.batches.append([each.name for each in uploads])
        await self.go.wait()
        return [Answer("ok", (), each.name) for each in uploads]


def run(scenario) -> Recorder:
    async def main() -> Recorder:
        recorder = Recorder()
        await scenario(recorder)
        return recorder

    return asyncio.run(main())


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_every_image_gets_its_own_answer(slots):
    async def scenario(recorder):
        batcher = Batcher(recorder.run, slots, 4, 0.001, 1000)
        found = await asyncio.gather(*(batcher.answers([upload(n), upload(n + 1000)]) for n in range(20)))
        assert [[each.reason for each in one] for one in found] == [[str(n), str(n + 1000)] for n in range(20)]
        await batcher.drain()

    recorder = run(scenario)
    assert max(map(len, recorder.batches)) <= 4
    assert sorted(name for batch in recorder.batches for name in batch) == sorted(
        str(n + k) for n in range(20) for k in (0, 1000)
    )


def test_images_that_arrive_one_after_the_other_share_a_batch():
    async def scenario(recorder):
        batcher = Batcher(recorder.run, 1, 24, 0.05, 1000)
        asked = []
        for number in range(8):
            asked.append(asyncio.create_task(batcher.answers([upload(number)])))
            await asyncio.sleep(0.01)
        await asyncio.gather(*asked)
        await batcher.drain()

    assert list(map(len, run(scenario).batches)) == [8]


def test_what_arrives_together_shares_a_batch_and_slots_share_what_waits():
    async def one(recorder):
        batcher = Batcher(recorder.run, 1, 8, 0.01, 1000)
        await asyncio.gather(*(batcher.answers([upload(n)]) for n in range(8)))
        await batcher.drain()

    async def two(recorder):
        recorder.go.clear()
        batcher = Batcher(recorder.run, 2, 8, 0.01, 1000)
        asked = asyncio.gather(*(batcher.answers([upload(n)]) for n in range(8)))
        while len(recorder.batches) < 2:
            await asyncio.sleep(0.001)
        recorder.go.set()
        await asked
        await batcher.drain()

    assert run(one).batches == [[str(n) for n in range(8)]]
    assert run(two).batches == [["0", "1", "2", "3"], ["4", "5", "6", "7"]]


def test_a_batch_has_few_bytes_even_if_images_are_large():
    async def scenario(recorder):
        batcher = Batcher(recorder.run, 1, 8, 0.001, 1000)
        big = [Upload(str(n), bytes(BATCH_BYTES // 2)) for n in range(6)]
        await batcher.answers(big)
        await batcher.drain()

    assert max(map(len, run(scenario).batches)) <= 3


def test_images_over_the_number_that_may_wait_are_refused_and_the_others_answered():
    async def scenario(recorder):
        recorder.go.clear()
        batcher = Batcher(recorder.run, 1, 2, 0.001, 5)
        first = asyncio.create_task(batcher.answers([upload(n) for n in range(5)]))
        await asyncio.sleep(0.01)
        with pytest.raises(Refusal) as caught:
            await batcher.answers([upload(6)])
        assert caught.value.status == 429
        recorder.go.set()
        assert len(await first) == 5
        assert batcher.waiting == 0
        await batcher.drain()

    run(scenario)


def test_images_that_nobody_waits_for_are_not_computed():
    async def scenario(recorder):
        recorder.go.clear()
        batcher = Batcher(recorder.run, 1, 2, 0.001, 100)
        first = asyncio.create_task(batcher.answers([upload(0)]))
        await asyncio.sleep(0.02)
        left = asyncio.create_task(batcher.answers([upload(n) for n in range(1, 9)]))
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.sleep(0)
        recorder.go.set()
        await first
        assert (await batcher.answers([upload(9)]))[0].reason == "9"
        await batcher.drain()

    assert run(scenario).batches == [["0"], ["9"]]


def test_a_batch_that_fails_fails_its_own_requests_alone():
    async def scenario(recorder):
        async def fail(uploads):
            if uploads[0].name == "0":
                raise OSError("no")
            return await recorder.run(uploads)

        batcher = Batcher(fail, 1, 2, 0.001, 100)
        with pytest.raises(OSError, match="no"):
            await batcher.answers([upload(0), upload(1)])
        assert (await batcher.answers([upload(2)]))[0].reason == "2"
        await batcher.drain()

    run(scenario)


def test_draining_answers_everything_first():
    async def scenario(recorder):
        batcher = Batcher(recorder.run, 2, 2, 0.001, 100)
        asked = [asyncio.create_task(batcher.answers([upload(n)])) for n in range(9)]
        await asyncio.sleep(0)
        await batcher.drain()
        assert all(each.done() for each in asked)
        assert [each.result()[0].reason for each in asked] == [str(n) for n in range(9)]

    run(scenario)
