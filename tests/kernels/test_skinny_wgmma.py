"""The product for few tokens with Hopper's own copies and products, against float64."""

import random

import pytest
import torch
from torch import Tensor

from mii_kernels import _lib, reference
from mii_kernels.cuda import arguments, skinny_gemm
from mii_kernels.cuda.skinny_gemm import Tiling

from .conftest import Kernels

DTYPES = [torch.bfloat16, torch.float16]
TOLERANCE = {torch.bfloat16: 3e-3, torch.float16: 4e-4}  # of the norm of the difference


@pytest.fixture(autouse=True)
def hopper(kernels: Kernels) -> None:
    if arguments.capability(kernels.device) != (9, 0):
        pytest.skip("needs compute capability 9.0")


def operands(
    kernels: Kernels, dtype: torch.dtype, tokens: int, n: int, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(tokens + n + k)
    x, weight, bias = (torch.randn(shape).to(kernels.device, dtype) for shape in ((tokens, k), (n, k), (n,)))
    return x, weight, bias


def check(kernels: Kernels, dtype: torch.dtype, tokens: int, n: int, k: int, *, biased: bool) -> None:
    x, weight, bias = operands(kernels, dtype, tokens, n, k)
    out = kernels.run.linear(x, weight, bias if biased else None)
    exact = x.double() @ weight.double().T + (bias.double() if biased else 0)
    assert out.dtype == dtype
    assert out.shape == (tokens, n)
    assert float((out.double() - exact).norm() / exact.norm()) < TOLERANCE[dtype]


def force(monkeypatch: pytest.MonkeyPatch, rows: int, splits: int, ring: int | None = None) -> None:
    monkeypatch.setattr(skinny_gemm, "tiling", lambda *_: Tiling(rows, splits))
    if ring is not None:
        monkeypatch.setattr(skinny_gemm, "ring_bytes", lambda _: ring)


@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 16, 17, 31, 33, 64])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_of_tokens(kernels: Kernels, tokens: int, dtype: torch.dtype) -> None:
    check(kernels, dtype, tokens, n=200, k=448, biased=True)


@pytest.mark.parametrize(("n", "k"), [(1, 64), (31, 128), (33, 192), (130, 640)])
@pytest.mark.parametrize(("rows", "splits"), [(8, 1), (32, 1), (40, 1), (64, 1)])
def test_tiles_and_steps_that_are_not_full(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, rows: int, splits: int, n: int, k: int
) -> None:
    force(monkeypatch, rows, splits)
    check(kernels, torch.bfloat16, 5, n, k, biased=False)


@pytest.mark.parametrize("tokens", [3, 12, 32, 50])
@pytest.mark.parametrize(("rows", "splits"), [(32, 2), (64, 3), (56, 8)])
def test_split_tiles(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, tokens: int, rows: int, splits: int
) -> None:
    """Tiles, pieces of them and steps of these that are no multiples of each other."""
    force(monkeypatch, rows, splits)
    check(kernels, torch.float16, tokens, n=150, k=1088, biased=True)


@pytest.mark.parametrize(("rows", "splits"), [(80, 1), (112, 1), (128, 1), (96, 3), (128, 8)])
def test_many_tokens(kernels: Kernels, monkeypatch: pytest.MonkeyPatch, rows: int, splits: int) -> None:
    """Tiles that two warpgroups share."""
    force(monkeypatch, rows, splits)
    check(kernels, torch.bfloat16, 60, n=300, k=1088, biased=True)


@pytest.mark.parametrize(("tokens", "rows"), [(4, 64), (64, 128)])
def test_short_rings(kernels: Kernels, monkeypatch: pytest.MonkeyPatch, tokens: int, rows: int) -> None:
    """Two stages, which every tile goes round often."""
    force(monkeypatch, rows, splits=1, ring=60 * 1024)
    check(kernels, torch.bfloat16, tokens, n=900, k=704, biased=False)


def test_launches_leave_nothing_behind(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """More launches than there are sets of counters; results are the same to the bit."""
    force(monkeypatch, rows=8, splits=3)
    x, weight, bias = operands(kernels, torch.bfloat16, 2, 24, 384)
    outs = [kernels.run.linear(x, weight, bias) for _ in range(300)]
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("seed", range(6))
def test_random_shapes(kernels: Kernels, seed: int) -> None:
    draw = random.Random(seed)
    tokens, n, k = draw.randint(1, 64), draw.randint(1, 700), 64 * draw.randint(1, 20)
    check(kernels, DTYPES[seed % 2], tokens, n, k, biased=seed % 3 == 0)


def test_long_rows(kernels: Kernels) -> None:
    check(kernels, torch.bfloat16, tokens=9, n=72, k=14336, biased=False)


def test_infinities_stay_in_their_row_and_column(kernels: Kernels) -> None:
    x, weight = (torch.ones(rows, 64).bfloat16().to(kernels.device) for rows in (3, 20))
    x[1, 5], weight[18, 60] = torch.inf, torch.inf
    out = kernels.run.linear(x, weight, None)
    expected = torch.full((3, 20), 64.0).bfloat16()
    expected[1], expected[:, 18] = torch.inf, torch.inf
    assert torch.equal(out.cpu(), expected)


@pytest.mark.parametrize(("rows", "splits", "ring"), [(12, 1, 108), (128, 1, 108), (64, 4, 108), (64, 1, 20)])
def test_what_the_launcher_refuses(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, rows: int, splits: int, ring: int
) -> None:
    """Rows that are no multiple of 8, too many for so few tokens, empty pieces, a ring of one stage."""
    force(monkeypatch, rows, splits, ring * 1024)
    x, weight, _ = operands(kernels, torch.bfloat16, 2, 64, 256)
    with pytest.raises(_lib.KernelError, match="mii_skinny_wgmma"):
        kernels.run.linear(x, weight, None)


def test_misaligned_weights_are_left_to_the_reference(kernels: Kernels) -> None:
    x, weight, _ = operands(kernels, torch.bfloat16, 2, 65, 64)
    odd = weight.flatten()[1 : 1 + 64 * 64].view(64, 64)
    assert torch.equal(kernels.run.linear(x, odd, None), reference.linear(x, odd, None))
