"""The angles of rotary position embeddings, plain and scaled to longer contexts."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# By kind, the keys that it cannot do without.
SCALINGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
}


@dataclass(frozen=True)
class Rotary:
    theta: float
    dim: int  # rotated dimensions of a head, the first ones
    interleaved: bool = False  # GPT-J's pairs
    scaling: dict[str, Any] = field(default_factory=dict)  # Hugging Face's rope_scaling; empty: none

    @property
    def kind(self) -> str:
        return str(self.scaling.get("rope_type", self.scaling.get("type", "default")))


def cos_sin_table(rotary: Rotary, num_positions: int, original_positions: int) -> Tensor:
    """[num_positions, dim] float32: the cosines of a position's dim / 2 angles, then the sines.

    `original_positions` is the context length of pre-training, which some scalings start from.
    """
    frequencies, factor = _frequencies(rotary, num_positions, original_positions)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=-1) * factor


def _frequencies(rotary: Rotary, num_positions: int, original: int) -> tuple[Tensor, float]:
    """[dim / 2] radians per position, and the factor on cosines and sines."""
    exponents = torch.arange(0, rotary.dim, 2, dtype=torch.float32) / rotary.dim
    plain = 1.0 / (rotary.theta**exponents)
    scaling = rotary.scaling
    match rotary.kind:
        case "default":
            return plain, 1.0
        case "linear":
            return plain / scaling["factor"], 1.0
        case "llama3":
            return _llama3(plain, scaling), 1.0
        case "yarn":
            return _yarn(plain, rotary, int(scaling.get("original_max_position_embeddings") or original))
        case "longrope":
            return _longrope(plain, scaling, num_positions, original)
        case kind:
            raise ValueError(f"rope_scaling {kind!r} is none of {', '.join(SCALINGS)}")


def _llama3(plain: Tensor, scaling: dict[str, Any]) -> Tensor:
    """Llama 3.1: long waves are stretched, short ones kept, those between blended (its model card's code)."""
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * math.pi / plain
    blend = (original / wavelength - low) / (high - low)
    smooth = (1 - blend) * plain / factor + blend * plain
    scaled = torch.where(wavelength > original / low, plain / factor, plain)
    between = (wavelength >= original / high) & (wavelength <= original / low)
    return torch.where(between, smooth, scaled)


def _yarn(plain: Tensor, rotary: Rotary, original: int) -> tuple[Tensor, float]:
    """YaRN (Peng et al., 2023): interpolation ramps in between two numbers of rotations."""
    scaling, dim = rotary.scaling, rotary.dim
    factor = scaling["factor"]

    def dimension(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(rotary.theta))

    low, high = dimension(scaling.get("beta_fast") or 32), dimension(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain / factor * ramp + plain * (1 - ramp), _yarn_factor(scaling, factor)


def _yarn_factor(scaling: dict[str, Any], factor: float) -> float:
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])

    def magnitude(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return magnitude(scaling["mscale"]) / magnitude(scaling["mscale_all_dim"])
    return magnitude(1.0)


def _longrope(
    plain: Tensor, scaling: dict[str, Any], num_positions: int, original: int
) -> tuple[Tensor, float]:
    """LongRoPE (Ding et al., 2024): one factor per dimension, from the long list if the context is."""
    factors = scaling["long_factor" if num_positions > original else "short_factor"]
    attention = scaling.get("attention_factor")
    if attention is None:
        stretch = scaling.get("factor") or 1.0
        attention = 1.0 if stretch <= 1.0 else math.sqrt(1 + math.log(stretch) / math.log(original))
    return plain / torch.tensor(factors, dtype=torch.float32), float(attention)
