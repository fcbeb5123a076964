"""Running an engine to its end, and transformers beside it as the truth."""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mii.config import EngineConfig
from mii.core import EngineOutput, EngineRequest, SamplingParams
from mii.engine.engine import Engine
from mii.engine.tensor_parallel import Communicator
from mii.models.shard import Shard

Prompt = list[int]


@dataclass
class Ran:
    """One request's outputs, put together."""

    token_ids: list[int] = field(default_factory=list)
    outputs: list[EngineOutput] = field(default_factory=list)

    @property
    def finish_reason(self) -> str | None:
        return self.outputs[-1].finish_reason

    @property
    def cached_tokens(self) -> int:
        return self.outputs[-1].cached_tokens


@pytest.fixture(scope="session")
def run() -> Callable[[Engine, Sequence[tuple[Prompt, SamplingParams]]], list[Ran]]:
    """Runs requests all at once, to the end."""

    def run(engine: Engine, requests: Sequence[tuple[Prompt, SamplingParams]]) -> list[Ran]:
        ran = {f"{index}": Ran() for index in range(len(requests))}
        for index, (prompt, sampling) in enumerate(requests):
            engine.add(EngineRequest(f"{index}", prompt, sampling))
        while engine.has_work():
            for output in engine.step():
                ran[output.request_id].token_ids += output.token_ids
                ran[output.request_id].outputs.append(output)
        return list(ran.values())

    return run


@pytest.fixture
def in_ranks(tmp_path: Path) -> Iterator[Callable[..., list[Any]]]:
    """Runs `work(engine)` on every rank of a model and returns their results. The ranks are threads of this
    process, which start at once and show what each of them saw."""
    numbers, threads = itertools.count(), torch.get_num_threads()

    def in_ranks(ranks: int, model: Path, work: Callable[[Engine], Any], **config: Any) -> list[Any]:
        rendezvous, ended = tmp_path / f"ranks-{next(numbers)}", queue.SimpleQueue[tuple[int, Any]]()
        settings = EngineConfig(model=str(model), device="cpu", tensor_parallel=ranks, **config)

        def live(rank: int) -> None:
            try:
                group = Communicator(Shard(rank, ranks), torch.device("cpu"), rendezvous)
                ended.put((rank, work(Engine(settings, ranks=group))))
            except BaseException as error:
                ended.put((rank, error))

        for rank in range(ranks):
            threading.Thread(target=live, args=(rank,), daemon=True).start()
        results = {}
        while len(results) < ranks:  # a rank that fails leaves the others waiting for it
            rank, result = ended.get(timeout=270)
            if isinstance(result, BaseException):
                raise result
            results[rank] = result
        return [results[rank] for rank in range(ranks)]

    yield in_ranks
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_engine() -> Callable[..., Engine]:
    def make(model: Path, **config: Any) -> Engine:
        return Engine(EngineConfig(model=str(model), **{"device": "cpu", **config}))

    return make


class Truth:
    """Greedy generation by transformers in float32, one prompt at a time."""

    def __init__(self, directory: Path, gguf: str | None) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(
            directory, gguf_file=gguf, dtype=torch.float32
        ).eval()

    @torch.inference_mode()
    def __call__(self, prompt: Prompt, max_tokens: int, eos: list[int] | None = None) -> list[int]:
        out = self.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=0,
        )
        return out[0, len(prompt) :].tolist()


@pytest.fixture(scope="session")
def truth() -> Callable[..., Truth]:
    """transformers on a directory, or on a GGUF file in it."""

    @cache
    def load(path: Path) -> Truth:
        return Truth(path.parent, path.name) if path.is_file() else Truth(path, None)

    return load
