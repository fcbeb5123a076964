"""Sums over GPUs: NCCL's, ours through peer memory, and ours fused with a residual and RMSNorm.

    python benchmarks/all_reduce.py [--ranks 2,4] [--bytes 8192,65536] [--check] [--save DIR]

One process a GPU, started by itself. Prints one JSON object a line, which --save also appends to a dated
file in DIR: for each number of ranks and size of
message the time of a call by `nccl`, `one_shot` and `two_shot`, and of a sum with residual and RMSNorm (rows
of 4096) by `fused` and by each of those with the norm kernel after it. Times are the slowest rank's median
over replays of a CUDA graph of calls one after another; gb_s is the size of the message over it. Every result
is checked first: ours to the bit, and all to be the same on every rank. --check only does that. Exit code 2
without enough GPUs, 1 where a rank fails or takes longer than --timeout.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch import multiprocessing as mp

import results
from mii.engine.tensor_parallel import Communicator
from mii.models.shard import Shard
from mii_kernels import ops, reference
from mii_kernels.cuda import all_reduce as ours
from mii_kernels.cuda.all_reduce import PeerReducer
from mii_kernels.reference.all_reduce import all_reduce as truth

BYTES = [8 << 10 << power for power in range(14)]  # 8 KiB to 64 MiB
HIDDEN = 4096
CALLS = 20  # in a graph
REPLAYS = 30
DTYPE = torch.bfloat16
EPS = 1e-5

Call = Callable[[Tensor], Tensor]


def main() -> int:
    options = parser().parse_args()
    counts = [int(count) for count in options.ranks.split(",")]
    if torch.cuda.device_count() < max(counts):
        print(
            f"benchmarks/all_reduce.py: {max(counts)} ranks need as many GPUs, torch sees "
            f"{torch.cuda.device_count()}",
            file=sys.stderr,
        )
        return 2
    return max(run_ranks(count, options) for count in counts)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--ranks", default="2", help="numbers of ranks, with commas")
    made.add_argument("--bytes", default=",".join(map(str, BYTES)), help="sizes of messages, with commas")
    made.add_argument("--check", action="store_true", help="check results, time nothing")
    made.add_argument("--save", type=Path, metavar="DIR")
    made.add_argument("--timeout", type=float, default=120.0, help="seconds for a number of ranks")
    return made


def run_ranks(ranks: int, options: argparse.Namespace) -> int:
    """The exit code. No rank outlives it."""
    ops.use_kernels("cuda")  # builds them before all ranks want to
    deadline = time.monotonic() + options.timeout
    with tempfile.TemporaryDirectory(prefix="mii-ranks-") as directory:
        job = mp.spawn(run_rank, (ranks, Path(directory) / "rendezvous", options), ranks, join=False)
        try:
            while not job.join(timeout=max(0.0, min(1.0, deadline - time.monotonic()))):
                if time.monotonic() > deadline:
                    print(f"benchmarks/all_reduce.py: {ranks} ranks took too long", file=sys.stderr)
                    return 1
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            print(f"benchmarks/all_reduce.py: {error}", file=sys.stderr)
            return 1
        finally:
            for process in job.processes:
                process.kill()
    return 0


@torch.inference_mode()
def run_rank(rank: int, ranks: int, rendezvous: Path, options: argparse.Namespace) -> None:
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    ops.use_kernels("cuda", rank)
    group, nccl = (
        Communicator(Shard(rank, ranks), device, rendezvous.with_name(name), peer_memory=name == "peers")
        for name in ("peers", "nccl")
    )
    group.connect()
    nccl.connect()
    if group.reducer is None:
        raise RuntimeError("these GPUs do not reach each other's memory")
    for nbytes in map(int, options.bytes.split(",")):
        parts = summands(ranks, nbytes)
        summed, own = truth(parts), parts[rank].to(device)
        for op, way, call in calls(nccl, group.reducer, nbytes):
            check(group, op, way, call(own.clone()), summed)
            found = {"correct": True} if options.check else timed(group, call, own)
            row = {"bench": "all_reduce", "op": op, "way": way, "ranks": ranks, "bytes": nbytes} | found
            if rank == 0:
                results.report(row | {"values": "normal"}, options.save)
    nccl.close()
    group.close()


def calls(nccl: Communicator, reducer: PeerReducer, nbytes: int) -> Iterator[tuple[str, str, Call]]:
    """(operation, way, x [bytes / 2 / HIDDEN, HIDDEN] -> result)"""
    ways: dict[str, Call] = {"nccl": nccl.all_reduce}
    if nbytes <= ours.ONE_SHOT_LIMIT:
        ways["one_shot"] = reducer.one_shot
    if nbytes <= ours.TWO_SHOT_LIMIT:
        ways["two_shot"] = reducer.two_shot
    for way, call in ways.items():
        yield "all_reduce", way, call
    x = torch.empty(nbytes // DTYPE.itemsize // HIDDEN, HIDDEN, dtype=DTYPE, device=nccl.device)
    residual, weight = torch.ones_like(x), torch.ones_like(x[0])
    for way, call in ways.items():
        yield "all_reduce_rms_norm", f"{way} + norm", then_norm(call, residual, weight)
    if nbytes <= ours.ONE_SHOT_LIMIT:
        yield "all_reduce_rms_norm", "fused", fused(reducer, residual, weight)


def then_norm(call: Call, residual: Tensor, weight: Tensor) -> Call:
    return lambda x: ops.rms_norm(call(x), weight, EPS, residual)[0]


def fused(reducer: PeerReducer, residual: Tensor, weight: Tensor) -> Call:
    """Whatever the policy says."""
    return lambda x: reducer.fused(x, residual, weight, None, EPS, rms=True)[0]


def summands(ranks: int, nbytes: int) -> list[Tensor]:
    """Every rank draws the same."""
    generator = torch.Generator().manual_seed(nbytes)
    shape = (nbytes // DTYPE.itemsize // HIDDEN, HIDDEN)
    return [torch.randn(shape, generator=generator).to(DTYPE) for _ in range(ranks)]


def check(group: Communicator, op: str, way: str, out: Tensor, summed: Tensor) -> None:
    out, expected = out.cpu(), summed
    if op == "all_reduce_rms_norm":
        weight = torch.ones(HIDDEN, dtype=DTYPE)
        expected = reference.rms_norm(expected, weight, EPS, torch.ones_like(expected))[0]
    name = f"{op} by {way} of {summed.nbytes} bytes on rank {group.shard.rank}"
    error = float((out.double() - expected.double()).norm() / expected.double().norm())
    if not error < 1e-2:
        raise RuntimeError(f"{name}: error {error}")
    if op == "all_reduce" and way != "nccl" and not torch.equal(out, expected):
        raise RuntimeError(f"{name}: not the bits of a sum in the order of the ranks")
    bits = int(out.view(torch.int16).long().mul(torch.arange(out.numel()).view_as(out) % 8191 + 1).sum())
    if group.lowest(bits) != bits or group.lowest(-bits) != -bits:
        raise RuntimeError(f"{name}: other bits than on another rank")


def timed(group: Communicator, call: Call, own: Tensor) -> dict[str, float]:
    """own: this rank's summand. Each replay begins with the same values, and they do not grow for ever."""
    values = small(own, group.shard.size)
    x = values.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call(x)
    times = [replay_us(group, graph, x, values) / CALLS for _ in range(REPLAYS)][REPLAYS // 3 :]
    if not bool(x.isfinite().all()):
        raise RuntimeError(f"sums of {x.nbytes} bytes grew beyond their dtype while they were timed")
    slowest = -group.lowest(-round(1000 * statistics.median(times))) / 1000
    return {"us": round(slowest, 2), "gb_s": round(x.nbytes / slowest / 1e3, 1)}


def small(own: Tensor, ranks: int) -> Tensor:
    """Summands for the CALLS sums of a graph, each in place and so of the last one's results.

    Zeros would stay zeros, but moving them costs less power than moving numbers. These keep random bits and
    grow by a factor of `ranks` each time, from as far below 1 as they get above it: for eight ranks from
    2^-30 to 2^30, whose squares float32 still holds.
    """
    return own * float(ranks) ** -(CALLS // 2)


def replay_us(group: Communicator, graph: torch.cuda.CUDAGraph, x: Tensor, values: Tensor) -> float:
    """Of the graph's sums in x, which has these values before."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    x.copy_(values)
    torch.cuda.synchronize()
    group.lowest(0)  # all begin at once
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1000


if __name__ == "__main__":
    sys.exit(main())
