"""Which prompts a replica has read lately, so that their continuations can meet its prefix cache. Pure.

A prompt is cut into blocks of the bytes that usually make one KV block. A block's hash covers everything
before it (a chain), so that equal hashes mean equal prefixes; they are this process's own.
"""

from collections.abc import Sequence

BLOCK_BYTES = 256  # 64 tokens of English: one KV block
MAX_BLOCKS = 512  # of a prompt that are looked at
MOST_SYSTEM = 2**16  # bytes of options before the prompt that are searched
_KEYS = (b'"messages"', b'"prompt"', b'"prompts"', b'"input"')  # OpenAI's and MII's


def prompt_of(body: bytes) -> memoryview:
    """From where the prompt begins, whatever options stand before it.

    The text is taken as the client wrote it, without parsing: turns of one conversation come from one client,
    and repeat byte for byte what was said before.
    """
    if body.startswith(b"\n"):
        return memoryview(body)[_after_length(body) :]
    starts = [start for key in _KEYS if (start := body.find(key, 0, MOST_SYSTEM)) >= 0]
    return memoryview(body)[min(starts, default=0) :]


def _after_length(message: bytes) -> int:
    """Behind tag and length of a protobuf message's first string: the length changes with every turn."""
    return next((i + 1 for i in range(1, min(len(message), 11)) if message[i] < 0x80), 0)


def blocks_of(prompt: memoryview) -> tuple[int, ...]:
    """Chained hashes of its whole blocks."""
    chain, hashes = 0, []
    for start in range(0, min(len(prompt) // BLOCK_BYTES, MAX_BLOCKS) * BLOCK_BYTES, BLOCK_BYTES):
        chain = hash((chain, prompt[start : start + BLOCK_BYTES].tobytes()))
        hashes.append(chain)
    return tuple(hashes)


class PrefixIndex:
    """The blocks of the prompts that one replica got last, as many as its cache has room for."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._blocks: dict[int, None] = {}  # least recently used first

    def match(self, blocks: Sequence[int]) -> int:
        """How many blocks from the start are here."""
        return next((i for i, block in enumerate(blocks) if block not in self._blocks), len(blocks))

    def add(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):  # a prefix outlives what continues it
            self._blocks.pop(block, None)
            self._blocks[block] = None
        while len(self._blocks) > self.limit:
            del self._blocks[next(iter(self._blocks))]

    def clear(self) -> None:
        self._blocks.clear()
