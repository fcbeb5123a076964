"""Weights by way of the buffers arrive as they would by a plain copy."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mii.models.shard import Span
from mii.models.snapshot import Snapshot
from mii.models.staging import Staging, chunks
from mii.models.weights import WeightReader, cut, open_checkpoint, views

CPU = torch.device("cpu")
CUTS: list[tuple[list[Span], Span | None]] = [
    ([], None),
    ([(0, 7)], None),
    ([(20, 37), (3, 4), (0, 9)], None),
    ([], (5, 17)),
    ([(30, 37), (1, 2)], (0, 3)),
    ([(37, 37)], None),
    ([], (4, 4)),
]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.mark.parametrize("buffer_bytes", [96, 1 << 10, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "columns"), CUTS)
def test_equal_to_a_plain_copy(
    device: torch.device, rows: list[Span], columns: Span | None, dtype: torch.dtype, buffer_bytes: int
) -> None:
    stored = torch.randn(37, 24).bfloat16()
    found = Staging(device, buffer_bytes).upload(views(stored, rows, columns), dtype)
    assert found.is_contiguous()
    assert (found.device.type, found.dtype) == (device.type, dtype)
    assert torch.equal(found.cpu(), cut(stored, rows, columns).to(dtype))


def test_buffers_are_used_again_and_in_turns(device: torch.device) -> None:
    staging = Staging(device, 64)
    tensors = [torch.randn(n) for n in (1, 16, 17, 100, 1000)]
    found = [staging.upload([tensor], torch.float32) for tensor in tensors]
    for tensor, one in zip(tensors, found, strict=True):
        assert torch.equal(one.cpu(), tensor)


def test_no_chunk_is_larger_than_asked() -> None:
    def sizes(source: Tensor, nbytes: int) -> list[int]:
        target = torch.empty(source.shape, dtype=torch.bfloat16)
        return [to.nbytes for to, _ in chunks(target, source, nbytes)]

    assert sizes(torch.zeros(10, 10), 150) == [150, 50]  # contiguous: regardless of rows
    assert sizes(torch.zeros(10, 20)[:, :10], 150) == [140, 60]
    assert sizes(torch.zeros(0, 20), 150) == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_reads_what_a_cpu_reads(tmp_path: Path) -> None:
    """Tensors of several buffers and of a few bytes, whole and in part."""
    stored = {"large": torch.randn(5000, 4100).bfloat16(), "small": torch.randn(5).bfloat16()}
    save_file(stored, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(Snapshot("tiny", "", tmp_path))
    weights = WeightReader(checkpoint, dtype=torch.bfloat16, device="cuda")
    assert torch.equal(weights.take("large", 5000, 4100).cpu(), stored["large"])
    assert torch.equal(weights.take("small", 5).cpu(), stored["small"])
    part = weights.take("large", 5000, 4100, columns=(1000, 3000))
    assert torch.equal(part.cpu(), stored["large"][:, 1000:3000])
