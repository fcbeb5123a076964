"""Configuration of one engine, parsed once at the edge and frozen."""

from typing import Annotated

import msgspec

BLOCK_SIZE = 64  # tokens in a KV block: one (block, head) tile is one TMA box on Hopper
MAX_RUNNING = 256
QUANTIZATIONS = ("none", "fp8")

Count = Annotated[int, msgspec.Meta(ge=1)]
Length = Annotated[int, msgspec.Meta(ge=2)]  # of a prompt and the token that follows it
Fraction = Annotated[float, msgspec.Meta(ge=0.01, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0.1)]


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the engine process needs. None means: choose from the model and the device.

    The bounds are checked where an instance is decoded or converted, not where it is constructed.
    """

    model: str  # HF id, a directory, a .gguf file, or an https:// URL of one
    revision: str = "main"
    tokenizer: str | None = None  # HF id or directory; default: the model's own
    dtype: str = "auto"  # auto | float32 | bfloat16 | float16; auto: float32 on CPU, else the checkpoint's
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    max_model_len: Length | None = None  # tokens of prompt and output together
    token_budget: Count | None = None  # tokens per forward (Dynamic SplitFuse)
    max_running: Count = MAX_RUNNING  # sequences at once
    kv_memory_fraction: Fraction = 0.9  # of the device memory that is free after loading
    kv_blocks: Count | None = None  # overrides the fraction
    prefix_cache: bool = True
    overlap: bool | None = None  # schedule step N+1 while N runs; None: where the device is asynchronous
    cuda_graphs: bool = True  # replay decodes from captured graphs, on GPUs where our kernels run
    prepack_weights: bool = True  # copy weights into the CPU backend's fastest layout
    kernels: str = "auto"  # what a CUDA device runs: auto | cuda | torch, as mii_kernels.ops.use_kernels says
    random_weights: bool = False  # weights drawn at random: only config and tokenizer are read
    tensor_parallel: Count = 1  # ranks: processes that share one model, each on a GPU of its own
    peer_memory: bool = True  # of GPUs, where our kernels run: sum over ranks through each other's memory
    quantization: str = "none"  # none | fp8: attention and MLP in 8-bit floats, quantised at load
    # To compute on a CPU or to read weights for GPUs, shared by the ranks; None: all cores.
    cpu_threads: Count | None = None
    heartbeat_timeout: Seconds = 60.0  # seconds a step may take before the engine counts as stalled
