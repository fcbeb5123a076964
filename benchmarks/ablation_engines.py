"""Engines that lack a part, over the same weights: what they call, say, and how long they take."""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import msgspec
from torch import Tensor

from mii.bench.measure import summarize
from mii.config import EngineConfig
from mii.core import SamplingParams
from mii.engine.cuda_graph import can_capture
from mii.engine.engine import Engine
from mii.engine.loading import LoadedModel
from mii_kernels import choice, cuda, ops
from offline import as_dict, elapsed, measure, run_engine
from quantization import Windows, alike, run, tokens_of
from truth import Request

NEW_TOKENS = 8  # that are compared
# After these prompts.
CHECKED = {"requests": 16, "prompt_tokens": 48, "new_tokens": NEW_TOKENS, "spread": 0.5}
WARM_UP = 32  # requests of the first engine, which is not timed


class Variant(NamedTuple):
    """An engine without a part; None: with all of them."""

    off: str | None
    config: EngineConfig
    without: Collection[str] = ()  # operations that PyTorch serves


@dataclass(frozen=True)
class Workload:
    checked: Windows  # prompts
    stream: Request
    requests: list[Request]


@dataclass(frozen=True)
class Limits:
    """In seconds; what takes longer is broken off."""

    stream: float = math.inf
    requests: float = math.inf


@dataclass(frozen=True)
class Probe:
    """What an engine with everything on does."""

    cuda_graphs: bool
    kernels: tuple[str, ...]  # operations that it calls and that have one


def probed(config: EngineConfig, loaded: LoadedModel, workload: Workload, sampling: str) -> Probe:
    """Without graphs, whose replays call no operations."""
    with closing(Engine(msgspec.structs.replace(config, cuda_graphs=False), loaded=loaded)) as engine:
        with recorded() as called:
            continued(engine, workload.checked)
            run_engine(engine, [workload.stream, *workload.requests[:WARM_UP]], sampling=sampling)
        graphs = has_graphs(engine, config)
    on_kernels = ops.library(loaded.device) is not None
    return Probe(graphs, tuple(name for name in cuda.NAMES if on_kernels and name in called))


@contextmanager
def recorded() -> Iterator[set[str]]:
    """The operations that are called meanwhile."""
    called: set[str] = set()

    class Recorder:
        def __init__(self, tensor: Tensor) -> None:
            self.backend = choice.backend(tensor)

        def __getattr__(self, name: str) -> Callable[..., Any]:
            called.add(name)
            operation: Callable[..., Any] = getattr(self.backend, name)
            return operation

    with mock.patch("mii_kernels.ops._backend", Recorder):
        yield called


def measured(
    variant: Variant,
    loaded: LoadedModel,
    workload: Workload,
    sampling: str,
    limits: Limits,
) -> tuple[dict[str, Any], Windows]:
    """What is in the row, and how the engine continued the prompts that are checked."""
    if loaded.device.type == "cuda":
        ops.use_kernels(variant.config.kernels, loaded.device.index or 0, variant.without)
    with closing(Engine(variant.config, loaded=loaded)) as engine:
        row: dict[str, Any] = {"off": variant.off, "cuda_graphs": has_graphs(engine, variant.config)}
        row |= {"overlap": engine.overlap, "engine": as_dict(engine)}
        tokens = continued(engine, workload.checked)
        row["stream"] = streamed(engine, workload.stream, sampling, limits.stream)
        return row | all_at_once(engine, workload.requests, sampling, limits.requests), tokens


def has_graphs(engine: Engine, config: EngineConfig) -> bool:
    return config.cuda_graphs and can_capture(engine.runner.cache)


def continued(engine: Engine, prompts: Windows) -> Windows:
    params = SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True)
    return [tokens_of(outputs) for outputs in run(engine, prompts, [params] * len(prompts))]


def agreement(expected: Windows, tokens: Windows) -> dict[str, float]:
    same = [alike(*pair) for pair in zip(expected, tokens, strict=True)]
    return {
        "same_first": sum(map(bool, same)) / len(same),
        "same_tokens": sum(same) / sum(map(len, expected)),
    }


def streamed(engine: Engine, request: Request, sampling: str, limit: float) -> dict[str, Any]:
    found: dict[str, Any] = {"workload": f"{len(request[0])}/{request[1]}"}
    try:
        records = run_engine(engine, [request], sampling=sampling, limit=limit)
    except TimeoutError:
        return found | {"cut_after": limit}
    summary = summarize(records, clients=1)
    return found | {"seconds": elapsed(records), "ttft": summary.ttft_p50, "itl_p50": summary.itl_p50}


def all_at_once(engine: Engine, requests: list[Request], sampling: str, limit: float) -> dict[str, Any]:
    try:
        return measure(engine, requests, None, sampling, limit)
    except TimeoutError:
        return {"cut_after": limit}
