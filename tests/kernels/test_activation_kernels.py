"""The activation kernels against float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mii_kernels.reference.activations import ACTIVATIONS

from .conftest import Kernels

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}  # relative, of each element


def exact(x: Tensor, kind: str) -> Tensor:
    wide = x.double().cpu()
    return F.gelu(wide, approximate="tanh") if kind == "gelu_tanh" else getattr(F, kind)(wide)


def close(out: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[out.dtype]
    torch.testing.assert_close(out.double().cpu(), expected, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 4096), (5, 2056), (2, 3, 64), (0, 8)])
def test_activations(kernels: Kernels, dtype: torch.dtype, kind: str, shape: tuple[int, ...]) -> None:
    x = (torch.randn(shape) * 3).to(kernels.device, dtype)
    out = kernels.run.activate(x, kind)
    assert out.dtype == dtype
    close(out, exact(x, kind))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(1, 2), (3, 14), (2, 8192), (5, 4112), (0, 8)])
def test_gated_activations(kernels: Kernels, dtype: torch.dtype, kind: str, shape: tuple[int, ...]) -> None:
    x = (torch.randn(shape) * 3).to(kernels.device, dtype)
    gate, up = x.chunk(2, -1)
    out = kernels.run.activate_and_mul(x, kind)
    assert out.dtype == dtype
    close(out, exact(gate, kind) * up.double().cpu())


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_extremes(kernels: Kernels, kind: str) -> None:
    x = torch.tensor([-math.inf, -1e4, -100.0, 0.0, 100.0, 1e4, math.inf, math.nan], device=kernels.device)
    out = kernels.run.activate(x[None], kind).squeeze(0).cpu()
    assert out[3:7].tolist() == [0, 100, 1e4, math.inf]
    assert out[7].isnan()
    assert out[1:3].abs().max() == 0


def test_strided_input(kernels: Kernels) -> None:
    x = torch.randn(4, 64, device=kernels.device)
    close(kernels.run.activate(x[:, ::2], "silu"), exact(x[:, ::2], "silu"))
