"""The ranks' memory opened to each other: by all of them or by none, and an engine that sums through it.

Ranks are threads: each is a device of its own in the emulator.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, PhiConfig

from mii.config import EngineConfig
from mii.core import EngineRequest, SamplingParams
from mii.engine.engine import Engine
from mii.engine.peers import RECORD_BYTES, Peers, UnreachableError
from mii.engine.tensor_parallel import Communicator
from mii.models.shard import Shard
from mii_kernels import _lib, ops
from mii_kernels.cuda.peer_memory import PeerMemory

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
}
CONFIGS = {"llama": LlamaConfig(**SMALL, num_key_value_heads=2), "phi": PhiConfig(**SMALL)}


def in_ranks(ranks: int, work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(work, range(ranks), timeout=240))


def exchange_among(ranks: int) -> Callable[[int], Callable[[bytes], list[bytes]]]:
    """What each of the ranks exchanges its records by."""
    records, barrier = [b""] * ranks, threading.Barrier(ranks, timeout=120)

    def of(rank: int) -> Callable[[bytes], list[bytes]]:
        def exchange(record: bytes) -> list[bytes]:
            assert len(record) == RECORD_BYTES
            records[rank] = record
            barrier.wait()
            got = list(records)
            barrier.wait()
            return got

        return exchange

    return of


def test_peers_sum(emulated: Callable[..., _lib.Library]) -> None:
    library, exchange = emulated(), exchange_among(3)

    def work(rank: int) -> list[float]:
        peers = Peers(library, Shard(rank, 3), CPU, exchange(rank))
        summed = peers.reducer.all_reduce(torch.tensor([float(rank), 1.0]))
        exchange(rank)(bytes(RECORD_BYTES))  # nobody closes before all are done
        peers.close()
        assert summed is not None
        return summed.tolist()

    assert in_ranks(3, work) == [[3.0, 3.0]] * 3


@pytest.mark.parametrize("step", ["__init__", "open"])
def test_one_rank_that_cannot_is_all_that_do_not(
    emulated: Callable[..., _lib.Library], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Container and driver may refuse to share memory; every rank must hear of it."""
    library, exchange = emulated(), exchange_among(2)
    real = getattr(PeerMemory, step)

    def failing(memory: PeerMemory, *args: Any) -> Any:
        rank = args[1] if step == "__init__" else memory._rank
        if rank == 1:
            raise _lib.KernelError("mii_peer_open: CUDA error 217, peer access is not supported")
        return real(memory, *args)

    monkeypatch.setattr(PeerMemory, step, failing)

    def work(rank: int) -> str:
        with pytest.raises(UnreachableError) as caught:
            Peers(library, Shard(rank, 2), CPU, exchange(rank))
        return str(caught.value)

    assert in_ranks(2, work) == ["rank 1: mii_peer_open: CUDA error 217, peer access is not supported"] * 2


@pytest.mark.parametrize("family", CONFIGS)
def test_an_engine_sums_through_peer_memory(
    family: str,
    emulated: Callable[..., _lib.Library],
    tiny_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """RMSNorm and LayerNorm, prompts and decodes: the tokens of one rank on the references."""
    model, threads = str(tiny_model(CONFIGS[family])), torch.get_num_threads()
    settings: dict[str, Any] = {"model": model, "device": "cpu", "kv_blocks": 32}
    alone = tokens(Engine(EngineConfig(**settings)))
    library = emulated()
    monkeypatch.setattr(ops, "library", lambda device: library)

    def work(rank: int) -> list[int]:
        ranks = Communicator(Shard(rank, 2), CPU, tmp_path / "rendezvous")
        engine = Engine(EngineConfig(**settings, tensor_parallel=2), ranks=ranks)
        assert ranks.reducer is not None
        return tokens(engine)

    assert in_ranks(2, work) == [alone, alone]
    torch.set_num_threads(threads)


def tokens(engine: Engine) -> list[int]:
    produced: list[int] = []
    prompt = [7 + 3 * i % 300 for i in range(70)]
    engine.add(EngineRequest("a", prompt, SamplingParams(max_tokens=12, temperature=0.0)))
    while engine.has_work():
        for output in engine.step():
            produced += output.token_ids
    return produced
