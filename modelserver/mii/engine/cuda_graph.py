"""Steps of decodes alone, captured as CUDA graphs: one launch instead of some hundred.

    batch ─of─> graph of the next larger size ─frame─> metadata, padded ─replay─> logits, greedy tokens

A graph repeats fixed kernels on fixed addresses, so each has a number of decodes, a buffer for the metadata,
and splits of attention that do not depend on the contexts' lengths. It ends with the greedy tokens, which are
all that most steps of greedy requests need; any other sampling launches what its requests ask for.
"""

import logging
from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from mii.config import BLOCK_SIZE
from mii.engine.batch import BatchBuilder, DeviceBatch, Frame
from mii.engine.scheduler import ScheduledBatch
from mii.models.decoder import Decoder, KVCache
from mii_kernels import ops

# Attention is split as if all contexts were so long. Shorter ones leave some parts empty, which cost little;
# longer ones have longer parts.
ASSUMED_CONTEXT = 4096

log = logging.getLogger(__name__)


def can_capture(cache: KVCache) -> bool:
    """Whether decodes over this cache run without the host looking at their lengths: on our kernels. On a GPU
    a warning says if not, as that is several times slower."""
    keys = cache[0][0]
    captured = ops.decodes_on_device(keys)
    if keys.is_cuda and not captured:
        log.warning(
            "decodes run without CUDA graphs: attention over a %s cache of %d columns a head is PyTorch's",
            str(keys.dtype).removeprefix("torch."),
            keys.shape[3],
        )
    return captured


def sizes(largest: int) -> list[int]:
    """Numbers of decodes to capture, ascending to `largest`: the padding is at most 7, or a fifth of them."""
    steps = [1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, 256, 32), *range(256, largest, 64)]
    return [size for size in steps if size < largest] + [largest]


@dataclass(frozen=True)
class DecodeGraph:
    frame: Frame
    logits: Tensor  # [decodes, vocab], until the next replay of any graph, as the tokens
    greedy: Tensor  # [decodes] int64; replays leave them in the rows' last tokens, too
    _graph: torch.cuda.CUDAGraph

    def replay(self) -> None:
        """Queues the forward of what is in the frame."""
        self._graph.replay()


class DecodeGraphs:
    """Of every size. They share their memory, as only one of them runs at a time."""

    def __init__(self, decoder: Decoder, cache: KVCache, builder: BatchBuilder, last_tokens: Tensor) -> None:
        """last_tokens [rows] int32: of each row, on the device."""
        self._decoder, self._cache, self._builder, self._last_tokens = decoder, cache, builder, last_tokens
        self._sizes = sizes(builder.max_running)
        self._buffer = last_tokens.new_zeros(builder.words)
        self._pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(stream):
            self._forward(self._padding(self._frame(self._sizes[-1])))  # what is set up once, is set up here
            stream.synchronize()
            graphs = {size: self._capture(size) for size in reversed(self._sizes)}
        torch.cuda.current_stream().wait_stream(stream)
        self._graphs = graphs
        log.info("captured CUDA graphs of decodes, %d sizes", len(graphs))

    def of(self, batch: ScheduledBatch) -> DecodeGraph | None:
        """The graph that this batch fits; None if it has prompts."""
        if batch.chunks:
            return None
        return self._graphs[self._sizes[bisect_left(self._sizes, len(batch.decodes))]]

    def _capture(self, size: int) -> DecodeGraph:
        frame = self._frame(size)
        step = self._padding(frame)
        graph = torch.cuda.CUDAGraph()
        # Errors of this thread only: others may well talk to the device meanwhile.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            logits, greedy = self._forward(step)
        finally:
            graph.capture_end()
        return DecodeGraph(frame, logits, greedy, graph)

    def _frame(self, size: int) -> Frame:
        return Frame(size, self._builder.max_blocks, self._buffer)

    def _padding(self, frame: Frame) -> DeviceBatch:
        """A step of nothing else."""
        step = self._builder.build(ScheduledBatch(), frame)
        assumed = min(ASSUMED_CONTEXT, frame.width * BLOCK_SIZE)
        step.ragged.context_lens_host[:] = [assumed] * frame.decodes
        return step

    def _forward(self, step: DeviceBatch) -> tuple[Tensor, Tensor]:
        hidden = self._decoder(self._last_tokens[step.decode_rows], step.ragged, self._cache)
        logits = self._decoder.logits(hidden)
        greedy = ops.greedy(logits)
        self._last_tokens[step.decode_rows] = greedy.int()
        return logits, greedy
