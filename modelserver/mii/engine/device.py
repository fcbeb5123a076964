"""What an engine runs on: the device of each rank, the type of its numbers, its threads."""

import torch

from mii.config import EngineConfig
from mii.errors import ModelLoadError
from mii.local.devices import usable_cores
from mii.models.shard import Shard
from mii_kernels import ops

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FP8_SINCE = (8, 9)  # Ada; Hopper is 9.0
_NO_DEVICE = "device {!r} is none of auto, cpu, cuda, cuda:N"


def choose_device(name: str, shard: Shard | None = None) -> torch.device:
    """The device of a rank: of several, rank i has the i-th visible GPU."""
    shard = shard or Shard()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:  # torch knows no such kind of device
        raise ModelLoadError(_NO_DEVICE.format(name)) from None
    if device.type not in ("cpu", "cuda"):
        raise ModelLoadError(_NO_DEVICE.format(name))
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise ModelLoadError(f"device {name!r}: torch sees no CUDA device here; use device='cpu' or 'auto'")
    if shard.size == 1:
        return device
    if device.index is not None:
        raise ModelLoadError(
            f"device {name!r} is one GPU, tensor_parallel {shard.size} needs as many: use device='cuda', and "
            "CUDA_VISIBLE_DEVICES to say which"
        )
    if (visible := torch.cuda.device_count()) < shard.size:
        raise ModelLoadError(
            f"tensor_parallel {shard.size} needs {shard.size} GPUs, torch sees {visible}: lower it, or widen "
            "CUDA_VISIBLE_DEVICES"
        )
    return torch.device("cuda", shard.rank)


def make_current(device: torch.device) -> None:
    """For what torch does on "the current device": events and pinned memory, say."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def choose_kernels(name: str, device: torch.device) -> None:
    """Raises ModelLoadError where CUDA kernels are asked for and cannot be had."""
    if name == "cuda" and device.type != "cuda":
        raise ModelLoadError(f"kernels 'cuda' need a CUDA device, and the device is {device}: use 'auto'")
    if name == "auto" and device.type == "cpu":
        name = "torch"
    try:
        ops.use_kernels(name, device.index or 0)
    except ops.KernelError as error:
        raise ModelLoadError(str(error)) from error


def refuse_without_fp8(device: torch.device) -> None:
    """Raises ModelLoadError on a GPU that cannot multiply 8-bit floats; a CPU computes what they give."""
    if device.type == "cuda" and (capability := torch.cuda.get_device_capability(device)) < _FP8_SINCE:
        raise ModelLoadError(
            "quantization 'fp8' needs a GPU of compute capability {}.{} or newer, and {} has {}.{}: use "
            "quantization 'none', or another GPU".format(
                *_FP8_SINCE, torch.cuda.get_device_name(device), *capability
            )
        )


def limit_threads(config: EngineConfig) -> None:
    """The ranks share the machine's cores: on a CPU to compute, beside GPUs to read weights."""
    threads = config.cpu_threads
    if config.tensor_parallel > 1:
        threads = max(1, (threads or usable_cores()) // config.tensor_parallel)
    if threads is not None:
        torch.set_num_threads(threads)


def choose_dtype(asked: str, device: torch.device, stored: str | None) -> torch.dtype:
    """On a CPU float32 is fast and exact enough to equal transformers; a GPU runs the checkpoint's dtype."""
    if asked != "auto":
        return DTYPES[asked]
    if device.type == "cpu":
        return torch.float32
    wanted = DTYPES.get((stored or "bfloat16").removeprefix("torch."), torch.bfloat16)
    return torch.bfloat16 if wanted is torch.float32 else wanted
