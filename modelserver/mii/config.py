"""Configuration of one engine, parsed once at the edge and frozen."""

import msgspec

BLOCK_SIZE = 64  # tokens in a KV block: one (block, head) tile is one TMA box on Hopper
MAX_RUNNING = 256


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the engine process needs. None means: choose from the model and the device."""

    model: str  # HF id, a directory, a .gguf file, or an https:// URL of one
    revision: str = "main"
    tokenizer: str | None = None  # HF id or directory; default: the model's own
    dtype: str = "auto"  # auto | float32 | bfloat16 | float16; auto: float32 on CPU, else the checkpoint's
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    max_model_len: int | None = None  # tokens of prompt and output together
    token_budget: int | None = None  # tokens per forward (Dynamic SplitFuse)
    max_running: int = MAX_RUNNING  # sequences at once
    kv_memory_fraction: float = 0.9  # of the device memory that is free after loading
    kv_blocks: int | None = None  # overrides the fraction
    prefix_cache: bool = True
    overlap: bool | None = None  # schedule step N+1 while N runs; None: where the device is asynchronous
    prepack_weights: bool = True  # copy weights into the CPU backend's fastest layout
    random_weights: bool = False  # weights drawn at random: only config and tokenizer are read
    tensor_parallel: int = 1
    quantization: str = "none"
    cpu_threads: int | None = None
    heartbeat_timeout: float = 60.0  # seconds a step may take before the engine counts as stalled
