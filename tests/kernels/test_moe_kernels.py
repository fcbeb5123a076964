"""The gate and the permutations against plain definitions, and the experts against a loop over tokens."""

import pytest
import torch
import torch.nn.functional as F

from .conftest import Kernels

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize(
    ("tokens", "experts", "per_token"),
    [(1, 1, 1), (5, 8, 2), (3, 60, 4), (9, 128, 8), (2, 512, 6), (0, 8, 2)],
)
def test_gate(
    kernels: Kernels, dtype: torch.dtype, renormalise: bool, tokens: int, experts: int, per_token: int
) -> None:
    # No two logits of a row are equal, in any dtype (bfloat16 has integers to 256): one order is right.
    order = torch.stack([torch.randperm(experts) for _ in range(tokens + 1)])[:tokens]
    logits = ((order - experts // 2) / 32).to(dtype)
    weights, chosen = kernels.run.moe_gate(logits.to(kernels.device), per_token, renormalise)
    shares, expected = logits.double().softmax(-1).topk(per_token)
    if renormalise:
        shares = shares / shares.sum(-1, keepdim=True)
    assert (weights.dtype, chosen.dtype) == (torch.float32, torch.int64)
    assert torch.equal(chosen.cpu(), expected)
    torch.testing.assert_close(weights.cpu().double(), shares, rtol=1e-5, atol=1e-7)


def test_gate_takes_the_lower_of_equals(kernels: Kernels) -> None:
    weights, chosen = kernels.run.moe_gate(torch.zeros(2, 70, device=kernels.device), 3, False)
    assert chosen.tolist() == [[0, 1, 2]] * 2
    torch.testing.assert_close(weights.cpu(), torch.full((2, 3), 1 / 70))


def test_gate_of_bad_logits_stays_within_the_experts(kernels: Kernels) -> None:
    logits = torch.tensor([[torch.nan, 1.0, 2.0], [-torch.inf, -torch.inf, 0.0]], device=kernels.device)
    _, chosen = kernels.run.moe_gate(logits, 2, True)
    assert all(len(set(row)) == 2 and set(row) <= {0, 1, 2} for row in chosen.tolist())
    assert chosen[1].tolist() == [2, 0]


def loop(x, weights, experts, gate_up, down):  # type: ignore[no-untyped-def]
    """In float64, on the CPU."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    for token in range(len(x)):
        for share, expert in zip(weights[token].tolist(), experts[token].tolist(), strict=True):
            gate, up = (gate_up[expert].double() @ x[token].double()).chunk(2)
            out[token] += share * (down[expert].double() @ (F.silu(gate) * up))
    return out


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("tokens", "n", "experts", "per_token"),
    [(1, 24, 6, 2), (40, 24, 6, 2), (700, 8, 3, 2), (5, 7, 4, 4), (0, 8, 2, 1)],
)
def test_experts(
    kernels: Kernels, dtype: torch.dtype, tokens: int, n: int, experts: int, per_token: int
) -> None:
    torch.manual_seed(tokens)
    x = torch.randn(tokens, n).to(dtype)
    gate_up, down = torch.randn(experts, 32, n).to(dtype) / 4, torch.randn(experts, n, 16).to(dtype) / 4
    chosen = torch.stack([torch.randperm(experts)[:per_token] for _ in range(tokens)] or [torch.zeros(0)])
    chosen = chosen.reshape(tokens, per_token).long()
    weights = torch.rand(tokens, per_token)
    out = kernels.run.moe_experts(
        *(t.to(kernels.device) for t in (x, weights, chosen)),
        [t.to(kernels.device) for t in gate_up],
        [t.to(kernels.device) for t in down],
        "silu",
    )
    expected = loop(x, weights, chosen, gate_up, down)
    assert out.dtype == dtype
    assert out.shape == x.shape
    assert (out.cpu().double() - expected).norm() <= TOLERANCE[dtype] * expected.norm()


def test_an_expert_without_tokens(kernels: Kernels) -> None:
    x = torch.randn(3, 8)
    gate_up, down = torch.randn(5, 32, 8), torch.randn(5, 8, 16)
    chosen, weights = torch.tensor([[3], [1], [3]]), torch.ones(3, 1)
    args = (t.to(kernels.device) for t in (x, weights, chosen))
    lists = ([t.to(kernels.device) for t in w] for w in (gate_up, down))
    out = kernels.run.moe_experts(*args, *lists, "silu")
    torch.testing.assert_close(
        out.cpu().double(), loop(x, weights, chosen, gate_up, down), rtol=1e-4, atol=1e-4
    )
