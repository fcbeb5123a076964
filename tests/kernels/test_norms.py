"""The norm kernels against float64, and against the reference's own rounding."""

import pytest
import torch
from torch import Tensor

from mii_kernels import reference

from .conftest import Kernels

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}  # of the norm of the difference


def error(out: Tensor, expected: Tensor) -> float:
    return float((out.double().cpu() - expected).norm() / expected.norm())


def exact(x: Tensor, weight: Tensor, bias: Tensor | None, rms: bool) -> Tensor:
    """In float64, on the CPU."""
    wide = x.double().cpu()
    centred = wide if rms else wide - wide.mean(-1, keepdim=True)
    normed = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return normed * weight.double().cpu() + (0 if bias is None else bias.double().cpu())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize(
    ("rows", "n"),
    [
        *((1, 1), (3, 7), (5, 48), (1, 128), (9, 256), (2, 1000), (3, 2048), (2, 4096), (1, 4095)),
        *((257, 128), (260, 1000), (258, 2056), (2, 4104), (1, 8192)),  # of one vector a thread or more
    ],
)
def test_norms(kernels: Kernels, dtype: torch.dtype, with_residual: bool, rows: int, n: int) -> None:
    torch.manual_seed(n)
    x, more, weight, bias = (
        torch.randn(shape).to(kernels.device, dtype) + 0.5 for shape in ((rows, n), (rows, n), (n,), (n,))
    )
    residual = more if with_residual else None
    summed = x + more if with_residual else x
    given = x.clone(), weight.clone(), more.clone()
    for rms, (out, kept) in (
        (True, kernels.run.rms_norm(x, weight, 1e-5, residual)),
        (False, kernels.run.layer_norm(x, weight, bias, 1e-5, residual)),
    ):
        assert out.dtype == dtype
        assert torch.equal(kept, summed)
        if rms or n > 1:  # of one element LayerNorm is the bias
            assert error(out, exact(summed, weight, None if rms else bias, rms)) < TOLERANCE[dtype]
    assert all(map(torch.equal, given, (x, weight, more)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_heads_within_a_wider_row(kernels: Kernels, dtype: torch.dtype) -> None:
    qkv = torch.randn(5, 9, 64).to(kernels.device, dtype)
    weight = torch.randn(64).to(kernels.device, dtype)
    for heads in (qkv[:, :4], qkv[:, 4:7], qkv[:, 7:, :32], qkv[:0, :4]):
        out, same = kernels.run.rms_norm(heads, weight[: heads.shape[2]], 1e-5, None)
        assert same is heads
        expected = exact(heads, weight[: heads.shape[2]], None, rms=True)
        assert out.shape == heads.shape
        assert not len(heads) or error(out, expected) < TOLERANCE[dtype]


def test_pointers_of_odd_alignment(kernels: Kernels) -> None:
    buffer = torch.randn(4 * 64 + 1, device=kernels.device).bfloat16()
    x, weight = buffer[1:].view(4, 64), torch.ones(64, device=kernels.device).bfloat16()
    assert error(kernels.run.rms_norm(x, weight, 1e-5, None)[0], exact(x, weight, None, rms=True)) < 4e-3


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_without_bias(kernels: Kernels, bias: bool) -> None:
    x, weight, added = (torch.randn(shape, device=kernels.device) for shape in ((3, 96), (96,), (96,)))
    out, _ = kernels.run.layer_norm(x, weight, added if bias else None, 1e-5, None)
    assert error(out, exact(x, weight, added if bias else None, rms=False)) < 1e-6


def test_large_means_do_not_cancel(kernels: Kernels) -> None:
    x = torch.randn(2, 512, device=kernels.device) + 1000
    weight = torch.ones(512, device=kernels.device)
    out, _ = kernels.run.layer_norm(x, weight, None, 1e-5, None)
    assert error(out, exact(x, weight, None, rms=False)) < 1e-4


@pytest.mark.parametrize("shape", [(2, 4097), (2, 16392)])
def test_rows_too_long_for_a_block_are_left_to_the_reference(
    kernels: Kernels, shape: tuple[int, int]
) -> None:
    x, weight = torch.randn(shape, device=kernels.device), torch.randn(shape[1], device=kernels.device)
    out, _ = kernels.run.rms_norm(x, weight, 1e-5, None)
    assert torch.equal(out, reference.rms_norm(x, weight, 1e-5, None)[0])


def test_longest_row(kernels: Kernels) -> None:
    x, weight = torch.randn(1, 16384, device=kernels.device), torch.randn(16384, device=kernels.device)
    out, _ = kernels.run.rms_norm(x, weight, 1e-5, None)
    assert error(out, exact(x, weight, None, rms=True)) < 1e-6


def test_mixed_dtypes_follow_the_reference(kernels: Kernels) -> None:
    x, weight = torch.randn(2, 64, device=kernels.device).bfloat16(), torch.randn(64, device=kernels.device)
    out, _ = kernels.run.rms_norm(x, weight, 1e-5, None)
    assert out.dtype == torch.float32
