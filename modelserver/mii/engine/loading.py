"""From an EngineConfig to a decoder on its device."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from mii.config import QUANTIZATIONS, EngineConfig
from mii.engine.device import (
    DTYPES,
    choose_device,
    choose_dtype,
    choose_kernels,
    limit_threads,
    make_current,
    refuse_without_fp8,
)
from mii.engine.tensor_parallel import Communicator
from mii.errors import ModelLoadError
from mii.models.builder import Builder
from mii.models.config import load_config
from mii.models.decoder import Decoder
from mii.models.description import Description, Names
from mii.models.linears import Weights
from mii.models.progress import loading_progress
from mii.models.registry import describe
from mii.models.shard import Shard, refuse_indivisible
from mii.models.snapshot import Snapshot, fetch
from mii.models.weights import RandomWeights, WeightReader, open_checkpoint
from mii_kernels.ops import KERNELS


@dataclass(frozen=True)
class LoadedModel:
    decoder: Decoder
    description: Description  # with the heads and KV heads of this rank
    snapshot: Snapshot
    device: torch.device
    dtype: torch.dtype
    seconds: float

    @property
    def device_name(self) -> str:
        return "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)


@dataclass(frozen=True)
class FoundModel:
    """A model that is on this machine and that this engine serves; its weights are still unread."""

    snapshot: Snapshot
    description: Description  # of the whole model
    names: Names
    stored_dtype: str | None

    @property
    def path(self) -> Path:
        return self.snapshot.gguf or self.snapshot.directory


def find_model(config: EngineConfig) -> FoundModel:
    """Fetches it. Raises ModelLoadError if it cannot be had, is not supported or cannot be split as asked."""
    _refuse_unserved(config)
    snapshot = fetch(config.model, config.revision, weights=not config.random_weights)
    model_config = load_config(snapshot)
    description, names = describe(model_config)
    refuse_indivisible(description, config.tensor_parallel)
    if description.experts and config.quantization != "none":
        raise ModelLoadError(
            f"{config.model}: quantization {config.quantization!r} is not served for models with experts, "
            f"and this {description.family} has {description.experts.count}: use quantization 'none'"
        )
    stored = model_config.get("torch_dtype") or model_config.get("dtype")
    return FoundModel(snapshot, description, names, stored)


def load_model(config: EngineConfig, found: FoundModel, ranks: Communicator | None = None) -> LoadedModel:
    """This rank's part of the model; `ranks` is its end of several. Raises ModelLoadError if the weights do
    not fit the description."""
    begun = time.monotonic()
    shard = ranks.shard if ranks else Shard()
    device = ranks.device if ranks else choose_device(config.device)
    make_current(device)
    if config.quantization == "fp8":
        refuse_without_fp8(device)
    choose_kernels(config.kernels, device)
    limit_threads(config)
    dtype = choose_dtype(config.dtype, device, found.stored_dtype)

    def build(weights: Weights) -> Decoder:
        return Builder(
            found.description,
            found.names,
            weights,
            max_model_len=config.max_model_len or found.description.max_position,
            device=device,
            pack=config.prepack_weights,
            quantise=config.quantization == "fp8",
            shard=shard,
            collectives=ranks,
        ).build()

    if config.random_weights:
        decoder = build(RandomWeights(dtype=dtype, device=device))
    else:
        checkpoint = open_checkpoint(found.snapshot)
        # The ranks read at the same time: one of them shows how far they are.
        shown = loading_progress(checkpoint.total_bytes) if shard.rank == 0 else nullcontext()
        with shown as on_bytes:
            decoder = build(
                WeightReader(
                    checkpoint, dtype=dtype, device=device, ignore=found.names.ignore, on_bytes=on_bytes
                )
            )
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of what has been quantised: the KV cache takes what is free
    local = shard.local(found.description)
    return LoadedModel(decoder, local, found.snapshot, device, dtype, time.monotonic() - begun)


def _refuse_unserved(config: EngineConfig) -> None:
    if config.quantization not in QUANTIZATIONS:
        raise ModelLoadError(f"quantization {config.quantization!r} is none of {', '.join(QUANTIZATIONS)}")
    if config.kernels not in KERNELS:
        raise ModelLoadError(f"kernels {config.kernels!r} is none of {', '.join(KERNELS)}")
    if config.dtype not in ("auto", *DTYPES):
        raise ModelLoadError(f"dtype {config.dtype!r} is none of auto, {', '.join(DTYPES)}")
