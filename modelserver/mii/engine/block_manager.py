"""Which KV block belongs to whom, and which blocks hold a prefix that the next prompt may reuse.

A block's *content id* stands for (content id of the block before it, its 64 tokens): a chained address that
is verified on every look-up, because the tokens themselves are part of the dictionary's key. A block that
nobody uses keeps its content and is evicted in LRU order when a fresh block is needed.
"""

from collections import OrderedDict, deque
from itertools import count

from mii.config import BLOCK_SIZE
from mii.engine.sequence import Sequence, blocks_for

ContentId = int | str  # a number for a block; before the first one, the request's salt
ContentKey = tuple[ContentId, tuple[int, ...]]


class BlockManager:
    """Plain integers on the host; the KV tensors are elsewhere."""

    def __init__(self, num_blocks: int, *, prefix_cache: bool = True) -> None:
        self.num_blocks = num_blocks
        self.prefix_cache = prefix_cache
        self.queries = 0  # tokens looked up
        self.hits = 0  # tokens found
        self._references = [0] * num_blocks
        self._blank = deque(range(num_blocks))  # unused, no content worth keeping
        self._idle: OrderedDict[int, None] = OrderedDict()  # unused, content kept; least recent first
        self._block_of: dict[ContentKey, tuple[int, int]] = {}  # key -> (block, content id)
        self._key_of: dict[int, ContentKey] = {}  # block -> key
        self._fresh_ids = count()

    @property
    def num_free(self) -> int:
        return len(self._blank) + len(self._idle)

    @property
    def usage(self) -> float:
        return 1.0 - self.num_free / self.num_blocks

    def missing_blocks(self, sequence: Sequence, num_tokens: int) -> int:
        """Blocks to allocate before the sequence can hold `num_tokens`."""
        return blocks_for(num_tokens) - len(sequence.block_table)

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Makes room for `num_tokens`; all or nothing."""
        missing = self.missing_blocks(sequence, num_tokens)
        if missing > self.num_free:
            return False
        for _ in range(missing):
            sequence.block_table.append(self._allocate())
        return True

    def lookup(self, sequence: Sequence) -> list[tuple[int, int]]:
        """(block, content id) of the longest known prefix; leaves at least one token to compute."""
        found: list[tuple[int, int]] = []
        if not (self.prefix_cache and sequence.uses_prefix_cache):
            return found
        content: ContentId = sequence.request.cache_salt
        for index in range((len(sequence.token_ids) - 1) // BLOCK_SIZE):
            entry = self._block_of.get((content, _tokens(sequence, index)))
            if entry is None:
                break
            found.append(entry)
            content = entry[1]
        return found

    def num_idle(self, found: list[tuple[int, int]]) -> int:
        """How many of the found blocks count as free until they are adopted."""
        return sum(self._references[block] == 0 for block, _ in found)

    def adopt(self, sequence: Sequence, found: list[tuple[int, int]]) -> None:
        """The sequence starts on the blocks that `lookup` found."""
        for block, content in found:
            if self._references[block] == 0:
                del self._idle[block]
            self._references[block] += 1
            sequence.block_table.append(block)
            sequence.content_ids.append(content)
        sequence.num_computed = len(found) * BLOCK_SIZE
        if self.prefix_cache and sequence.uses_prefix_cache:
            self.queries += len(sequence.token_ids)
            self.hits += sequence.num_computed

    def register(self, sequence: Sequence) -> None:
        """Makes the sequence's newly completed blocks findable. Their KV is written or launched."""
        if not self.prefix_cache:
            return
        full = min(sequence.num_computed, len(sequence.token_ids)) // BLOCK_SIZE
        for index in range(len(sequence.content_ids), full):
            content = sequence.content_ids[-1] if index else sequence.request.cache_salt
            key = (content, _tokens(sequence, index))
            entry = self._block_of.get(key)
            if entry is None:
                block = sequence.block_table[index]
                entry = self._block_of[key] = (block, next(self._fresh_ids))
                self._key_of[block] = key
            sequence.content_ids.append(entry[1])

    def release(self, sequence: Sequence) -> None:
        """Gives up the sequence's blocks, the last first, so that a prefix outlives what follows it."""
        for block in reversed(sequence.block_table):
            self._references[block] -= 1
            if self._references[block] == 0:
                if block in self._key_of:
                    self._idle[block] = None
                else:
                    self._blank.append(block)
        sequence.block_table = []
        sequence.content_ids = []

    def forget(self) -> None:
        """Drops all cached content that nobody uses, and the counters of look-ups."""
        while self._idle:
            block, _ = self._idle.popitem()
            del self._block_of[self._key_of.pop(block)]
            self._blank.append(block)
        self.queries = self.hits = 0

    def check(self, sequences: list[Sequence]) -> None:
        """Asserts that the books agree with `sequences`, all that hold blocks. For tests and idle moments."""
        held = [block for sequence in sequences for block in sequence.block_table]
        assert sum(self._references) == len(held)
        assert all(self._references[block] > 0 for block in held)
        assert self.num_free + len(set(held)) == self.num_blocks
        assert not set(self._blank) & set(self._idle)
        assert all(self._block_of[key][0] == block for block, key in self._key_of.items())

    def _allocate(self) -> int:
        if self._blank:
            block = self._blank.popleft()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._key_of.pop(block)]
        self._references[block] = 1
        return block


def _tokens(sequence: Sequence, index: int) -> tuple[int, ...]:
    return tuple(sequence.token_ids[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE])
