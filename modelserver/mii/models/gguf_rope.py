"""Rotary scaling of a GGUF file, as config.json's `rope_scaling`.

llama.cpp keeps linear and YaRN scaling as metadata, but Llama 3's as a tensor: `rope_freqs.weight`, by whose
entries the inverse frequencies are divided.
"""

import math
from typing import Any, Protocol

from mii.errors import UnsupportedModel
from mii.models.gguf_file import GGUFFile

FREQUENCY_FACTORS = "rope_freqs.weight"  # [head_dim / 2], float32
# Of every Llama 3.x: its config.json says so, its GGUF no longer does.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


class Parameters(Protocol):
    file: GGUFFile

    def get(self, name: str, default: Any = None) -> Any: ...

    def need(self, name: str) -> Any: ...


def rope_scaling(parameters: Parameters, theta: float) -> dict[str, Any] | None:
    """What transformers would call `rope_scaling`; None if positions are not scaled."""
    by_metadata = _by_metadata(parameters)
    by_tensor = _by_tensor(parameters, theta)
    if by_metadata and by_tensor:
        raise UnsupportedModel(
            f"{parameters.file.path}: rope.scaling.type {by_metadata['rope_type']!r} together with"
            f" {FREQUENCY_FACTORS} is not supported"
        )
    return by_metadata or by_tensor


def _by_metadata(parameters: Parameters) -> dict[str, Any] | None:
    kind = parameters.get("rope.scaling.type", "none")
    names = {
        "rope.scaling.original_context_length": "original_max_position_embeddings",
        "rope.scaling.yarn_beta_fast": "beta_fast",
        "rope.scaling.yarn_beta_slow": "beta_slow",
    }
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise UnsupportedModel(f"{parameters.file.path}: rope.scaling.type {kind!r} is not supported")
    scaling = {"rope_type": kind, "factor": parameters.need("rope.scaling.factor")}
    known = {ours: parameters.get(theirs) for theirs, ours in names.items()}
    return scaling | {name: value for name, value in known.items() if value is not None}


def _by_tensor(parameters: Parameters, theta: float) -> dict[str, Any] | None:
    if FREQUENCY_FACTORS not in parameters.file.tensors:
        return None
    factors = [float(factor) for factor in parameters.file.tensors[FREQUENCY_FACTORS].data]
    if all(factor == 1.0 for factor in factors):
        return None
    factor = round(max(factors), 3)  # a float32 division away from what the config said
    if _close(factors, llama3_factors(theta, len(factors), factor)):
        return {"rope_type": "llama3", "factor": factor, **_LLAMA3}
    # Any other factors: longrope with one list for all lengths divides the inverse frequencies just so.
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": parameters.need("context_length"),
    }


def llama3_factors(theta: float, num_frequencies: int, factor: float) -> list[float]:
    """The divisors of the inverse frequencies, fastest first, of Llama 3's rotary scaling.

    Formula: `apply_scaling` in the Llama 3.1 reference code (llama_models, model.py).
    """
    wavelengths = (2 * math.pi * theta ** (i / num_frequencies) for i in range(num_frequencies))
    return [_llama3_factor(wavelength, factor) for wavelength in wavelengths]


def _llama3_factor(wavelength: float, factor: float) -> float:
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    turns = _LLAMA3["original_max_position_embeddings"] / wavelength  # in the original context
    if turns > high:
        return 1.0
    if turns < low:
        return factor
    smooth = (turns - low) / (high - low)
    return 1 / ((1 - smooth) / factor + smooth)


def _close(left: list[float], right: list[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(left, right, strict=True))
