"""The product for few tokens against float64, by the kernel that serves all devices."""

import pytest
import torch

from mii_kernels import reference
from mii_kernels.cuda import skinny_gemm

from .conftest import Kernels

DTYPES = [torch.bfloat16, torch.float16]
TOLERANCE = {torch.bfloat16: 3e-3, torch.float16: 4e-4}  # of the norm of the difference


@pytest.fixture(autouse=True)
def general(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skinny_gemm, "launcher", lambda *_: "mii_skinny_gemm")


def check(kernels: Kernels, dtype: torch.dtype, tokens: int, n: int, k: int, bias: bool) -> None:
    torch.manual_seed(tokens + n + k)
    x, weight, more = (torch.randn(shape).to(kernels.device, dtype) for shape in ((tokens, k), (n, k), (n,)))
    added = more if bias else None
    out = kernels.run.linear(x, weight, added)
    exact = x.double() @ weight.double().T + (more.double() if bias else 0)
    assert out.dtype == dtype
    assert out.shape == (tokens, n)
    assert float((out.double() - exact).norm() / exact.norm()) < TOLERANCE[dtype]


@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 16, 17, 31, 33, 64])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_of_tokens(kernels: Kernels, tokens: int, dtype: torch.dtype) -> None:
    check(kernels, dtype, tokens, n=48, k=160, bias=True)


@pytest.mark.parametrize(("tokens", "rows"), [(3, 16), (3, 32), (12, 16), (12, 32)])
@pytest.mark.parametrize(("n", "k"), [(1, 32), (31, 64), (33, 4096), (100, 1056)])
def test_few_tokens(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, tokens: int, rows: int, n: int, k: int
) -> None:
    """Rows and slabs that do not fill the last block or stretch."""
    monkeypatch.setattr(skinny_gemm, "block_rows", lambda *_: rows)
    check(kernels, torch.bfloat16, tokens, n, k, bias=False)


@pytest.mark.parametrize(("tokens", "rows"), [(20, 16), (20, 32), (20, 128), (50, 16), (50, 32), (50, 128)])
@pytest.mark.parametrize(("n", "k"), [(7, 32), (130, 608)])
def test_more_tokens(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, tokens: int, rows: int, n: int, k: int
) -> None:
    monkeypatch.setattr(skinny_gemm, "block_rows", lambda *_: rows)
    check(kernels, torch.float16, tokens, n, k, bias=True)


def test_infinities_stay_in_their_row_and_column(kernels: Kernels) -> None:
    x, weight = (
        torch.ones(3, 64).bfloat16().to(kernels.device),
        torch.ones(20, 64).bfloat16().to(kernels.device),
    )
    x[1, 5], weight[18, 60] = torch.inf, torch.inf
    out = kernels.run.linear(x, weight, None)
    expected = torch.full((3, 20), 64.0).bfloat16()
    expected[1], expected[:, 18] = torch.inf, torch.inf
    assert torch.equal(out.cpu(), expected)


@pytest.mark.parametrize(
    ("dtype", "tokens", "k"), [(torch.float32, 3, 64), (torch.bfloat16, 65, 64), (torch.bfloat16, 3, 48)]
)
def test_what_the_kernel_does_not_serve(kernels: Kernels, dtype: torch.dtype, tokens: int, k: int) -> None:
    x, weight = (torch.randn(rows, k).to(kernels.device, dtype) for rows in (tokens, 10))
    assert torch.equal(kernels.run.linear(x, weight, None), reference.linear(x, weight, None))


def test_strided_and_odd_inputs(kernels: Kernels) -> None:
    wide = torch.randn(4, 128).bfloat16().to(kernels.device)
    weight = torch.randn(10, 64).bfloat16().to(kernels.device)
    shifted = torch.randn(4 * 64 + 1).bfloat16().to(kernels.device)[1:].view(4, 64)
    for x in (wide[:, :64], wide[:, 32:96], shifted):
        exact = x.double() @ weight.double().T
        assert float((kernels.run.linear(x, weight, None).double() - exact).norm() / exact.norm()) < 3e-3


def test_no_tokens(kernels: Kernels) -> None:
    x, weight = (
        torch.empty(0, 64).bfloat16().to(kernels.device),
        torch.ones(8, 64).bfloat16().to(kernels.device),
    )
    assert kernels.run.linear(x, weight, None).shape == (0, 8)
