"""The gate and the permutations against plain definitions, and the experts against a loop over tokens."""

import pytest
import torch
import torch.nn.functional as F

from mii_kernels import _lib, cuda, ops

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
    [(1, 24, 6, 2), (40, 32, 6, 2), (700, 8, 3, 2), (5, 7, 4, 4), (90, 64, 2, 1), (0, 8, 2, 1)],
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
        *(t.to(kernels.device) for t in (x, weights, chosen, gate_up, down)), "silu"
    )
    expected = loop(x, weights, chosen, gate_up, down)
    assert out.dtype == dtype
    assert out.shape == x.shape
    assert (out.cpu().double() - expected).norm() <= TOLERANCE[dtype] * expected.norm()


def test_an_expert_without_tokens(kernels: Kernels) -> None:
    x = torch.randn(3, 8)
    gate_up, down = torch.randn(5, 32, 8), torch.randn(5, 8, 16)
    chosen, weights = torch.tensor([[3], [1], [3]]), torch.ones(3, 1)
    args = (t.to(kernels.device) for t in (x, weights, chosen, gate_up, down))
    out = kernels.run.moe_experts(*args, "silu")
    torch.testing.assert_close(
        out.cpu().double(), loop(x, weights, chosen, gate_up, down), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tokens", [64, 65, 200])
def test_all_tokens_to_one_expert(kernels: Kernels, dtype: torch.dtype, tokens: int) -> None:
    torch.manual_seed(tokens)
    x = torch.randn(tokens, 64).to(dtype)
    gate_up, down = torch.randn(9, 64, 64).to(dtype) / 8, torch.randn(9, 64, 32).to(dtype) / 6
    chosen, weights = torch.full((tokens, 1), 7), torch.rand(tokens, 1)
    args = (t.to(kernels.device) for t in (x, weights, chosen, gate_up, down))
    out = kernels.run.moe_experts(*args, "silu")
    expected = loop(x, weights, chosen, gate_up, down)
    assert (out.cpu().double() - expected).norm() <= TOLERANCE[dtype] * expected.norm()


def test_packed_experts_are_the_references(kernels: Kernels) -> None:
    if kernels.device.type != "cpu":
        pytest.skip("weights are packed for the CPU alone")
    x, gate_up, down = torch.randn(3, 32), torch.randn(4, 64, 32), torch.randn(4, 32, 32)
    chosen, weights = torch.tensor([[3], [1], [3]]), torch.ones(3, 1)
    packed = ([ops.pack_weight(it) for it in each] for each in (gate_up, down))
    out = kernels.run.moe_experts(x, weights, chosen, *packed, "silu")
    torch.testing.assert_close(out.double(), loop(x, weights, chosen, gate_up, down), rtol=1e-4, atol=1e-4)


def test_experts_with_strides_are_the_references(kernels: Kernels) -> None:
    x, gate_up, down = torch.randn(3, 32), torch.randn(4, 32, 64).mT, torch.randn(4, 32, 32)
    chosen, weights = torch.tensor([[3], [1], [3]]), torch.ones(3, 1)
    args = (t.to(kernels.device) for t in (x, weights, chosen, gate_up, down))
    out = kernels.run.moe_experts(*args, "silu")
    expected = loop(x, weights, chosen, gate_up, down)
    torch.testing.assert_close(out.cpu().double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("tokens", [1, 16, 300])
def test_a_graph_follows_its_inputs(dtype: torch.dtype, tokens: int) -> None:
    """Captured once, replayed for tokens that choose other experts."""
    run, device = cuda.backend(_lib.load(0)), torch.device("cuda", 0)
    gate_up = torch.randn(8, 128, 64, device=device).to(dtype) / 8
    down = torch.randn(8, 64, 64, device=device).to(dtype) / 8
    x, logits = torch.randn(tokens, 64, device=device).to(dtype), torch.randn(tokens, 8, device=device)

    def layer() -> torch.Tensor:
        return run.moe_experts(x, *run.moe_gate(logits, 2, True), gate_up, down, "silu")

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        layer()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = layer()
    for _ in range(3):
        x.normal_(), logits.normal_()
        graph.replay()
        chosen = run.moe_gate(logits, 2, True)
        expected = loop(*(t.cpu() for t in (x, *chosen, gate_up, down)))
        assert (out.cpu().double() - expected).norm() <= TOLERANCE[dtype] * expected.norm()
