"""8-bit floats: the definition by hand, the kernel against the reference, products against float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mii_kernels import ops, reference
from mii_kernels.reference.quantised import E4M3

from .conftest import Kernels

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}  # of the norm of the difference
CUBLASLT = 1e-3  # the tensor cores' sums of 8-bit products have fewer bits than float32
EVERY_MAGNITUDE = torch.arange(127, dtype=torch.uint8).view(E4M3).double()


def bits(values: Tensor) -> Tensor:
    return values.view(torch.uint8)


def dequantised(values: Tensor, scales: Tensor) -> Tensor:
    return values.double() * scales.double()[:, None]


def test_values_are_the_nearest_of_all() -> None:
    x = torch.randn(20, 50) * torch.logspace(-6, 6, 20)[:, None]
    values, scales = ops.quantise(x)
    exact = x.double() / scales.double()[:, None]
    distances = (exact.abs()[..., None] - EVERY_MAGNITUDE).abs()
    assert torch.equal((exact.abs() - values.double().abs()).abs(), distances.min(-1).values)
    assert torch.equal(values.double().abs().amax(1), torch.full((20,), 448.0).double())
    assert torch.equal(x.sign(), torch.where(values.float() == 0, x.sign(), values.float().sign()))


def test_rows_of_zeros_and_of_tiny_numbers() -> None:
    tiny = torch.finfo(torch.float32).smallest_normal / 1000
    values, scales = ops.quantise(torch.tensor([[0.0, 0.0], [tiny, -tiny], [0.0, 448.0]]))
    assert values.float().isfinite().all()
    assert values[0].float().tolist() == [0, 0]
    assert (scales[2], values[2, 1].float()) == (1, 448)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 7), (5, 48), (9, 256), (2, 1000), (3, 4096), (1, 4095), (0, 64)]
)
def test_the_kernel_equals_the_reference(
    kernels: Kernels, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    torch.manual_seed(shape[1])
    x = (torch.randn(shape) * torch.logspace(-3, 2, shape[0])[:, None]).to(kernels.device, dtype)
    given = x.clone()
    values, scales = kernels.run.quantise(x)
    if shape[0]:
        expected = reference.quantise(x)
        assert torch.equal(scales, expected[1])
        assert torch.equal(bits(values), bits(expected[0]))
    assert (values.shape, values.dtype, scales.shape) == (shape, E4M3, shape[:1])
    assert torch.equal(x, given)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_value_is_met(kernels: Kernels, dtype: torch.dtype) -> None:
    """All that 16 bits can be of a row whose scale is one, ties among them."""
    every = torch.arange(2**15, dtype=torch.int16).view(torch.bfloat16 if dtype.itemsize == 4 else dtype)
    every = every[every <= 448].to(kernels.device, dtype)
    ties = (EVERY_MAGNITUDE[:-1] + EVERY_MAGNITUDE[1:]).to(kernels.device, dtype) / 2
    for row in (*every.split(2000), ties):
        x = torch.stack((row, -row))
        x = torch.cat((x, torch.full((2, 1), 448.0).to(x)), 1)
        values, scales = kernels.run.quantise(x)
        assert scales.tolist() == [1, 1]
        assert torch.equal(bits(values), bits(x.to(E4M3)))


@pytest.mark.parametrize("n", [14336, 16384, 28672, 32768, 4097, 40000])
def test_long_rows(kernels: Kernels, n: int) -> None:
    """Those of 4097 and 40000 elements are left to the reference."""
    x = torch.randn(2, n, device=kernels.device).bfloat16()
    values, scales = kernels.run.quantise(x)
    expected = reference.quantise(x)
    assert torch.equal(bits(values), bits(expected[0]))
    assert torch.equal(scales, expected[1])


def test_strided_and_odd_inputs(kernels: Kernels) -> None:
    wide = torch.randn(4, 128).bfloat16().to(kernels.device)
    shifted = torch.randn(4 * 64 + 1).bfloat16().to(kernels.device)[1:].view(4, 64)
    for x in (wide[:, :64], wide[:, 1:65], wide[:, ::2], shifted):
        values, scales = kernels.run.quantise(x)
        expected = reference.quantise(x.contiguous())
        assert torch.equal(bits(values), bits(expected[0]))
        assert torch.equal(scales, expected[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(("tokens", "n", "k"), [(1, 16, 16), (7, 48, 160), (65, 33, 100), (0, 16, 32)])
def test_products(kernels: Kernels, dtype: torch.dtype, pack: bool, tokens: int, n: int, k: int) -> None:
    """Sizes of 33 and 100 are none that cuBLASLt takes."""
    torch.manual_seed(tokens)
    x, weight, bias = (torch.randn(shape).to(kernels.device, dtype) for shape in ((tokens, k), (n, k), (n,)))
    values, scales = ops.quantise_weight(weight)
    exact = (
        dequantised(*reference.quantise(x)) @ dequantised(values, scales).T + bias.double() if tokens else x
    )
    out = kernels.run.quantised_linear(x, ops.pack_quantised(values) if pack else values, scales, bias)
    assert (out.shape, out.dtype) == ((tokens, n), dtype)
    tolerance = max(TOLERANCE[dtype], CUBLASLT if kernels.device.type == "cuda" else 0)
    assert not tokens or float((out.double() - exact).norm() / exact.norm()) < tolerance


@pytest.mark.parametrize("odd", [torch.inf, torch.nan])
def test_what_is_no_number_stays_in_its_row(kernels: Kernels, odd: float) -> None:
    x = torch.randn(3, 32, device=kernels.device).bfloat16()
    values, scales = ops.quantise_weight(torch.randn(16, 32, device=kernels.device))
    clean = kernels.run.quantised_linear(x, values, scales, None)
    x[1, 5] = odd
    out = kernels.run.quantised_linear(x, values, scales, None)
    assert out[1].isnan().all()
    assert torch.equal(out[::2], clean[::2])


def test_a_weight_is_quantised_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(50, 24)
    expected = reference.quantise(weight)
    monkeypatch.setattr("mii_kernels.reference.quantised._ROWS_BYTES", 7 * 24 * 4)
    values, scales = ops.quantise_weight(weight)
    assert torch.equal(bits(values), bits(expected[0]))
    assert torch.equal(scales, expected[1])


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.quantise(torch.ones(3)),
        lambda: ops.quantised_linear(torch.ones(2, 8), torch.ones(4, 9).to(E4M3), torch.ones(4)),
        lambda: ops.quantised_linear(torch.ones(2, 8), torch.ones(4, 8).to(E4M3), torch.ones(3)),
    ],
)
def test_shapes_are_checked(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="shapes do not fit"):
        call()
