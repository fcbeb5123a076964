"""The façade when its engine process, its reader or its client goes away. The process is a fake."""

import asyncio
from contextlib import aclosing
from types import SimpleNamespace

import pytest

from mii.config import EngineConfig
from mii.core import (
    AbortRequest,
    EngineInfo,
    EngineOutput,
    EngineRequest,
    EngineStats,
    GenerateParams,
    SamplingParams,
    StepOutputs,
)
from mii.engine.async_engine import AsyncEngine
from mii.errors import EngineDead, MIIError

PARAMS = GenerateParams(sampling=SamplingParams(max_tokens=8))
INFO = EngineInfo(
    model="m", revision="r", device="cpu", dtype="float32", tensor_parallel=1, vocab_size=100,
    max_model_len=64, block_size=64, kv_blocks=4, token_budget=16, load_seconds=1,
    prefill_tokens_per_second=1,
)  # fmt: skip
TOKENIZER = SimpleNamespace(
    eos_token_ids=(0,), special_ids=frozenset(), drops_first_space=False, token_bytes=lambda token: b"abc"
)


class FakeLink:
    """The two sockets as queues; `stuck` sends wait for ever, as a socket without a peer does."""

    def __init__(self):
        self.sent, self.results = [], asyncio.Queue()
        self.stuck = self.killed = False
        self.exited = asyncio.get_running_loop().create_future()

    async def wait(self):
        return await asyncio.shield(self.exited)

    async def send(self, message):
        if self.stuck:
            await asyncio.Event().wait()
        self.sent.append(message)

    async def receive(self):
        return await self.results.get()

    def kill(self):
        self.killed = True

    async def close(self):
        pass


class Listener:
    def __init__(self):
        self.finished = []

    def on_step(self, stats):
        pass

    def on_tokens(self, *, first, seconds, count):
        pass

    def on_finished(self, stats):
        self.finished.append(stats)


@pytest.fixture
async def engine():
    engine = AsyncEngine(EngineConfig(model="m"), TOKENIZER, FakeLink(), INFO)
    engine.listeners.append(Listener())
    yield engine
    await engine.stop()


async def test_a_request_to_a_process_that_is_gone_ends(engine):
    engine._link.stuck = True
    asking = asyncio.create_task(anext(engine.generate([1], PARAMS)))
    await asyncio.sleep(0)
    engine._link.exited.set_result(-9)
    with pytest.raises(EngineDead, match="SIGKILL"):
        await asyncio.wait_for(asking, 2)
    assert engine.num_open == 0


async def test_a_fault_of_the_reader_ends_what_is_open(engine):
    def fail(stats):
        raise ZeroDivisionError("a bug")

    asking = asyncio.create_task(anext(engine.generate([1], PARAMS)))
    engine.listeners[0].on_step = fail
    engine._link.results.put_nowait(StepOutputs([], EngineStats()))
    with pytest.raises(EngineDead, match="ZeroDivisionError: a bug"):
        await asyncio.wait_for(asking, 2)
    assert engine._link.killed
    assert not engine.health.alive


async def test_a_client_that_leaves_is_counted_as_an_abort(engine):
    async with aclosing(engine.generate([1, 2], PARAMS, request_id="a")) as outputs:
        engine._link.results.put_nowait(StepOutputs([EngineOutput("a", [5])], EngineStats()))
        assert (await anext(outputs)).token_ids == [5]
    (stats,) = engine.listeners[0].finished
    assert (stats.finish_reason, stats.prompt_tokens, stats.generated_tokens) == ("abort", 2, 1)
    assert [type(message) for message in engine._link.sent] == [EngineRequest, AbortRequest]


async def test_a_stop_string_ends_the_request_once(engine):
    params = GenerateParams(sampling=SamplingParams(max_tokens=8), stop=("bc",))
    async with aclosing(engine.generate([1, 2], params, request_id="a")) as outputs:
        engine._link.results.put_nowait(StepOutputs([EngineOutput("a", [5])], EngineStats()))
        last = [output async for output in outputs][-1]
    assert (last.text, last.finish_reason) == ("a", "stop")
    assert [stats.finish_reason for stats in engine.listeners[0].finished] == ["stop"]
    assert [type(message) for message in engine._link.sent] == [EngineRequest, AbortRequest]


async def test_a_fault_in_one_requests_text_ends_that_request_alone(engine):
    broken, whole = (
        asyncio.create_task(anext(engine.generate([1], PARAMS, request_id=name)))
        for name in ("broken", "whole")
    )
    link = engine._link
    async with asyncio.timeout(5):
        while len(link.sent) < 2:  # noqa: ASYNC110 - what is waited for is code under test
            await asyncio.sleep(0)

        def fail(_):
            raise ZeroDivisionError("no text")

        engine._streams["broken"].put = fail
        outputs = [EngineOutput("broken", [5]), EngineOutput("whole", [5])]
        link.results.put_nowait(StepOutputs(outputs, EngineStats()))
        with pytest.raises(MIIError, match="ZeroDivisionError: no text"):
            await broken
        assert (await whole).token_ids == [5]
    assert AbortRequest("broken") in link.sent
    assert engine.health.alive
