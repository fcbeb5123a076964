"""Products of 8-bit floats (e4m3: 4 exponent bits, 3 of mantissa), each row with a scale of its own.

    scale of a row   its largest magnitude * 1/448 in float32; 448 is the largest that e4m3 has
    value            x / scale, rounded to e4m3, nearest even
    product          sum over k of x's values times the weight's, in float32, times both rows' scales

The rows of a weight [out, in] are its output channels, quantised once; those of x are tokens, quantised at
each product. An infinity or NaN of x makes its token's products NaN.
"""

import torch
from torch import Tensor

from mii_kernels.reference.linear import can_pack, linear, pack

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny  # of a row of zeros, whose values stay zeros
_ROWS_BYTES = 2**26  # of float32 copies, when a weight is quantised
_MULTIPLE = 16  # what cuBLASLt wants the sizes of a weight to be multiples of


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [rows, n] -> values [rows, n] float8_e4m3fn, scales [rows] float32."""
    wide = x.float()
    scales = (wide.abs().amax(dim=1) * (1 / LARGEST)).clamp_min(_SMALLEST_SCALE)
    return (wide / scales[:, None]).to(E4M3), scales


def quantise_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`quantise`, some rows at a time, so that no float32 copy of the whole weight is ever there."""
    values = torch.empty(weight.shape, dtype=E4M3, device=weight.device)
    scales = torch.empty(weight.shape[0], dtype=torch.float32, device=weight.device)
    rows = max(1, _ROWS_BYTES // (4 * weight.shape[1]))
    for part, to, its_scales in zip(weight.split(rows), values.split(rows), scales.split(rows), strict=True):
        found = quantise(part)
        to.copy_(found[0])
        its_scales.copy_(found[1])
    return values, scales


def pack_quantised(values: Tensor) -> Tensor:
    """A weight's values as `quantised_linear` is fastest with.

    A CPU multiplies no e4m3: there they become float32, which costs four times the memory, as much as the
    weight in float32, but saves their conversion at each product. Elsewhere they stay as they are.
    """
    if values.device.type != "cpu":
        return values
    wide = values.float()
    return pack(wide) if can_pack(wide) else wide


def quantised_linear(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """x [tokens, in], weight [out, in] e4m3 or packed, scales [out], bias [out] -> [tokens, out]."""
    return scaled_product(*quantise(x), weight, scales, bias, x.dtype)


def scaled_product(
    x: Tensor, x_scales: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """x [tokens, in] e4m3, weight [out, in] e4m3 or packed -> [tokens, out] of `dtype`."""
    if weight.is_cuda and weight.shape[0] % _MULTIPLE == 0 == weight.shape[1] % _MULTIPLE and len(x):
        return _on_tensor_cores(x, x_scales, weight, scales, bias, dtype)
    return _scaled(linear(x.float(), _wide(weight), None), x_scales, scales, bias, dtype)


def _on_tensor_cores(
    x: Tensor, x_scales: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The library scales by rows only where the result is bfloat16; other results are scaled after it.

    use_fast_accum leaves the sums to the tensor cores, which on Hopper keep fewer bits of them than float32
    has; without it they are added up in float32 every few steps.
    """
    if dtype is torch.bfloat16:
        out = torch._scaled_mm(
            x, weight.t(), x_scales[:, None], scales[None], out_dtype=dtype, use_fast_accum=True
        )
        return out if bias is None else out.add_(bias)
    one = torch.ones((), dtype=torch.float32, device=x.device)
    sums = torch._scaled_mm(x, weight.t(), one, one, out_dtype=torch.float32)
    return _scaled(sums, x_scales, scales, bias, dtype)


def _scaled(
    sums: Tensor, x_scales: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """sums [tokens, out] float32, which is overwritten."""
    out = sums.mul_(x_scales[:, None]).mul_(scales)
    return (out if bias is None else out.add_(bias)).to(dtype)


def _wide(weight: Tensor) -> Tensor:
    return weight.float() if weight.dtype is E4M3 else weight
