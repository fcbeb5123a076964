"""Scheduler and block manager under all that can happen: no deadlock, no leak, no lost token."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mii.config import BLOCK_SIZE
from mii.core import EngineRequest, SamplingParams
from mii.engine.block_manager import BlockManager
from mii.engine.prompt_budget import prompt_budget
from mii.engine.scheduler import ScheduledBatch, Scheduler
from mii.engine.sequence import Sequence, Status
from mii.errors import InvalidRequest

EOS = 0


def request(name: str, prompt: list[int], max_tokens: int, **sampling: object) -> EngineRequest:
    params = SamplingParams(max_tokens=max_tokens, eos_token_ids=(EOS,), **sampling)  # type: ignore[arg-type]
    return EngineRequest(name, prompt, params)


def scheduler(blocks: int = 16, *, budget: int = 128, rows: int = 8, length: int = 512) -> Scheduler:
    return Scheduler(BlockManager(blocks), token_budget=budget, max_running=rows, max_model_len=length)


def step(it: Scheduler, token: int = 7) -> ScheduledBatch:
    """One forward whose every sampled token is `token`."""
    batch = it.schedule()
    for sequence in batch.sampled:
        it.accept(sequence, token)
    return batch


def finish_all(it: Scheduler, token: int = 7) -> None:
    while it.has_work:
        assert step(it, token), "work is left but nothing is scheduled"


def test_decodes_come_first_and_prompts_fill_the_budget() -> None:
    it = scheduler(budget=100)
    it.add(request("a", [1] * 30, 5))
    first = step(it)
    assert [(c.start, c.length, c.samples) for c in first.chunks] == [(0, 30, True)]
    it.add(request("b", [2] * 150, 5))
    it.add(request("c", [3] * 10, 5))
    second = step(it)
    assert [s.request.request_id for s in second.decodes] == ["a"]
    assert [(c.start, c.length, c.samples) for c in second.chunks] == [(0, 99, False)]
    third = step(it)
    assert third.num_tokens == 1 + 51 + 10
    assert [(c.start, c.length, c.samples) for c in third.chunks] == [(99, 51, True), (0, 10, True)]


def test_a_preempted_request_keeps_its_tokens_and_goes_first() -> None:
    it = scheduler(blocks=4, length=256)
    older = it.add(request("older", [1] * 64, 128))
    newer = it.add(request("newer", [2] * 64, 128))
    for number in range(200):
        step(it, token=100 + number)
        if newer.status is Status.WAITING:
            break
    assert it.num_preemptions == 1
    kept = list(newer.token_ids)
    assert len(kept) > 64
    finish_all(it)
    assert newer.token_ids[: len(kept)] == kept
    assert len(newer.token_ids) == len(older.token_ids) == 64 + 128


def test_shared_prefixes_share_blocks_even_within_one_batch() -> None:
    it = scheduler(blocks=16, budget=1024)
    prefix = list(range(100, 100 + 3 * BLOCK_SIZE))
    one = it.add(request("one", [*prefix, 1], 4))
    two = it.add(request("two", [*prefix, 2], 4))
    step(it)
    assert two.num_cached == 3 * BLOCK_SIZE
    assert one.block_table[:3] == two.block_table[:3]
    finish_all(it)
    three = it.add(request("three", prefix, 1))
    step(it)
    assert three.num_cached == 2 * BLOCK_SIZE, "at least one token must be computed"


def test_a_salt_keeps_prefixes_apart() -> None:
    it = scheduler(budget=1024)
    prompt = list(range(3 * BLOCK_SIZE))
    it.add(request("a", prompt, 1))
    finish_all(it)
    salted = it.add(EngineRequest("b", prompt, SamplingParams(max_tokens=1), cache_salt="tenant"))
    step(it)
    assert salted.num_cached == 0


def test_the_least_recently_used_prefix_is_evicted_first() -> None:
    it = scheduler(blocks=8, budget=1024)
    prompts = {name: [ord(name)] * (3 * BLOCK_SIZE + 1) for name in "abc"}
    for name in "ab":
        it.add(request(name, prompts[name], 1))
        finish_all(it)
    touched = it.add(request("a again", prompts["a"], 1))
    finish_all(it)
    assert touched.num_cached == 3 * BLOCK_SIZE
    it.add(request("c", prompts["c"], 1))  # needs 4 of 8 blocks; 2 are blank
    finish_all(it)
    again = it.add(request("a once more", prompts["a"], 1))
    finish_all(it)
    evicted = it.add(request("b again", prompts["b"], 1))
    finish_all(it)
    assert again.num_cached == 3 * BLOCK_SIZE
    assert (evicted.num_cached or 0) < 3 * BLOCK_SIZE


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "says"),
    [
        (0, 1, "no tokens"),
        (512, 1, "must fit in 512"),
        (600, 0, "must fit in 512"),
        (100, 300, "KV blocks"),
    ],
)
def test_what_can_never_run_is_refused(prompt: int, max_tokens: int, says: str) -> None:
    it = scheduler(blocks=4)
    with pytest.raises(InvalidRequest, match=says):
        it.add(request("r", [1] * prompt, max_tokens))
    assert not it.has_work


def test_a_request_id_in_use_is_refused() -> None:
    it = scheduler()
    it.add(request("same", [1], 1))
    with pytest.raises(InvalidRequest, match="in use"):
        it.add(request("same", [1], 1))


def test_max_tokens_is_clamped_to_the_context_length() -> None:
    it = scheduler(length=100)
    sequence = it.add(request("r", [1] * 90, 1000))
    finish_all(it)
    assert len(sequence.token_ids) == 100
    assert sequence.finish_reason == "length"


@pytest.mark.parametrize("ignore_eos", [True, False])
def test_eos_ends_unless_ignored_and_stop_tokens_always(ignore_eos: bool) -> None:
    it = scheduler()
    ends = it.add(request("eos", [1], 8, ignore_eos=ignore_eos))
    finish_all(it, token=EOS)
    assert len(ends.token_ids) - 1 == (8 if ignore_eos else 1)
    stops = it.add(request("stop", [1], 8, ignore_eos=ignore_eos, stop_token_ids=(9,)))
    finish_all(it, token=9)
    assert (len(stops.token_ids), stops.finish_reason) == (2, "stop")


@dataclass
class Life:
    """A request as the test sees it."""

    sequence: Sequence
    produced: list[int] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """Adds, aborts, steps with and without a step in flight, on a cache that is far too small."""

    @initialize(
        blocks=st.integers(4, 12),
        budget=st.sampled_from([1, 16, 64, 200]),
        rows=st.integers(1, 6),
        overlap=st.booleans(),
        prefix_cache=st.booleans(),
    )
    def start(self, blocks: int, budget: int, rows: int, overlap: bool, prefix_cache: bool) -> None:
        self.blocks = BlockManager(blocks, prefix_cache=prefix_cache)
        self.it = Scheduler(
            self.blocks, token_budget=budget, max_running=rows, max_model_len=blocks * BLOCK_SIZE
        )
        self.overlap = overlap
        self.in_flight: ScheduledBatch | None = None
        self.lives: dict[str, Life] = {}
        self.names = 0
        self.token = 1

    @rule(
        length=st.integers(1, 300),
        max_tokens=st.integers(0, 150),
        content=st.integers(1, 3),
        ends=st.booleans(),
    )
    def add(self, length: int, max_tokens: int, content: int, ends: bool) -> None:
        self.names += 1
        asked = request(f"{self.names}", [content] * length, max_tokens, ignore_eos=not ends)
        try:
            self.lives[asked.request_id] = Life(self.it.add(asked))
        except InvalidRequest:
            assert length + max_tokens > self.it.max_model_len or length >= self.it.max_model_len

    @rule(data=st.data())
    @precondition(lambda self: self.lives)
    def abort(self, data: st.DataObject) -> None:
        self.it.abort(data.draw(st.sampled_from(sorted(self.lives))))

    @rule(times=st.integers(1, 40), eos_every=st.integers(2, 50))
    def steps(self, times: int, eos_every: int) -> None:
        for _ in range(times):
            self.step(eos_every)

    def step(self, eos_every: int) -> bool:
        batch = self.it.schedule()
        self.check_batch(batch)
        ready = batch
        if self.overlap:
            ready, self.in_flight = self.in_flight or ScheduledBatch(), batch
        for sequence in ready.sampled:
            self.token += 1
            token = EOS if self.token % eos_every == 0 else self.token
            if sequence.status is not Status.FINISHED and self.it.accept(sequence, token) is not None:
                self.lives[sequence.request.request_id].produced.append(token)
        return bool(batch or ready)

    def check_batch(self, batch: ScheduledBatch) -> None:
        assert batch.num_tokens <= self.it.token_budget
        scheduled = batch.decodes + [chunk.sequence for chunk in batch.chunks]
        rows = [sequence.row for sequence in scheduled]
        assert len(set(rows)) == len(rows), "two sequences in one row"
        for sequence in scheduled:
            assert sequence.status is Status.RUNNING
            assert len(sequence.block_table) * BLOCK_SIZE >= sequence.num_computed

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "it"):
            self.blocks.check(self.it.running)

    @invariant()
    def no_token_is_lost(self) -> None:
        for life in getattr(self, "lives", {}).values():
            sequence = life.sequence
            assert sequence.token_ids[sequence.num_prompt :] == life.produced

    def teardown(self) -> None:
        if not hasattr(self, "it"):
            return
        bound = (
            1000
            + sum(len(life.sequence.token_ids) + life.sequence.max_tokens for life in self.lives.values()) * 4
        )
        while self.it.has_work or self.in_flight:
            progressed = self.step(eos_every=1000)
            assert progressed, "deadlock: work is left but nothing runs"
            bound -= 1
            assert bound > 0, "livelock: requests do not end"
        self.blocks.check([])
        assert self.blocks.num_free == self.blocks.num_blocks
        assert all(life.sequence.finish_reason for life in self.lives.values())


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestMachine = Machine.TestCase


@pytest.mark.parametrize(
    ("budget", "decodes", "waiting", "expected"),
    [
        (8192, 0, 500, 8192),
        (8192, 16, 500, 8192),
        (8192, 32, 500, 4096),
        (8192, 64, 500, 2048),
        (8192, 256, 500, 2048),
        (8192, 256, 3 * 8192, 2048),
        (8192, 256, 3 * 8192 + 1, 8192),
        (256, 256, 0, 256),
    ],
)
def test_prompts_give_way_to_decodes_unless_many_wait(
    budget: int, decodes: int, waiting: int, expected: int
) -> None:
    assert prompt_budget(budget, decodes, waiting) == expected


def test_a_step_with_many_decodes_takes_fewer_prompt_tokens() -> None:
    it = scheduler(blocks=400, budget=8192, rows=80, length=10000)
    for index in range(64):
        it.add(request(f"{index}", [1] * 5, 20))
    step(it)
    it.add(request("long", [2] * 9000, 1))
    assert step(it).num_tokens == 64 + 2048
    for index in range(64):
        it.abort(f"{index}")
    assert step(it).num_tokens == 9000 - 2048
