"""Each key at most once, never two at a time."""

import asyncio

from mii_operator.work_queue import FIRST_RETRY, SPACING, WorkQueue


async def take(queue, seconds=1.0):
    return (await asyncio.wait_for(queue.take(), seconds))[0]


async def is_quiet(queue, seconds=0.05):
    done, pending = await asyncio.wait({asyncio.ensure_future(queue.take())}, timeout=seconds)
    for task in pending:
        task.cancel()
    return not done


async def test_changes_coalesce():
    queue = WorkQueue()
    for key in "aabab":
        queue.changed(key)
    assert {await take(queue), await take(queue)} == {"a", "b"}
    assert await is_quiet(queue)


async def test_a_change_during_work_is_worked_on_after_it():
    queue = WorkQueue()
    queue.changed("a")
    await take(queue)
    queue.changed("a")
    assert await is_quiet(queue)
    clock = asyncio.get_running_loop().time
    started = clock()
    queue.done("a")
    assert await take(queue) == "a"
    assert clock() - started >= SPACING * 0.9


async def test_failures_come_again_and_later_each_time():
    queue = WorkQueue()
    queue.changed("a")
    await take(queue)
    assert queue.failed("a") == FIRST_RETRY
    queue.changed("a")  # does not wait for the retry
    await take(queue)
    assert queue.failed("a") == 2 * FIRST_RETRY


async def test_the_time_of_the_first_change_is_kept():
    queue = WorkQueue()
    before = asyncio.get_running_loop().time()
    queue.changed("a")
    await asyncio.sleep(0.02)
    queue.changed("a")
    _, changed_at = await queue.take()
    assert before <= changed_at <= before + 0.01
    queue.done("a")
    queue.later("a", 0.0)
    assert (await queue.take())[1] is None


async def test_what_is_forgotten_does_not_come_again():
    queue = WorkQueue()
    queue.changed("a")
    await take(queue)
    queue.later("a", 0.01)
    queue.forget("a")
    queue.done("a")
    assert await is_quiet(queue, 0.2)
