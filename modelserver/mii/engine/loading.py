"""From an EngineConfig to a decoder on its device."""

import time
from dataclasses import dataclass

import torch

from mii.config import EngineConfig
from mii.errors import ModelLoadError
from mii.models.builder import Builder, Weights
from mii.models.config import load_config
from mii.models.decoder import Decoder
from mii.models.description import Description
from mii.models.progress import loading_progress
from mii.models.registry import describe
from mii.models.snapshot import Snapshot, fetch
from mii.models.weights import RandomWeights, WeightReader, open_checkpoint

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NO_DEVICE = "device {!r} is none of auto, cpu, cuda, cuda:N"


@dataclass(frozen=True)
class LoadedModel:
    decoder: Decoder
    description: Description
    snapshot: Snapshot
    device: torch.device
    dtype: torch.dtype
    seconds: float

    @property
    def device_name(self) -> str:
        return "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)


def load_model(config: EngineConfig) -> LoadedModel:
    """Raises ModelLoadError if the model cannot be had, is not supported or does not fit its description."""
    begun = time.monotonic()
    if config.cpu_threads is not None:
        torch.set_num_threads(config.cpu_threads)
    _refuse_unserved(config)
    device = choose_device(config.device)
    snapshot = fetch(config.model, config.revision, weights=not config.random_weights)
    model_config = load_config(snapshot)
    description, names = describe(model_config)
    dtype = choose_dtype(config.dtype, device, model_config.get("torch_dtype") or model_config.get("dtype"))
    length = config.max_model_len or description.max_position

    def build(weights: Weights) -> Decoder:
        pack = config.prepack_weights
        builder = Builder(description, names, weights, max_model_len=length, device=device, pack=pack)
        return builder.build()

    if config.random_weights:
        decoder = build(RandomWeights(dtype=dtype, device=device))
    else:
        checkpoint = open_checkpoint(snapshot)
        with loading_progress(checkpoint.total_bytes) as on_bytes:
            decoder = build(
                WeightReader(checkpoint, dtype=dtype, device=device, ignore=names.ignore, on_bytes=on_bytes)
            )
    return LoadedModel(decoder, description, snapshot, device, dtype, time.monotonic() - begun)


def choose_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:  # torch knows no such kind of device
        raise ModelLoadError(_NO_DEVICE.format(name)) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError(f"device {name!r}: torch sees no CUDA device here; use device='cpu' or 'auto'")
    if device.type not in ("cpu", "cuda"):
        raise ModelLoadError(_NO_DEVICE.format(name))
    return device


def choose_dtype(asked: str, device: torch.device, stored: str | None) -> torch.dtype:
    """On a CPU float32 is fast and exact enough to equal transformers; a GPU runs the checkpoint's dtype."""
    if asked != "auto":
        return _DTYPES[asked]
    if device.type == "cpu":
        return torch.float32
    wanted = _DTYPES.get((stored or "bfloat16").removeprefix("torch."), torch.bfloat16)
    return torch.bfloat16 if wanted is torch.float32 else wanted


def _refuse_unserved(config: EngineConfig) -> None:
    if config.tensor_parallel != 1:
        raise ModelLoadError(f"tensor_parallel {config.tensor_parallel}: this engine runs on one device")
    if config.quantization != "none":
        raise ModelLoadError(f"quantization {config.quantization!r} is none of: none")
    if config.dtype not in ("auto", *_DTYPES):
        raise ModelLoadError(f"dtype {config.dtype!r} is none of auto, {', '.join(_DTYPES)}")
