"""The engine: schedule, run, collect.

With `overlap`, step N + 1 is scheduled and launched before the tokens of step N are read, so that the device
never waits for the host. A sequence that turns out to have ended in step N has then been computed once more;
that token is dropped.
"""

import logging
import time

import torch

from mii.config import BLOCK_SIZE, EngineConfig
from mii.core import EngineInfo, EngineOutput, EngineRequest, EngineStats, SamplingParams, TokenLogprob
from mii.engine.block_manager import BlockManager
from mii.engine.loading import FoundModel, LoadedModel, find_model, load_model
from mii.engine.memory import max_model_len, num_kv_blocks
from mii.engine.model_runner import LaunchedStep, ModelRunner
from mii.engine.scheduler import ScheduledBatch, Scheduler
from mii.engine.sequence import Sequence, Status
from mii.engine.tensor_parallel import Communicator
from mii.models.source import shown
from mii_kernels.cuda.arguments import multiprocessors
from mii_kernels.cuda.gemm import even_tokens

_CPU_TOKEN_BUDGET = 256

log = logging.getLogger(__name__)


class Engine:
    """One model, or one rank of it, on one device. Not thread-safe: one thread adds, aborts and steps.

    Under tensor parallelism every rank has an engine, and all of them are told the same in the same order;
    `leading.open_engine` sees to that. What is decided here depends on what an engine was told, and never on
    a clock or on what one rank alone knows.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        found: FoundModel | None = None,
        loaded: LoadedModel | None = None,
        ranks: Communicator | None = None,
    ) -> None:
        """Loads the model, by default whatever `config` names; `ranks` is this rank's end of several. Raises
        ModelLoadError.

        `loaded`: what `load_model` made of `config`, to share its weights with an engine that has been. The
        kernels then stay as they were chosen last.
        """
        assert config.tensor_parallel == (ranks.shard.size if ranks else 1), "see leading.open_engine"
        model = loaded or load_model(config, found or find_model(config), ranks)
        device = model.device.type
        if ranks is not None:
            ranks.connect()  # takes memory that is then not free for the cache
        blocks = num_kv_blocks(config, model.description, model.dtype, model.device)
        budget = config.token_budget or _token_budget(model.device)
        if ranks is not None:
            blocks, budget = ranks.lowest(blocks), ranks.lowest(budget)
        length = max_model_len(config, model.description, blocks)
        self.overlap = device == "cuda" if config.overlap is None else config.overlap
        self.scheduler = Scheduler(
            BlockManager(blocks, prefix_cache=config.prefix_cache),
            token_budget=budget,
            max_running=config.max_running,
            max_model_len=length,
        )
        self.runner = ModelRunner(
            model,
            kv_blocks=blocks,
            max_running=config.max_running,
            max_model_len=length,
            token_budget=budget,
            cuda_graphs=config.cuda_graphs,
        )
        self._stats = EngineStats()
        self._pending: LaunchedStep | None = None
        speed = self._measure_prefill(min(budget, length - 1, blocks * BLOCK_SIZE - 1))
        log.info("warmed up: %.0f prompt tokens/s", speed)
        self.info = _info(config, model, blocks, length, budget, speed)

    def add(self, request: EngineRequest) -> None:
        """Raises InvalidRequest if the request could never run."""
        self.scheduler.add(request)

    def abort(self, request_id: str) -> None:
        """Ends a request silently; unknown ids are ignored, for the request may just have finished."""
        self.scheduler.abort(request_id)

    def has_work(self) -> bool:
        return self.scheduler.has_work or self._pending is not None

    def step(self) -> list[EngineOutput]:
        """One forward at most. Returns what became known: with overlap, the results of the step before."""
        batch = self.scheduler.schedule()
        self._note(batch)
        launched = self.runner.launch(batch) if batch else None
        if self.overlap:
            ready, self._pending = self._pending, launched
        else:
            ready = launched
        return self._collect(ready) if ready is not None else []

    def close(self) -> None:
        """Ends the other ranks, where there are any; the engine is of no use afterwards."""

    def stats(self) -> EngineStats:
        stats, blocks = self._stats, self.scheduler.blocks
        stats.num_running = len(self.scheduler.running)
        stats.num_waiting = len(self.scheduler.waiting)
        stats.kv_cache_usage = blocks.usage
        stats.prefix_cache_queries = blocks.queries
        stats.prefix_cache_hits = blocks.hits
        stats.num_preemptions = self.scheduler.num_preemptions
        return stats

    def _note(self, batch: ScheduledBatch) -> None:
        now = time.monotonic()
        for sequence in batch.admitted:
            if sequence.started is None:
                sequence.started = now
        self._stats.steps += bool(batch)
        self._stats.iteration_tokens = batch.num_tokens

    def _collect(self, step: LaunchedStep) -> list[EngineOutput]:
        outputs = []
        for sequence, (token, logprob) in zip(step.sampled, step.collect(), strict=True):
            if sequence.status is Status.FINISHED:
                continue  # aborted, or ended in the step before this one was launched
            accepted = self.scheduler.accept(sequence, token)
            outputs.append(_output(sequence, accepted, logprob))
        return outputs

    def _measure_prefill(self, num_tokens: int) -> float:
        """Tokens per second of one prompt that fills the budget; the first run only warms up."""
        seconds = 0.0
        for attempt in range(2):
            sampling = SamplingParams(max_tokens=0)
            self.add(
                EngineRequest(
                    f"warm-up-{attempt}", [0] * num_tokens, sampling, cache_salt=f"warm-up-{attempt}"
                )
            )
            begun = time.monotonic()
            while self.has_work():
                self.step()
            seconds = time.monotonic() - begun
        self.scheduler.blocks.forget()
        self._stats = EngineStats()
        return num_tokens / seconds


def _output(sequence: Sequence, token: int | None, logprob: TokenLogprob | None) -> EngineOutput:
    wanted = sequence.sampling.logprobs
    first = len(sequence.token_ids) - sequence.num_prompt <= 1
    output = EngineOutput(
        request_id=sequence.request.request_id,
        token_ids=[] if token is None else [token],
        finish_reason=sequence.finish_reason,
        cached_tokens=sequence.num_cached or 0,
    )
    if wanted is not None and logprob is not None and token is not None:
        output.logprobs = [TokenLogprob(token, logprob.logprob, logprob.top[:wanted])]
    if first and sequence.sampling.prompt_logprobs is not None:
        output.prompt_logprobs = sequence.prompt_logprobs
    if sequence.finish_reason is not None and sequence.started is not None:
        output.model_seconds = time.monotonic() - sequence.started
    return output


def _token_budget(device: torch.device) -> int:
    """By default."""
    return _CPU_TOKEN_BUDGET if device.type == "cpu" else even_tokens(multiprocessors(device))


def _info(
    config: EngineConfig, model: LoadedModel, blocks: int, length: int, budget: int, speed: float
) -> EngineInfo:
    return EngineInfo(
        model=shown(config.model),
        revision=model.snapshot.revision,
        device=model.device_name,
        dtype=str(model.dtype).removeprefix("torch."),
        tensor_parallel=config.tensor_parallel,
        vocab_size=model.description.vocab_size,
        max_model_len=length,
        block_size=BLOCK_SIZE,
        kv_blocks=blocks,
        token_budget=budget,
        load_seconds=model.seconds,
        prefill_tokens_per_second=speed,
    )
