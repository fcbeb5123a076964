"""Sums over ranks by our kernels: right, the same bits on every rank, again and again, for whatever size.

In the emulator a rank is a thread, which is a device of its own there. On GPUs it is a process: see
test_all_reduce_gpus.py.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from mii_kernels import _lib, build, reference
from mii_kernels.cuda import all_reduce
from mii_kernels.cuda.all_reduce import PeerReducer, way_for
from mii_kernels.cuda.peer_memory import PeerMemory
from mii_kernels.reference.all_reduce import all_reduce as truth

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}  # of the norm of the difference
SECONDS = 240
InRanks = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """As many threads as there can be ranks; they keep their fibers."""
    with ThreadPoolExecutor(all_reduce.MAX_RANKS) as threads:
        yield threads


@pytest.fixture
def in_ranks(
    emulated: Callable[..., _lib.Library], pool: ThreadPoolExecutor, poisoned: None
) -> Iterator[InRanks]:
    """Runs `work(reducer)` on every rank; all calls of a test go through the same buffers."""
    library, memories, reducers = emulated(), [], []
    abandoned = torch.zeros(1, dtype=torch.int32)

    def in_ranks(ranks: int, work: Callable[[PeerReducer], Any]) -> list[Any]:
        if not reducers:
            memories.extend(PeerMemory(library, rank, ranks) for rank in range(ranks))
            handles = [memory.handle for memory in memories]
            reducers.extend(
                PeerReducer(library, rank, memory.open(handles), abandoned)
                for rank, memory in enumerate(memories)
            )
        waiting = [pool.submit(work, reducer) for reducer in reducers]
        try:
            return [it.result(SECONDS) for it in waiting]
        finally:
            abandoned.fill_(1)  # a rank that waits for another that has failed ends, too
            [it.exception(SECONDS) for it in waiting]
            abandoned.fill_(0)

    yield in_ranks
    for memory in memories:
        memory.close()


def summands(ranks: int, *shape: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(ranks)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("way", ["one_shot", "two_shot"])
def test_sums(in_ranks: InRanks, way: str, ranks: int, dtype: torch.dtype) -> None:
    """Sizes that grow and shrink, so that more blocks take part than before, and fewer; vectors that are not
    full."""
    for seed, count in enumerate((1, 8, 6007, 130, 9001, 7, 4096, 64, 3)):
        parts = summands(ranks, count, dtype=dtype, seed=seed)
        sums = in_ranks(ranks, lambda it, parts=parts: getattr(it, way)(parts[it.rank].clone()))
        assert all(torch.equal(it, truth(parts)) for it in sums), count


def summed_by(it: PeerReducer, way: str, x: Tensor) -> Tensor:
    """x [n]; with a norm of one row, whose residual is 0."""
    if way == "norm":
        row = x.view(1, -1)
        return it.fused(row, torch.zeros_like(row), torch.ones_like(x), None, 1e-5, rms=True)[1].view(-1)
    return it.one_shot(x) if way == "one" else it.two_shot(x)


@pytest.mark.parametrize("ways", [("one",), ("two",), ("one", "two", "norm", "norm")], ids="-".join)
def test_rounds_follow_each_other(in_ranks: InRanks, ways: tuple[str, ...]) -> None:
    """Nobody waits in between, and other numbers of blocks take other parts of the same buffers."""
    sizes = [(way, count) for count in (64, 5000, 64, 64, 5000, 5000, 9000, 5000) * 4 for way in ways]
    parts = [summands(2, count, dtype=torch.bfloat16, seed=seed) for seed, (_, count) in enumerate(sizes)]

    def work(it: PeerReducer) -> list[Tensor]:
        mine = [these[it.rank].clone() for these in parts]
        return [summed_by(it, way, x) for (way, _), x in zip(sizes, mine, strict=True)]

    first, second = in_ranks(2, work)
    assert all(map(torch.equal, first, second))
    assert all(torch.equal(ours, truth(these)) for ours, these in zip(first, parts, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rms", [True, False])
@pytest.mark.parametrize(
    ("ranks", "rows", "n"), [(2, 1, 8), (2, 5, 264), (2, 130, 64), (3, 2, 4096), (4, 1, 8192), (8, 3, 72)]
)
def test_with_a_norm(in_ranks: InRanks, ranks: int, rows: int, n: int, rms: bool, dtype: torch.dtype) -> None:
    """More rows than blocks, more vectors than threads. The sum is all-reduce's to the bit."""
    parts = summands(ranks, rows, n, dtype=dtype)
    generator = torch.Generator().manual_seed(n)
    shapes = ((rows, n), (n,), (n,))
    residual, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    added = None if rms else bias
    results = in_ranks(
        ranks, lambda it: it.all_reduce_norm(parts[it.rank], residual, weight, added, 1e-5, rms=rms)
    )
    if rms:
        normed, total = reference.rms_norm(truth(parts), weight, 1e-5, residual)
    else:
        normed, total = reference.layer_norm(truth(parts), weight, bias, 1e-5, residual)
    for out, summed in results:
        assert torch.equal(summed, total)
        assert torch.equal(out, results[0][0])
        assert float((out.double() - normed.double()).norm() / normed.double().norm()) < TOLERANCE[dtype]


def test_what_is_not_served_is_left_alone(in_ranks: InRanks) -> None:
    x = torch.ones(2, 12).bfloat16()  # rows of 24 bytes
    long = torch.zeros((all_reduce.TWO_SHOT_LIMIT >> 2) + 1)

    def work(it: PeerReducer) -> list[Any]:
        norm = it.all_reduce_norm(x, x, x[0], None, 1e-5, rms=True)
        odd = it.all_reduce(torch.ones(9)[1:])
        return [norm, odd, it.all_reduce(x[:0]), it.all_reduce(x.long()), it.all_reduce(long)]

    assert in_ranks(2, work) == [[None] * 5] * 2
    assert torch.equal(x, torch.ones(2, 12).bfloat16())


def test_a_rank_that_does_not_come_holds_nobody_once_it_is_given_up(in_ranks: InRanks) -> None:
    """It would be waited for without end otherwise."""

    def work(it: PeerReducer) -> None:
        if it.rank == 1:
            it.abandoned.fill_(1)
        else:
            it.one_shot(torch.ones(64))
            it.two_shot(torch.ones(64))

    in_ranks(2, work)


@pytest.mark.parametrize(
    ("nbytes", "ranks", "way"),
    [(2, 2, "one_shot"), (16384, 8, "one_shot"), (1 << 20, 2, "one_shot"), (1 << 20, 3, "two_shot"),
     (256 << 10, 4, "one_shot"), ((256 << 10) + 16, 4, "two_shot"), (32 << 20, 3, "two_shot"),
     (1 << 20, 4, "two_shot"), (1 << 20, 8, "two_shot"), (32 << 20, 2, "two_shot"),
     ((32 << 20) + 16, 2, "library"), (32 << 20, 4, "two_shot"), (8 << 20, 8, "library"),
     (64 << 20, 2, "library"), (0, 2, "library"), (64, 16, "library")],
)  # fmt: skip
def test_the_way_for_a_size(nbytes: int, ranks: int, way: str) -> None:
    assert way_for(nbytes, ranks) == way


def test_the_ways_stay_within_the_buffers() -> None:
    header = (build.SOURCES / "mii.h").read_text()
    assert f"MII_MAX_RANKS {all_reduce.MAX_RANKS}\n" in header
    for name, limit in (("ONE_SHOT", all_reduce.ONE_SHOT_LIMIT), ("TWO_SHOT", all_reduce.TWO_SHOT_LIMIT)):
        assert f"MII_{name}_BYTES ({limit >> 20} << 20)" in header
        assert max(getattr(all_reduce, f"_{name}_BYTES").values()) <= limit
