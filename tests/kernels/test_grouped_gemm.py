"""Each group's rows times its own weight, against float64, and the decisions around it."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mii_kernels.cuda import grouped_gemm
from mii_kernels.cuda.grouped_gemm import likely_rows, max_chunks, tile_of, torch_multiplies

from .conftest import Kernels

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 3e-3, torch.float16: 4e-4}  # of the norm of the difference
GROUPS = {
    "one row": [0, 0, 1, 0],
    "all rows in the last": [0, 0, 70],
    "all rows in the first": [70, 0, 0],
    "around a tile": [64, 65, 0, 63, 1],
    "around small tiles": [8, 9, 16, 17, 0, 7],
    "more groups than a warp": [0, 2] * 17 + [0] * 40 + [3],
    "no rows": [0, 0],
}


def exact(x: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
    parts = x.double().split(sizes)
    return torch.cat([part @ each.double().T for part, each in zip(parts, weight, strict=True)])


def check(kernels: Kernels, dtype: torch.dtype, sizes: list[int], n: int, k: int, likely: int) -> None:
    torch.manual_seed(sum(sizes) + n + k)
    x, weight = torch.randn(sum(sizes), k).to(dtype), torch.randn(len(sizes), n, k).to(dtype)
    starts = torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32)
    library = kernels.run.moe_experts.args[0]
    args = (x.to(kernels.device), weight.to(kernels.device), starts.to(kernels.device))
    out = grouped_gemm.grouped_gemm(library, *args, likely)
    expected = exact(x, weight, sizes)
    assert (out.dtype, out.shape) == (dtype, expected.shape)
    assert (out.cpu().double() - expected).norm() <= TOLERANCE[dtype] * expected.norm()


@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("likely", [1, 12, 64])
def test_groups(kernels: Kernels, sizes: list[int], likely: int) -> None:
    """With tiles smaller than a group, and larger ones."""
    check(kernels, torch.bfloat16, sizes, n=40, k=96, likely=likely)


@pytest.mark.parametrize("likely", [8, 16, 32, 64])
@pytest.mark.parametrize("rows", [16, 32, 128])
@pytest.mark.parametrize(("n", "k"), [(7, 32), (130, 1056)])
def test_shapes(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, likely: int, rows: int, n: int, k: int
) -> None:
    if rows == 128 and likely <= 16:
        pytest.skip("so few tokens have no blocks as large")
    monkeypatch.setattr(grouped_gemm, "block_rows", lambda *_: rows)
    check(kernels, torch.float16, [5, 0, 20, 33], n, k, likely)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (9, 31), (24, 100)])
def test_rows_of_any_length(kernels: Kernels, dtype: torch.dtype, n: int, k: int) -> None:
    for likely in (1, 1000):
        check(kernels, dtype, [3, 0, 8, 9], n, k, likely)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", [[300, 0, 41], [0, 0, 65, 7]])
def test_many_rows_are_torchs(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, sizes: list[int]
) -> None:
    calls = []
    product = F.grouped_mm
    monkeypatch.setattr(F, "grouped_mm", lambda *args, **more: calls.append(1) or product(*args, **more))
    check(kernels, dtype, sizes, n=48, k=64, likely=300)
    assert calls


def test_the_tokens_of_one_expert_are_at_most_all() -> None:
    assert likely_rows(1, 2, 8) == 1
    assert likely_rows(64, 2, 2) == 64
    assert likely_rows(16, 2, 8) == 9
    assert likely_rows(256, 2, 8) == 85
    assert likely_rows(8192, 2, 8) == 2166


def test_the_smallest_tile_that_holds_them() -> None:
    assert [tile_of(rows) for rows in (0, 1, 8, 9, 16, 33, 64, 65, 5000)] == [8, 8, 8, 16, 16, 64, 64, 64, 64]


def test_chunks_are_as_many_as_can_be() -> None:
    """Exactly: some sizes of the groups reach the number, and none goes beyond it."""
    for rows, groups, tile in itertools.product(range(9), (1, 2, 3), (1, 2, 4)):
        sizes = (it for it in itertools.product(range(rows + 1), repeat=groups) if sum(it) == rows)
        most = max(sum(-(-size // tile) for size in it) for it in sizes)
        assert max_chunks(rows, groups, tile) == most


def test_torch_multiplies_many_rows_and_never_waits_in_a_graph() -> None:
    assert not torch_multiplies(12, waits=False, capturing=True)
    assert torch_multiplies(13, waits=False, capturing=True)
    assert not torch_multiplies(200, waits=True, capturing=False)
    assert torch_multiplies(300, waits=True, capturing=False)
    assert not torch_multiplies(300, waits=True, capturing=True)
