"""Prefix-affine routing: what is recognised, who is chosen, and what it buys on conversations."""

import json
import random
from dataclasses import dataclass, field

import pytest

from mii_gateway import balance
from mii_gateway.affinity import BLOCK_BYTES, MAX_BLOCKS, PrefixIndex, blocks_of, prompt_of
from mii_gateway.balance import choose
from mii_gateway.work import Work


def chat(*turns, **options):
    messages = [{"role": "user", "content": turn} for turn in turns]
    return json.dumps({"model": "m", **options, "messages": messages, "stream": True}).encode()


def shared(first: bytes, second: bytes) -> int:
    """Blocks that two bodies have in common from their start."""
    index = PrefixIndex(10_000)
    index.add(blocks_of(prompt_of(first)))
    return index.match(blocks_of(prompt_of(second)))


TEXT = "".join(random.Random(0).choices("abcdefgh ", k=4 * BLOCK_BYTES))


@pytest.mark.parametrize(
    ("first", "second", "blocks"),
    [
        (chat(TEXT), chat(TEXT, "more"), 4),
        (chat(TEXT), chat(TEXT, "more", "and more"), 4),
        (chat(TEXT, temperature=0.5), chat(TEXT, "more", temperature=1), 4),  # options before the prompt
        (chat("x" + TEXT), chat(TEXT), 0),
        (chat(TEXT, TEXT), chat(TEXT, TEXT[::-1]), 4),
        (b'{"prompt":"' + TEXT.encode(), b'{"n":2,"prompt":"' + TEXT.encode() + b"y", 4),
        (b'{"prompts":["' + TEXT.encode(), b'{"prompts":["' + TEXT.encode() + b'"]}', 4),
        (b'{"prompt":' + str(list(range(999))).encode(), b'{"prompt":' + str(list(range(2000))).encode(), 19),
        (b"", b"", 0),
        (b"not json" * 100, b"not json" * 200, 3),
    ],
)
def test_a_continued_prompt_is_recognised(first, second, blocks):
    assert shared(first, second) == blocks


def message(text: str) -> bytes:
    """A protobuf message whose first field is this string."""
    size, length = len(text), b""
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return b"\n" + length + bytes([size]) + text.encode()


def test_a_continued_protobuf_prompt_is_recognised():
    assert shared(message(TEXT), message(TEXT * 20)) == 4
    assert len(blocks_of(prompt_of(b"\n"))) == 0


def test_a_block_stands_for_everything_before_it():
    same = "x" * BLOCK_BYTES
    assert len(set(blocks_of(memoryview((same * 3).encode())))) == 3


def test_only_so_much_is_looked_at():
    assert len(blocks_of(memoryview(b"x" * BLOCK_BYTES * (MAX_BLOCKS + 9)))) == MAX_BLOCKS


def test_an_index_forgets_ends_before_beginnings_and_old_before_new():
    index = PrefixIndex(4)
    index.add((1, 2, 3))
    assert [index.match(b) for b in ((1, 2, 3), (1, 2, 9), (9, 1))] == [3, 2, 0]
    index.add((1, 7, 8))
    assert index.match((1, 7, 8)) == 3
    assert index.match((1, 2, 3)) == 2  # 3, the oldest end, had to go
    index.clear()
    assert index.match((1,)) == 0


@dataclass(frozen=True)
class Load:
    name: str
    streams: int = 0
    prompt_tokens: int = 0


@pytest.mark.parametrize(
    ("replicas", "matched", "expected"),
    [
        ([Load("a"), Load("b")], {"a": 0, "b": 1}, "b"),
        ([Load("a"), Load("b")], {"a": 2, "b": 1}, "a"),
        ([Load("a", 2), Load("b")], {"a": 1, "b": 0}, "a"),  # a little busier is no reason to read it again
        ([Load("a", 3), Load("b")], {"a": 1, "b": 0}, "b"),  # released
        ([Load("a", 9), Load("b")], {"a": 64, "b": 0}, "a"),  # worth 4096 tokens: as much as 8 streams
        ([Load("a", 11), Load("b")], {"a": 64, "b": 0}, "b"),
        ([Load("a", 50), Load("b", 1), Load("c")], {"a": 64, "b": 64, "c": 0}, "b"),  # two know it
        ([Load("a", 1), Load("b")], {"a": 0, "b": 0}, "b"),
        ([Load("a", 1), Load("b")], {}, "b"),
        ([Load("a", 1)], {"a": 3}, "a"),
        ([], {}, None),
    ],
)
def test_the_longest_match_wins_unless_it_is_too_busy(replicas, matched, expected):
    chosen = choose(replicas, b"key", matched)
    assert (chosen and chosen.name) == expected


@dataclass
class Simulated:
    """A replica with a prefix cache, as the model server has one; `streams` are its open requests."""

    name: str
    streams: int = 0
    prompt_tokens: int = 0
    known: PrefixIndex = field(default_factory=lambda: PrefixIndex(2000))  # the gateway's idea
    cache: PrefixIndex = field(default_factory=lambda: PrefixIndex(2000))  # the truth
    hits: int = 0
    asked: int = 0

    def serve(self, blocks):
        self.hits += self.cache.match(blocks)
        self.asked += len(blocks)
        for index in (self.known, self.cache):
            index.add(blocks)
        self.streams += 1


def trace(conversations=150, turns=6):
    """Requests in the order they come: conversations overlap, and each turn repeats what was said."""
    random_ = random.Random(1)
    said = {n: ["You are a helpful assistant. " * 20] for n in range(conversations)}
    left = [n for n in said for _ in range(turns)]
    random_.shuffle(left)
    for n in left:
        said[n].append(f"{n} " + "".join(random_.choices("abcdefgh ", k=800)))
        yield chat(*said[n])


def hit_rate(route):
    replicas = [Simulated(f"10.0.0.{n}") for n in range(8)]
    running = []
    for number, body in enumerate(trace()):
        work = Work.of(body)
        chosen = route(number, replicas, work)
        chosen.serve(work.blocks)
        running.append(chosen)
        if len(running) > 24:  # requests are open for a while
            running.pop(0).streams -= 1
    most = max(replica.asked for replica in replicas)
    assert most < 2 * sum(replica.asked for replica in replicas) / len(replicas)  # nobody is overrun
    return sum(replica.hits for replica in replicas) / sum(replica.asked for replica in replicas)


def test_conversations_hit_twice_as_often_as_with_round_robin():
    def affine(_, replicas, work):
        return choose(replicas, work.key, {r.name: r.known.match(work.blocks) for r in replicas})

    def round_robin(number, replicas, _):
        return replicas[number % len(replicas)]

    assert hit_rate(affine) > 2 * hit_rate(round_robin)


async def ask(gateway, conversation, turns):
    body = chat(*[conversation * BLOCK_BYTES] * turns)
    return (await gateway.answer("/v1/chat/completions", json=None, data=body))[1]["replica"]


INFO = {"token_budget": 256, "kv_blocks": 1000, "block_size": 64, "prefill_tokens_per_second": 500.0}


@pytest.mark.parametrize("routing", ["auto", "prefix", "least-work"])
@pytest.mark.parametrize("info", [INFO, None])
async def test_turns_of_a_conversation_meet_one_replica(start_replica, start_gateway, until, routing, info):
    replicas = [await start_replica() for _ in range(4)]
    for replica in replicas:
        replica.info = info
    gateway = await start_gateway(*replicas, routing=routing)
    if info:
        await until(lambda: all(replica.capacity for replica in gateway.gateway.table.all()))
    met = {}
    for turn in range(1, 4):
        for conversation in "abcdefgh":
            met.setdefault(conversation, set()).add(await ask(gateway, conversation, turn))
    for conversation in "abcdefgh":  # without the beginning that rendezvous hashing goes by
        prompt = blocks_of(prompt_of(chat(*[conversation * BLOCK_BYTES] * 3)))
        knowing = [r for r in gateway.gateway.table.all() if r.prefixes.match(prompt)]
        if routing == "prefix" or (routing == "auto" and info):
            assert len(met[conversation]) == len(knowing) == 1


def test_a_kv_block_is_worth_a_block_of_text():
    assert balance.estimate_tokens(BLOCK_BYTES) == balance.BLOCK_TOKENS
