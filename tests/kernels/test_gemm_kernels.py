"""Products of many tokens on Hopper's tensor cores, gated and plain, against float64."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mii_kernels import _lib, reference
from mii_kernels.cuda import arguments, gemm
from mii_kernels.reference.activations import ACTIVATIONS

from .conftest import Kernels

DTYPES = [torch.bfloat16, torch.float16]
TOLERANCE = {torch.bfloat16: 3e-3, torch.float16: 4e-4}  # of the norm of the difference


@pytest.fixture(autouse=True)
def hopper(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    if arguments.capability(kernels.device) != (9, 0):
        pytest.skip("needs compute capability 9.0")
    monkeypatch.setattr(gemm, "pays", lambda *_: True)


def operands(kernels: Kernels, dtype: torch.dtype, tokens: int, n: int, k: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(tokens + n + k)
    x, weight = torch.randn(tokens, k), torch.randn(2 * n, k) * k**-0.5
    return x.to(kernels.device, dtype), weight.to(kernels.device, dtype)


def exact(x: Tensor, weight: Tensor, kind: str) -> Tensor:
    gate, up = (x.double().cpu() @ weight.double().cpu().T).chunk(2, -1)
    activated = F.gelu(gate, approximate="tanh") if kind == "gelu_tanh" else getattr(F, kind)(gate)
    return activated * up


def check(kernels: Kernels, dtype: torch.dtype, tokens: int, n: int, k: int, kind: str = "silu") -> None:
    x, weight = operands(kernels, dtype, tokens, n, k)
    out = kernels.run.gated_linear(x, weight, None, kind)
    expected = exact(x, weight, kind)
    assert out.dtype == dtype
    assert out.shape == (tokens, n)
    assert float((out.double().cpu() - expected).norm() / expected.norm()) < TOLERANCE[dtype]


@pytest.mark.parametrize("tokens", [65, 127, 128, 129, 255, 256, 257, 640])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_of_tokens(kernels: Kernels, tokens: int, dtype: torch.dtype) -> None:
    check(kernels, dtype, tokens, n=136, k=200)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(kernels: Kernels, kind: str) -> None:
    check(kernels, torch.bfloat16, 100, n=64, k=128, kind=kind)


@pytest.mark.parametrize(("n", "k"), [(8, 8), (64, 64), (120, 264), (128, 256), (272, 328)])
def test_tiles_and_steps_that_are_not_full(kernels: Kernels, n: int, k: int) -> None:
    check(kernels, torch.float16, 70, n, k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "n", "k"), [(65, 8, 8), (129, 136, 264), (300, 520, 200)])
def test_plain_products(kernels: Kernels, dtype: torch.dtype, tokens: int, n: int, k: int) -> None:
    x, weight = operands(kernels, dtype, tokens, n // 2, k)
    out = kernels.run.linear(x, weight, None)
    expected = x.double().cpu() @ weight.double().cpu().T
    assert float((out.double().cpu() - expected).norm() / expected.norm()) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "n", "k"), [(65, 8, 8), (129, 136, 264), (300, 520, 200)])
def test_products_that_are_added(kernels: Kernels, dtype: torch.dtype, tokens: int, n: int, k: int) -> None:
    """In place, and as exactly as if the sum were made afterwards."""
    x, weight = operands(kernels, dtype, tokens, n // 2, k)
    onto = torch.randn(tokens, n).to(kernels.device, dtype)
    expected = kernels.run.linear(x, weight, None) + onto
    out, rest = kernels.run.linear_onto(x, weight, None, onto)
    assert rest is None
    assert out is onto
    assert torch.equal(out, expected)


def test_what_cannot_be_added_stays_apart(kernels: Kernels) -> None:
    x, weight = operands(kernels, torch.bfloat16, 70, 32, 64)
    onto = torch.randn(70, 64).to(kernels.device, torch.bfloat16)
    before, bias = onto.clone(), weight[:, 0].contiguous()
    odd = torch.cat([onto.flatten(), onto[0, :1]])[1:].view(70, 64)
    for args in ((x[:64], weight, None, onto[:64]), (x, weight, bias, onto), (x, weight, None, odd)):
        out, rest = kernels.run.linear_onto(*args)
        assert rest is args[3]
        torch.testing.assert_close(out, reference.linear(*args[:3]), rtol=2e-2, atol=2e-2)
    assert torch.equal(onto, before)


@pytest.mark.parametrize("seed", range(4))
def test_random_shapes(kernels: Kernels, seed: int) -> None:
    draw = random.Random(seed)
    tokens, n, k = draw.randint(65, 900), 8 * draw.randint(1, 60), 8 * draw.randint(1, 60)
    check(kernels, DTYPES[seed % 2], tokens, n, k)


def test_more_tiles_than_a_band_has(kernels: Kernels) -> None:
    check(kernels, torch.bfloat16, 256 * 9 + 3, n=260 * 8, k=64)


@pytest.mark.parametrize("kernels", [pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True)
def test_shapes_of_a_model(kernels: Kernels) -> None:
    check(kernels, torch.bfloat16, 3000, n=14336, k=4096)


def test_infinities_stay_in_their_row_and_column(kernels: Kernels) -> None:
    x, weight = torch.ones(70, 64), torch.full((2 * 24, 64), 0.01)
    x[66, 5], weight[24 + 18, 60] = torch.inf, torch.inf
    out = kernels.run.gated_linear(
        x.half().to(kernels.device), weight.half().to(kernels.device), None, "relu"
    )
    finite = out.isfinite().cpu()
    expected = torch.ones(70, 24, dtype=torch.bool)
    expected[66], expected[:, 18] = False, False
    assert torch.equal(finite, expected)


def test_few_tokens_a_bias_and_misaligned_weights_take_another_way(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemm, "launch", None)
    x, weight = operands(kernels, torch.bfloat16, 70, 64, 64)
    odd = torch.cat([weight.flatten(), weight[0, :1]])[1:].view(128, 64)
    for args in ((x[:64], weight, None), (x, weight, weight[:, 0].contiguous()), (x, odd, None)):
        out, expected = kernels.run.gated_linear(*args, "silu"), reference.gated_linear(*args, "silu")
        torch.testing.assert_close(out, expected, rtol=2e-2, atol=2e-2)


def test_what_the_launcher_refuses(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "multiprocessors", lambda _: 1)
    x, weight = operands(kernels, torch.bfloat16, 70, 64, 64)
    with pytest.raises(_lib.KernelError, match="mii_gated_gemm"):
        kernels.run.gated_linear(x, weight, None, "silu")
