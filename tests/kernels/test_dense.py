"""Norms, activations, products and experts against float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mii_kernels import ops
from mii_kernels.reference.activations import ACTIVATIONS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("residual", [True, False])
def test_norms(dtype: torch.dtype, residual: bool) -> None:
    x, more = torch.randn(5, 48).to(dtype), torch.randn(5, 48).to(dtype) if residual else None
    weight, bias = torch.randn(48).to(dtype), torch.randn(48).to(dtype)
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype is torch.float32 else {"atol": 5e-2, "rtol": 2e-2}
    summed = x if more is None else x + more
    wide = summed.double()
    rms = wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    layer = (wide - wide.mean(-1, keepdim=True)) / (wide.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    for expected, (out, kept) in (
        (rms, ops.rms_norm(x, weight, 1e-5, more)),
        (layer * weight.double() + bias.double(), ops.layer_norm(x, weight, bias, 1e-5, more)),
    ):
        assert out.dtype == dtype
        assert torch.equal(kept, summed)
        torch.testing.assert_close(out.double(), expected, **tolerance)


@pytest.mark.parametrize("tokens", [1, 2, 16, 64, 300])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_products_equal_plain_ones(tokens: int, bias: bool) -> None:
    x, weight = torch.randn(tokens, 96), torch.randn(200, 96)
    added = torch.randn(200) if bias else None
    expected = F.linear(x.double(), weight.double(), None if added is None else added.double())
    for layout in (weight, ops.pack_weight(weight)):
        torch.testing.assert_close(ops.linear(x, layout, added).double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(kind: str) -> None:
    x = torch.randn(3, 64)
    exact = {
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
        "relu": F.relu,
    }[kind]
    torch.testing.assert_close(ops.activate(x, kind).double(), exact(x.double()), atol=1e-5, rtol=1e-5)
    gated = ops.activate_and_mul(x, kind)
    torch.testing.assert_close(
        gated.double(), exact(x[:, :32].double()) * x[:, 32:].double(), atol=1e-5, rtol=1e-5
    )


def test_unknown_activation_is_named() -> None:
    with pytest.raises(ValueError, match="swiglu"):
        ops.activate(torch.randn(1, 2), "swiglu")


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_experts_equal_a_loop_over_tokens(tokens: int, renormalise: bool) -> None:
    torch.manual_seed(tokens)
    x, router = torch.randn(tokens, 24), torch.randn(tokens, 6)
    gate_up, down = list(torch.randn(6, 32, 24)), list(torch.randn(6, 24, 16))
    weights, experts = ops.moe_gate(router, 2, renormalise=renormalise)
    out = ops.moe_experts(x, weights, experts, gate_up, down, "silu")
    torch.testing.assert_close(
        out.double(), loop(x, router, gate_up, down, renormalise), atol=1e-3, rtol=1e-3
    )


def loop(x: Tensor, router: Tensor, gate_up: list[Tensor], down: list[Tensor], renormalise: bool) -> Tensor:
    out = torch.zeros(x.shape, dtype=torch.float64)
    for token, logits in enumerate(router.double()):
        shares, chosen = logits.softmax(-1).topk(2)
        shares = shares / shares.sum() if renormalise else shares
        for share, expert in zip(shares, chosen.tolist(), strict=True):
            gate, up = (gate_up[expert].double() @ x[token].double()).chunk(2)
            out[token] += share * (down[expert].double() @ (F.silu(gate) * up))
    return out


@pytest.mark.parametrize("biased", [False, True])
def test_gated_products(*, biased: bool) -> None:
    x, weight, bias = torch.randn(3, 8), torch.randn(32, 8), torch.randn(32) if biased else None
    gate, up = F.linear(x, weight, bias).double().chunk(2, -1)
    gated = ops.gated_linear(x, weight, bias, "silu")
    torch.testing.assert_close(gated.double(), F.silu(gate) * up, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"gated_linear 'silu'.*\[31, 8\]"):
        ops.gated_linear(x, weight[:31], None, "silu")
