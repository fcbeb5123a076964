"""Runs scheduled batches on the device: launches a step without waiting for it, reads its tokens later."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mii.config import BLOCK_SIZE
from mii.core import TokenLogprob
from mii.engine.batch import BatchBuilder, DeviceBatch
from mii.engine.cuda_graph import DecodeGraph, DecodeGraphs, can_capture
from mii.engine.loading import LoadedModel
from mii.engine.prompt_logprobs import PromptLogprobs, score_chunks
from mii.engine.sampler import Sampler
from mii.engine.scheduler import ScheduledBatch
from mii.engine.scored_tokens import ScoredTokens
from mii.engine.sequence import Sequence
from mii.models.decoder import Decoder, KVCache
from mii.models.description import Description


@dataclass(slots=True)
class LaunchedStep:
    """A step on its way. `sampled` are the sequences that get a token, in the order of `collect`'s rows."""

    sampled: list[Sequence]
    _prompt_logprobs: list[PromptLogprobs]
    _tokens: ScoredTokens
    _done: torch.cuda.Event | None

    def collect(self) -> list[tuple[int, TokenLogprob | None]]:
        """Waits for the step. Sequences whose prompts are scored get its scores; returned are each sampled
        sequence's token and, in steps where any is wanted, that one's score."""
        if self._done is not None:
            self._done.synchronize()
        for scored in self._prompt_logprobs:
            scored.deliver()
        return self._tokens.rows()


class ModelRunner:
    """Owns what lives on the device: weights, KV cache, and the last token of every row."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        kv_blocks: int,
        max_running: int,
        max_model_len: int,
        token_budget: int,
        cuda_graphs: bool = True,
    ) -> None:
        """`cuda_graphs`: replay decodes from graphs, where the device and the model allow it."""
        self.decoder: Decoder = model.decoder
        self.device = model.device
        self.cache = _allocate_cache(model.description, kv_blocks + 1, model.dtype, model.device)
        self.builder = BatchBuilder(
            max_running=max_running,
            max_model_len=max_model_len,
            token_budget=token_budget,
            device=model.device,
            spare_block=kv_blocks,
        )
        self.sampler = Sampler(model.description.vocab_size, max_running, model.device)
        # What a row sampled last feeds its next step without a detour over the host.
        self._last_tokens = torch.zeros(max_running + 1, dtype=torch.int32, device=model.device)
        self._graphs: DecodeGraphs | None = None
        if cuda_graphs and can_capture(self.cache):
            self._graphs = DecodeGraphs(self.decoder, self.cache, self.builder, self._last_tokens)

    @torch.inference_mode()
    def launch(self, batch: ScheduledBatch) -> LaunchedStep:
        """Queues one forward and the sampling after it; returns before a GPU has done them."""
        for sequence in batch.admitted:
            assert sequence.row is not None
            self.sampler.open(sequence.row, sequence.sampling, sequence.token_ids, sequence.num_prompt)
        graph = self._graphs.of(batch) if self._graphs is not None else None
        tokens, prompt_logprobs = self._replay(graph, batch) if graph is not None else self._run(batch)
        reading, done = tokens.start_reading(), None
        if self.device.type == "cuda":
            done = torch.cuda.Event()
            done.record()
        return LaunchedStep(batch.sampled, prompt_logprobs, reading, done)

    def forget_graphs(self) -> None:
        """NCCL does not end while a graph remembers it."""
        self._graphs = None

    def _run(self, batch: ScheduledBatch) -> tuple[ScoredTokens, list[PromptLogprobs]]:
        step = self.builder.build(batch)
        if step.ragged.num_decodes:
            step.token_ids[: step.ragged.num_decodes] = self._last_tokens[step.decode_rows]
        hidden = self.decoder(step.token_ids, step.ragged, self.cache)
        logits = self.decoder.logits(hidden[step.sample_index])
        return self._sample(logits, step), score_chunks(self.decoder, hidden, batch)

    def _replay(self, graph: DecodeGraph, batch: ScheduledBatch) -> tuple[ScoredTokens, list[PromptLogprobs]]:
        step = self.builder.build(batch, graph.frame)
        graph.replay()
        if step.plan.plain:
            return ScoredTokens(graph.greedy[: len(batch.decodes)], None, None, None), []
        return self._sample(graph.logits[: len(batch.decodes)], step), []

    def _sample(self, logits: Tensor, step: DeviceBatch) -> ScoredTokens:
        tokens = self.sampler(logits, step.sampling, step.plan)
        self._last_tokens[step.sample_rows] = tokens.token_ids.int()
        return tokens


def _allocate_cache(
    description: Description, blocks: int, dtype: torch.dtype, device: torch.device
) -> KVCache:
    """Zeroed: a tile's unwritten rows are read with weight 0, and 0 times NaN would be NaN."""
    shape = (blocks, description.kv_heads, BLOCK_SIZE, description.head_dim)

    def half() -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return [(half(), half()) for _ in range(description.layers)]
