"""Tensor-parallel width from GPU counts: model facts × GPU facts × what was asked for.

A width serves a model when three things hold on each of its GPUs:

    heads % width == 0
    kv_heads % width == 0                  (KV heads are split)
        or width % kv_heads == 0           (there are fewer: each is replicated)
    weights/width + reserve + floor KV / kvMemoryFraction <= memory

Of the widths that serve, `auto` takes the smallest: fewer GPUs wait for each other. An explicit width is
taken or refused, never changed. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mii_spec.model_facts import ModelFacts

GIB = 2**30
RESERVE_BYTES = 3 * GIB // 2  # CUDA context, cuBLAS workspaces, activations of one token budget
AUTO_KV_TOKENS = 8192  # with maxModelLen auto: room for one sequence of this length (or the model's, if less)

RefusalReason = Literal["InvalidParallelism", "ModelDoesNotFit"]


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """The GPUs that a replica may get; nodes that differ count by their smallest memory."""

    memory_bytes: int | None  # of one GPU; None: unknown
    per_node: int  # GPUs of the largest node, as a replica never spans nodes
    mixed: bool = False  # whether there are larger ones, which spec.accelerator.product could ask for


@dataclass(frozen=True, kw_only=True)
class Request:
    """The manifest's part. None is `auto`."""

    gpus: int | None = None
    tensor_parallel: int | None = None
    kv_memory_fraction: float = 0.9
    max_model_len: int | None = None

    @property
    def width(self) -> int | None:
        """The width that was asked for by either field."""
        return self.tensor_parallel if self.tensor_parallel is not None else self.gpus


@dataclass(frozen=True)
class Choice:
    """GPUs of one replica (one pod) and how many ranks share a copy of the model. 0 GPUs is the CPU."""

    tensor_parallel: int
    gpus: int
    explanation: tuple[str, ...]


@dataclass(frozen=True)
class Refusal:
    reason: RefusalReason
    message: str


def choose(model: ModelFacts | None, gpu: GpuFacts | None, request: Request) -> Choice | Refusal:
    """The width to run with and why, or why there is none. None facts are unknown (model) or absent (GPU)."""
    width = request.width
    if request.gpus == 0 or (request.gpus is None and width in (None, 1) and not (gpu and gpu.per_node)):
        return _on_cpu(model, request)
    if request.gpus is not None and request.gpus != width:
        return Refusal(
            "InvalidParallelism",
            f"gpus: {request.gpus} with tensorParallel: {width} would leave GPUs idle: make them equal",
        )
    if model is None:
        return _of_unknown_model(width)
    if width is not None:
        return _explicit(model, gpu, request, width)
    assert gpu is not None
    return _smallest(model, gpu, request)


def divides(model: ModelFacts, width: int) -> bool:
    """Whether every GPU gets equally many query heads, and whole KV heads (split or replicated)."""
    return splits(model.heads, model.kv_heads, width)


def splits(heads: int, kv_heads: int, width: int) -> bool:
    """Whether `width` ranks can share so many query and KV heads."""
    return heads % width == 0 and (kv_heads % width == 0 or width % kv_heads == 0)


def widths(model: ModelFacts, most: int) -> list[int]:
    """Every width up to `most` that divides the heads, ascending."""
    return [width for width in range(1, most + 1) if divides(model, width)]


def kv_bytes_per_token(model: ModelFacts, width: int) -> int:
    """K and V of one token on one GPU of `width`, in bytes."""
    kv_heads = max(1, model.kv_heads // width)
    return 2 * model.layers * kv_heads * model.head_dim * model.dtype_bytes


def needed_bytes(model: ModelFacts, request: Request, width: int) -> int:
    """What each GPU of `width` must have for the weights, the reserve and the KV floor."""
    kv = kv_bytes_per_token(model, width) * _floor_tokens(model, request)
    return round(model.parameter_bytes / width + RESERVE_BYTES + kv / request.kv_memory_fraction)


def _floor_tokens(model: ModelFacts, request: Request) -> int:
    return request.max_model_len or min(model.max_position, AUTO_KV_TOKENS)


def _on_cpu(model: ModelFacts | None, request: Request) -> Choice | Refusal:
    """The ranks are processes that share its cores."""
    width = request.tensor_parallel or 1
    if model is not None and not divides(model, width):
        return Refusal("InvalidParallelism", _indivisible(model, width))
    why = "gpus: 0" if request.gpus == 0 else "no GPU was found"
    asked = (f"width {width} as asked for",) if width > 1 else ()
    return Choice(width, 0, (f"{why}: runs on the CPU", *asked))


def _of_unknown_model(width: int | None) -> Choice:
    if width is not None:
        return Choice(width, width, (f"width {width} as asked for",))
    return Choice(1, 1, ("the model's size is not known: one GPU; set spec.gpus for more",))


def _explicit(model: ModelFacts, gpu: GpuFacts | None, request: Request, width: int) -> Choice | Refusal:
    if not divides(model, width):
        return Refusal("InvalidParallelism", _indivisible(model, width))
    if gpu is None or gpu.memory_bytes is None:
        return Choice(width, width, (f"width {width} as asked for; the GPUs' memory is not known",))
    if needed_bytes(model, request, width) > gpu.memory_bytes:
        return Refusal("ModelDoesNotFit", arithmetic(model, gpu, request, width) + _hint(model, gpu, request))
    return Choice(width, width, (f"width {width} as asked for", arithmetic(model, gpu, request, width)))


def _smallest(model: ModelFacts, gpu: GpuFacts, request: Request) -> Choice | Refusal:
    if gpu.memory_bytes is None:
        return Choice(1, 1, ("the GPUs' memory is not known: one GPU; set spec.gpus for more",))
    tried = []
    for width in widths(model, gpu.per_node):
        tried.append(arithmetic(model, gpu, request, width))
        if needed_bytes(model, request, width) <= gpu.memory_bytes:
            return Choice(width, width, (f"width {width} is the smallest that fits", *tried))
    why = f"{tried[-1]}; {_heads(model)}; a node has at most {_gpus(gpu.per_node)}{_larger(gpu)}"
    return Refusal("ModelDoesNotFit", why)


def arithmetic(model: ModelFacts, gpu: GpuFacts, request: Request, width: int) -> str:
    """One line that a person can check: what a GPU needs and has."""
    tokens = _floor_tokens(model, request)
    kv = kv_bytes_per_token(model, width) * tokens / request.kv_memory_fraction
    need = needed_bytes(model, request, width)
    assert gpu.memory_bytes is not None
    verdict = "fits" if need <= gpu.memory_bytes else "does not fit"
    return (
        f"width {width}: weights {_gib(model.parameter_bytes)} / {width} + KV of {tokens} tokens {_gib(kv)} "
        f"+ reserve {_gib(RESERVE_BYTES)} = {_gib(need)} per GPU, {verdict} in {_gib(gpu.memory_bytes)}"
    )


def _indivisible(model: ModelFacts, width: int) -> str:
    valid = ", ".join(map(str, widths(model, max(16, width))))
    return f"width {width} does not divide the model: {_heads(model)}; it can be one of {valid}"


def _hint(model: ModelFacts, gpu: GpuFacts, request: Request) -> str:
    assert gpu.memory_bytes is not None
    fitting: Sequence[int] = [
        w for w in widths(model, gpu.per_node) if needed_bytes(model, request, w) <= gpu.memory_bytes
    ]
    return (
        f"; width {fitting[0]} would fit"
        if fitting
        else f"; nor does any width up to {gpu.per_node}{_larger(gpu)}"
    )


def _heads(model: ModelFacts) -> str:
    return f"it has {model.heads} attention heads and {model.kv_heads} KV heads"


def _larger(gpu: GpuFacts) -> str:
    return "; spec.accelerator.product can ask for the larger ones" if gpu.mixed else ""


def _gpus(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"
