"""What runs in the next forward: Dynamic SplitFuse over a fixed token budget. No torch, no clock, no I/O.

Order: every running decode takes one token of the budget; started prompts continue, first come first served;
waiting requests are admitted while budget, rows and blocks last. Long prompts are split over steps, short
ones are composed to fill the budget, and only a prompt's last chunk samples.

Progress: sequences run in the order of their admission. A decode that finds no free block preempts the
newest running sequence (perhaps itself), and a prompt preempts newer prompts, so the oldest one can always
take every block but its own; `add` refuses a request that the whole cache could not hold. Nothing is
admitted past a request that waits for blocks. So the oldest always finishes, and with it every request.
"""

from collections import deque
from dataclasses import dataclass, field

from mii.config import BLOCK_SIZE
from mii.core import EngineRequest, FinishReason
from mii.engine.block_manager import BlockManager
from mii.engine.prompt_budget import backlog, prompt_budget
from mii.engine.sequence import Sequence, Status, blocks_for
from mii.errors import InvalidRequest


@dataclass(slots=True)
class Chunk:
    """Tokens [start, start + length) of a prompt, or of a preempted sequence that is computed again."""

    sequence: Sequence
    start: int
    length: int
    samples: bool  # reaches the last known token


@dataclass(slots=True)
class ScheduledBatch:
    decodes: list[Sequence] = field(default_factory=list)  # position of each: num_computed - 1
    chunks: list[Chunk] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)  # new owners of their rows

    def __bool__(self) -> bool:
        return bool(self.decodes or self.chunks)

    @property
    def num_tokens(self) -> int:
        return len(self.decodes) + sum(chunk.length for chunk in self.chunks)

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get a token, in the order of the sampler's rows."""
        return self.decodes + [chunk.sequence for chunk in self.chunks if chunk.samples]


class Scheduler:
    def __init__(
        self, blocks: BlockManager, *, token_budget: int, max_running: int, max_model_len: int
    ) -> None:
        self.blocks = blocks
        self.token_budget = token_budget
        self.max_running = max_running
        self.max_model_len = max_model_len
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self.num_preemptions = 0
        self._sequences: dict[str, Sequence] = {}
        self._free_rows = list(range(max_running - 1, -1, -1))
        self._reserve = max(1, blocks.num_blocks // 100)  # kept free at admission, against thrashing

    def add(self, request: EngineRequest) -> Sequence:
        """Queues a request. Raises InvalidRequest if it could never run."""
        if request.request_id in self._sequences:
            raise InvalidRequest(f"request id {request.request_id!r} is in use", param="request_id")
        sequence = Sequence(request, max_tokens=self._max_tokens(request))
        self._sequences[request.request_id] = sequence
        self.waiting.append(sequence)
        return sequence

    def _max_tokens(self, request: EngineRequest) -> int:
        """New tokens that fit behind the prompt."""
        prompt = len(request.prompt_token_ids)
        if prompt == 0:
            raise InvalidRequest("the prompt has no tokens", param="prompt")
        room = self.max_model_len - prompt
        if room < min(1, request.sampling.max_tokens):
            raise InvalidRequest(
                f"the prompt has {prompt} tokens; with a new token it must fit in {self.max_model_len}",
                param="prompt",
                code="context_length_exceeded",
            )
        max_tokens = min(request.sampling.max_tokens, room)
        needed = blocks_for(prompt + max_tokens)
        if needed > self.blocks.num_blocks:
            raise InvalidRequest(
                f"{prompt} prompt tokens and {max_tokens} new ones need {needed} KV blocks of {BLOCK_SIZE}; "
                f"this server has {self.blocks.num_blocks}",
                param="max_tokens",
            )
        return max_tokens

    def abort(self, request_id: str) -> Sequence | None:
        """Ends a request at once; None if it is not (or no longer) here."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._finish(sequence, "abort")
        return sequence

    def schedule(self) -> ScheduledBatch:
        """Chooses the next batch and books its tokens, blocks and rows; empty if nothing can run."""
        batch = ScheduledBatch()
        preemptions = self.num_preemptions
        budget = self._schedule_decodes(batch, self.token_budget)
        waiting = backlog(self.waiting, self.token_budget)
        budget = min(budget, prompt_budget(self.token_budget, len(batch.decodes), waiting))
        budget, starved = self._continue_prompts(batch, budget)
        if not starved and preemptions == self.num_preemptions:
            self._admit(batch, budget)
        return batch

    def accept(self, sequence: Sequence, token_id: int) -> int | None:
        """Takes a sampled token that was read back; None if the request ended meanwhile."""
        if sequence.status is Status.FINISHED:
            return None
        sequence.num_in_flight -= 1
        if sequence.max_tokens == 0:
            self._finish(sequence, "length")
            return None
        sequence.token_ids.append(token_id)
        generated = len(sequence.token_ids) - sequence.num_prompt
        if token_id in sequence.end_ids and generated > sequence.sampling.min_tokens:
            self._finish(sequence, "stop")
        elif generated >= sequence.max_tokens:
            self._finish(sequence, "length")
        elif len(sequence.token_ids) // BLOCK_SIZE > len(sequence.content_ids):
            self.blocks.register(sequence)
        return token_id

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def _schedule_decodes(self, batch: ScheduledBatch, budget: int) -> int:
        index = 0
        while index < len(self.running) and budget > 0:
            sequence = self.running[index]
            index += 1
            if not sequence.fed or sequence.awaits_last_result:
                continue
            if not self._make_room(sequence, sequence.num_tokens):
                break  # the sequence itself was the newest and is waiting again
            sequence.num_computed += 1
            sequence.num_in_flight += 1
            batch.decodes.append(sequence)
            budget -= 1
        return budget

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Preempts newer sequences until the tokens fit; False if that ended with the sequence itself."""
        while not self.blocks.grow(sequence, num_tokens):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _continue_prompts(self, batch: ScheduledBatch, budget: int) -> tuple[int, bool]:
        """Returns the budget left and whether a started prompt found too few blocks."""
        for sequence in [s for s in self.running if not s.fed]:
            if budget == 0 or sequence.status is not Status.RUNNING:
                break
            wanted = min(sequence.num_pending, budget)
            while self.blocks.missing_blocks(sequence, sequence.num_computed + wanted) > self.blocks.num_free:
                victim = self.running[-1]
                if victim.fed or victim is sequence:
                    break  # what is newer has been scheduled already; take what is left
                self._preempt(victim)
            room = (len(sequence.block_table) + self.blocks.num_free) * BLOCK_SIZE - sequence.num_computed
            length = min(wanted, room)
            if length > 0:
                self._take_chunk(batch, sequence, length)
                budget -= length
            if length < wanted:
                return budget, True
        return budget, False

    def _admit(self, batch: ScheduledBatch, budget: int) -> None:
        while self.waiting and budget > 0 and self._free_rows:
            sequence = self.waiting[0]
            if sequence.num_in_flight:
                break  # preempted in flight: its last token is not known here yet
            found = self.blocks.lookup(sequence)
            needed = blocks_for(sequence.num_tokens) - len(found)
            reserve = self._reserve if self.running else 0
            if needed + reserve > self.blocks.num_free - self.blocks.num_idle(found):
                break
            self.waiting.popleft()
            self._start(batch, sequence, found)
            length = min(sequence.num_pending, budget)
            self._take_chunk(batch, sequence, length)
            budget -= length

    def _start(self, batch: ScheduledBatch, sequence: Sequence, found: list[tuple[int, int]]) -> None:
        sequence.row = self._free_rows.pop()
        sequence.status = Status.RUNNING
        self.blocks.adopt(sequence, found)
        if sequence.num_cached is None:
            sequence.num_cached = sequence.num_computed
        self.running.append(sequence)
        batch.admitted.append(sequence)

    def _take_chunk(self, batch: ScheduledBatch, sequence: Sequence, length: int) -> None:
        start = sequence.num_computed
        grown = self.blocks.grow(sequence, start + length)
        assert grown, "the caller has counted the free blocks"
        sequence.num_computed += length
        samples = sequence.num_pending == 0
        if samples:
            sequence.num_in_flight += 1
            sequence.fed = True
        self.blocks.register(sequence)
        batch.chunks.append(Chunk(sequence, start, length, samples))

    def _preempt(self, sequence: Sequence) -> None:
        self.num_preemptions += 1
        self.running.remove(sequence)
        self._give_back(sequence)
        sequence.reset()
        self.waiting.appendleft(sequence)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        if sequence.status is Status.RUNNING:
            self.blocks.register(sequence)
            self.running.remove(sequence)
            self._give_back(sequence)
        elif sequence.status is Status.WAITING:
            self.waiting.remove(sequence)
        sequence.status = Status.FINISHED
        sequence.finish_reason = reason
        del self._sequences[sequence.request.request_id]

    def _give_back(self, sequence: Sequence) -> None:
        self.blocks.release(sequence)
        assert sequence.row is not None
        self._free_rows.append(sequence.row)
