"""Both pipelines over a scripted engine that answers each prompt letter by letter."""

import asyncio

import pytest

from mii.async_pipeline import MIIAsyncPipeline
from mii.config import EngineConfig
from mii.core import EngineInfo, EngineOutput, Output
from mii.errors import InvalidRequest, MIIError, UnknownArgument
from mii.pipelines import MIIPipeline
from mii.response import Response

EOS = 0
INFO = EngineInfo(
    model="m",
    revision="main",
    device="cpu",
    dtype="float32",
    tensor_parallel=1,
    vocab_size=128,
    max_model_len=64,
    block_size=64,
    kv_blocks=8,
    token_budget=64,
    load_seconds=0,
    prefill_tokens_per_second=1,
)


class Letters:
    """A tokenizer whose tokens are ASCII characters; 0 ends."""

    eos_token_ids = (EOS,)
    special_ids = frozenset({EOS})
    drops_first_space = False

    def encode(self, text, *, add_special_tokens=True):
        return list(text.encode())

    def token_bytes(self, token_id):
        return bytes([token_id])


class Reverser:
    """An engine: continues a prompt with its letters in reverse, one a step, all requests together."""

    info = INFO

    def __init__(self):
        self.open = {}
        self.requests = []
        self.aborted = []
        self.steps = 0
        self.fail_at = None
        self.closed = 0

    def close(self):
        self.closed += 1

    def add(self, request):
        self.requests.append(request)
        self.open[request.request_id] = (request, [*reversed(request.prompt_token_ids), EOS])

    def abort(self, request_id):
        self.aborted.append(request_id)
        self.open.pop(request_id, None)

    def has_work(self):
        return bool(self.open)

    def step(self):
        self.steps += 1
        if self.steps == self.fail_at:
            raise RuntimeError("out of memory")
        return [self._advance(request, left) for request, left in list(self.open.values())]

    def _advance(self, request, left):
        token = left.pop(0)
        done = len(request.prompt_token_ids) + 1 - len(left)
        reason = "stop" if token == EOS else "length" if done == request.sampling.max_tokens else None
        if reason:
            del self.open[request.request_id]
        return EngineOutput(request.request_id, [token], finish_reason=reason)


@pytest.fixture
def engine():
    return Reverser()


@pytest.fixture
def pipe(engine):
    return MIIPipeline(engine, Letters())


def test_one_response_per_prompt_in_order(pipe, engine):
    answers = pipe(["abc", "x"])
    assert answers == [Response("cba", 3, 4, "stop"), Response("x", 1, 2, "stop")]
    assert engine.steps == 4, "all prompts are in one batch"


def test_a_single_prompt_is_a_list_of_one(pipe):
    assert pipe("abc", max_new_tokens=2) == [Response("cb", 3, 2, "length")]


def test_a_stop_string_ends_early_and_frees_the_engine(pipe, engine):
    assert pipe("abcdef", stop="dc") == [Response("fe", 6, 4, "stop")]
    assert engine.aborted == [engine.requests[0].request_id]
    assert not engine.has_work()


def test_text_held_back_for_a_stop_string_comes_at_the_end(pipe):
    assert pipe("abc", stop="az")[0].generated_text == "cba"


def test_full_text(pipe):
    assert pipe("abc", return_full_text=True)[0].generated_text == "abccba"


def test_sampling_is_mii_s(pipe, engine):
    pipe(["a", "b"])
    one, two = (request.sampling for request in engine.requests)
    assert (one.temperature, one.top_p, one.top_k, one.max_tokens) == (1.0, 0.9, 0, 63)
    assert one.eos_token_ids == (EOS,)
    assert one.seed != two.seed
    pipe("a", do_sample=False)
    assert engine.requests[2].sampling.temperature == 0


def test_seeds_repeat(pipe, engine):
    pipe(["a", "b"], seed=5)
    pipe(["a", "b"], seed=5)
    seeds = [request.sampling.seed for request in engine.requests]
    assert seeds[:2] == seeds[2:]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(
    ("prompts", "options", "kind", "message"),
    [
        ("a", {"bogus": 1}, UnknownArgument, "'bogus'"),
        ("a", {"top_p": 0}, InvalidRequest, "top_p"),
        ("a", {"stream": True}, InvalidRequest, "mii.async_pipeline"),
        ("", {}, InvalidRequest, "not empty"),
        ([], {}, InvalidRequest, "one or more"),
        (["a", 7], {}, InvalidRequest, "strings"),
        ("a" * 64, {}, InvalidRequest, "64 tokens"),
        ("abc", {"max_length": 3}, InvalidRequest, "max_length"),
    ],
)
def test_refused_before_anything_runs(pipe, engine, prompts, options, kind, message):
    with pytest.raises(kind, match=message):
        pipe(prompts, **options)
    assert not engine.requests
    assert pipe("ab")[0].generated_text == "ba"


def test_one_wrong_prompt_refuses_the_call(pipe, engine):
    with pytest.raises(InvalidRequest, match="64"):
        pipe(["a", "b" * 64])
    assert not engine.requests


def test_an_interrupted_call_leaves_nothing_in_the_engine(pipe, engine):
    engine.fail_at = 2
    with pytest.raises(RuntimeError, match="out of memory"):
        pipe(["abc", "xyz"])
    assert not engine.has_work()
    assert pipe("ab")[0].generated_text == "ba"


def test_destroyed_is_destroyed(pipe, engine):
    pipe.destroy()
    pipe.destroy()
    assert engine.closed == 1
    with pytest.raises(RuntimeError, match="destroyed"):
        pipe("a")


def test_a_with_block_destroys(engine):
    with MIIPipeline(engine, Letters()) as pipe:
        pipe("a")
    with pytest.raises(RuntimeError):
        pipe("a")


class ReverserBehindALoop:
    """The same as AsyncEngine shows it."""

    info = INFO
    tokenizer = Letters()

    def __init__(self):
        self.open = 0
        self.most = 0
        self.stopped = False
        self.turns = 3  # of the event loop before each token
        self.fail = None

    async def encode(self, text, *, add_special_tokens=True):
        return self.tokenizer.encode(text)

    async def generate(self, prompt, params):
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            for count, token in enumerate(reversed(prompt), 1):
                for _ in range(self.turns):
                    await asyncio.sleep(0)
                if self.fail == chr(token):
                    raise MIIError("the engine died")
                reason = "length" if count == min(len(prompt), params.sampling.max_tokens) else None
                yield Output(
                    text=chr(token),
                    token_ids=[token],
                    finish_reason=reason,
                    prompt_tokens=len(prompt),
                    generated_tokens=count,
                )
                if reason:
                    return
        finally:
            self.open -= 1

    async def stop(self):
        self.stopped = True


@pytest.fixture
def async_engine(monkeypatch):
    engine = ReverserBehindALoop()

    async def start(config):
        return engine

    monkeypatch.setattr("mii.engine.async_engine.AsyncEngine.start", start)
    return engine


@pytest.fixture
async def async_pipe(async_engine):
    async with MIIAsyncPipeline(EngineConfig(model="m")) as pipe:
        yield pipe


async def test_async_prompts_run_together(async_pipe, async_engine):
    answers = await async_pipe(["abc", "xy"], return_full_text=True)
    assert answers == [Response("abccba", 3, 3, "length"), Response("xyyx", 2, 2, "length")]
    assert async_engine.most == 2


async def test_async_calls_run_together(async_pipe, async_engine):
    one, two = await asyncio.gather(async_pipe("abc"), async_pipe("xyz", max_new_tokens=1))
    assert (one[0].generated_text, two[0].generated_text) == ("cba", "z")
    assert async_engine.most == 2


async def test_async_streaming(async_pipe):
    pieces = [piece async for piece in async_pipe.stream("abc", return_full_text=True)]
    assert [piece.generated_text for piece in pieces] == ["abcc", "b", "a"]
    assert [piece.finish_reason for piece in pieces] == ["none", "none", "length"]


async def test_leaving_a_stream_aborts_it(async_pipe, async_engine):
    stream = async_pipe.stream("abc")
    assert (await anext(stream)).generated_text == "c"
    assert async_engine.open == 1
    await stream.aclose()
    assert async_engine.open == 0


async def test_when_one_fails_the_others_are_aborted(async_pipe, async_engine):
    async_engine.fail = "x"
    with pytest.raises(MIIError, match="the engine died"):
        await async_pipe(["a" * 60, "x"])
    assert async_engine.open == 0


async def test_async_options_are_checked(async_pipe, async_engine):
    with pytest.raises(UnknownArgument, match="bogus"):
        await async_pipe("a", bogus=1)
    with pytest.raises(InvalidRequest, match="64 tokens"):
        await async_pipe("a" * 64)
    assert async_engine.most == 0


async def test_outside_of_its_block_it_is_not_loaded(async_engine):
    pipe = MIIAsyncPipeline(EngineConfig(model="m"))
    with pytest.raises(RuntimeError, match="not loaded"):
        await pipe("a")
    async with pipe:
        await pipe("a")
    assert async_engine.stopped
    with pytest.raises(RuntimeError, match="not loaded"):
        await pipe("a")
