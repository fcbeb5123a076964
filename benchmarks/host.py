"""Host time of one step: schedule, build the batch, launch, collect, with the model itself left out.

    python benchmarks/host.py [--sequences 256] [--steps 300] [--context 1000]

Every sequence decodes; the model is a stand-in that returns tensors made beforehand, so what is timed is what
a GPU's step has to hide. Prints one JSON object with percentiles in milliseconds.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from mii.bench.hardware import hardware
from mii.bench.measure import percentile
from mii.config import BLOCK_SIZE
from mii.core import EngineRequest, SamplingParams
from mii.engine.block_manager import BlockManager
from mii.engine.loading import LoadedModel
from mii.engine.model_runner import LaunchedStep, ModelRunner
from mii.engine.scheduler import Scheduler
from mii.models.description import Description
from mii.models.snapshot import Snapshot

VOCAB = 8
BUDGET = 8192  # tokens a step


class NullModel:
    """Answers at once; hidden states and logits do not depend on the input."""

    def __init__(self, tokens: int) -> None:
        self._hidden = torch.randn(tokens, 1)
        self._logits = torch.randn(tokens, VOCAB)

    def __call__(self, token_ids: torch.Tensor, *_: Any) -> torch.Tensor:
        return self._hidden[: token_ids.shape[0]]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._logits[: hidden.shape[0]]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--context", type=int, default=1000, help="prompt tokens of each sequence")
    options = parser.parse_args()
    torch.set_num_threads(1)
    timings = measure(options.sequences, options.steps, options.context)
    result = {
        "bench": "host",
        "sequences": options.sequences,
        "steps": options.steps,
        "context": options.context,
        "milliseconds": {part: summary(times) for part, times in timings.items()},
        "hardware": hardware(),
    }
    print(json.dumps(result))
    return 0


def summary(seconds: list[float]) -> dict[str, float]:
    return {f"p{q}": round(1e3 * percentile(seconds, q), 4) for q in (50, 95, 99)}


def measure(sequences: int, steps: int, context: int) -> dict[str, list[float]]:
    """Seconds by part of each step."""
    new = steps + 2 * (sequences * context // BUDGET) + 8  # the first ones decode while the last prompts run
    length = context + new
    blocks = sequences * (-(-length // BLOCK_SIZE) + 1)
    scheduler = Scheduler(
        BlockManager(blocks), token_budget=BUDGET, max_running=sequences, max_model_len=length
    )
    runner = null_runner(sequences, length)
    for index in range(sequences):
        sampling = SamplingParams(max_tokens=new, temperature=0.0)
        scheduler.add(EngineRequest(f"{index}", [index] * context, sampling))
    pending: LaunchedStep | None = None
    timings: dict[str, list[float]] = {
        "schedule": [],
        "build_and_launch": [],
        "collect": [],
        "schedule_and_launch": [],
    }
    while len(timings["collect"]) < steps:
        scheduled, batch = timed(scheduler.schedule)
        launched, step = timed(lambda batch=batch: runner.launch(batch))  # type: ignore[misc]
        collected, _ = timed(lambda ready=pending: collect(scheduler, ready))  # type: ignore[misc]
        pending = step
        if len(batch.decodes) == sequences:
            timings["schedule"].append(scheduled)
            timings["build_and_launch"].append(launched)
            timings["collect"].append(collected)
            timings["schedule_and_launch"].append(scheduled + launched)
    return timings


def collect(scheduler: Scheduler, step: LaunchedStep | None) -> None:
    if step is not None:
        for sequence, (token, _) in zip(step.sampled, step.collect(), strict=True):
            scheduler.accept(sequence, token)


def null_runner(sequences: int, length: int) -> ModelRunner:
    description = Description(
        family="null",
        vocab_size=VOCAB,
        hidden=1,
        layers=0,
        heads=1,
        kv_heads=1,
        head_dim=1,
        intermediate=1,
        max_position=length,
        original_max_position=length,
    )
    model = LoadedModel(
        decoder=NullModel(BUDGET),  # type: ignore[arg-type]
        description=description,
        snapshot=Snapshot("null", "", directory=None, gguf=None),  # type: ignore[arg-type]
        device=torch.device("cpu"),
        dtype=torch.float32,
        seconds=0.0,
    )
    return ModelRunner(model, kv_blocks=1, max_running=sequences, max_model_len=length, token_budget=BUDGET)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


if __name__ == "__main__":
    sys.exit(main())
