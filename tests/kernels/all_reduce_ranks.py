"""Sums over GPUs, checked by the ranks themselves: `python all_reduce_ranks.py RANKS DIRECTORY`.

A program of its own, because each rank is a process. Exit code 0 where all is right on every rank.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch import multiprocessing as mp

from mii.engine.tensor_parallel import Communicator
from mii.models.shard import Shard
from mii_kernels import ops, reference
from mii_kernels.cuda.all_reduce import TWO_SHOT_LIMIT, PeerReducer, way_for
from mii_kernels.reference.all_reduce import all_reduce as truth

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
COUNTS = (1, 8, 6007, 260_000, 130, 9001, 7, 40_000, 3)
ROWS = ((1, 4096), (5, 264), (130, 64), (64, 4096), (3, 8192))
REPLAYS = 50


def main() -> None:
    ranks, directory = int(sys.argv[1]), Path(sys.argv[2])
    ops.use_kernels("cuda")  # built once
    mp.spawn(run_rank, (ranks, directory / "rendezvous"), ranks)


@torch.inference_mode()
def run_rank(rank: int, ranks: int, rendezvous: Path) -> None:
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    ops.use_kernels("cuda", rank)
    group = Communicator(Shard(rank, ranks), device, rendezvous)
    group.connect()
    assert group.reducer is not None, "the GPUs reach each other's memory"
    for dtype in DTYPES:
        check_sums(group.reducer, dtype, device)
        check_norms(group.reducer, dtype, device)
    check_limit(group.reducer, device)
    check_graph(group.reducer, device)
    check_nccl(group, device)
    group.lowest(0)
    check_end_of_waiting(group.reducer, device)
    group.lowest(0)
    group.close()


def summands(reducer: PeerReducer, *shape: int, dtype: torch.dtype, seed: int) -> list[Tensor]:
    """Every rank draws the same."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(reducer.ranks)]


def check_sums(reducer: PeerReducer, dtype: torch.dtype, device: torch.device) -> None:
    for seed, count in enumerate(COUNTS):
        parts = summands(reducer, count, dtype=dtype, seed=seed)
        for way in (reducer.one_shot, reducer.two_shot):
            summed = way(parts[reducer.rank].to(device, copy=True)).cpu()
            assert torch.equal(summed, truth(parts)), (way.__name__, count, dtype)


def check_limit(reducer: PeerReducer, device: torch.device) -> None:
    """The longest messages, with short ones between them."""
    most = TWO_SHOT_LIMIT // torch.bfloat16.itemsize
    for seed, count in enumerate((most, 64, most - 13, most)):
        parts = summands(reducer, count, dtype=torch.bfloat16, seed=seed)
        summed = reducer.two_shot(parts[reducer.rank].to(device, copy=True)).cpu()
        assert torch.equal(summed, truth(parts)), count


def check_norms(reducer: PeerReducer, dtype: torch.dtype, device: torch.device) -> None:
    for seed, (rows, n) in enumerate(ROWS):
        parts = summands(reducer, rows, n, dtype=dtype, seed=seed)
        residual, weight, bias = parts[0].flip(0).contiguous(), parts[0][0].clone(), parts[0][-1].clone()
        here = [it.to(device) for it in (parts[reducer.rank], residual, weight, bias)]
        for rms in (True, False):
            out, summed = reducer.fused(*here[:3], None if rms else here[3], 1e-5, rms=rms)
            if rms:
                normed, total = reference.rms_norm(truth(parts), weight, 1e-5, residual)
            else:
                normed, total = reference.layer_norm(truth(parts), weight, bias, 1e-5, residual)
            assert torch.equal(summed.cpu(), total), (rows, n, dtype, rms)
            assert (out.cpu().double() - normed.double()).norm() / normed.double().norm() < 5e-3, (rows, n)


def check_graph(reducer: PeerReducer, device: torch.device) -> None:
    """Each replay sums what its inputs then are, and nobody waits for the host."""
    parts = summands(reducer, 16, 4096, dtype=torch.bfloat16, seed=0)
    x, weight = parts[reducer.rank].to(device), torch.ones(4096, dtype=torch.bfloat16, device=device)
    residual = torch.zeros_like(x)
    reducer.one_shot(x.clone())  # loads the kernels: a capture may not
    reducer.two_shot(x.clone())
    reducer.fused(x, residual, weight, None, 1e-5, rms=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once = reducer.one_shot(x.clone())
        twice = reducer.two_shot(x.clone())
        summed = reducer.fused(x, residual, weight, None, 1e-5, rms=True)[1]
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for factor in range(1, REPLAYS):
        expected = truth([(part * (factor % 7 + 1)) for part in parts]).to(device)
        x.copy_(parts[reducer.rank].to(device) * (factor % 7 + 1))
        graph.replay()
        wrong += sum((got != expected).sum() for got in (once, twice, summed))
    assert wrong.item() == 0


def check_nccl(group: Communicator, device: torch.device) -> None:
    """What is too large for peer memory, and what is gathered; in a graph, too."""
    x = torch.ones((TWO_SHOT_LIMIT >> 2) + 4, device=device)
    assert way_for(x.nbytes, group.shard.size) == "library"
    part = torch.full((3, 5), float(group.shard.rank), device=device)
    width = 5 * group.shard.size - 2
    group.all_gather(part, width)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        summed, gathered = group.all_reduce(x.clone()), group.all_gather(part, width)
    graph.replay()
    assert bool((summed == group.shard.size).all())
    expected = [float(column // 5) for column in range(width)]
    assert gathered.tolist() == [expected] * 3


def check_end_of_waiting(reducer: PeerReducer, device: torch.device) -> None:
    """The other ranks do not come: an end comes from the host, while the kernel runs."""
    if reducer.rank == 0:
        reducer.one_shot(torch.ones(64, device=device))
        done = torch.cuda.current_stream().record_event()
        assert not done.query(), "it waits"
        reducer.abandoned.fill_(1)
        done.synchronize()


if __name__ == "__main__":
    main()
