"""Which operations run on our kernels, and which stay with the references."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import cast
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from mii_kernels import _lib, choice, cuda, ops, reference


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, emulated: Callable[..., _lib.Library]) -> Iterator[_lib.Library]:
    """What `use_kernels` finds for the CUDA device that is not there."""
    made = emulated()
    monkeypatch.setattr(_lib, "load", lambda device: made)
    yield made
    ops.use_kernels("torch")


def on_gpu() -> Tensor:
    """As far as a choice looks at it: a KV cache that our attention serves."""
    cache = torch.empty((1, 1, 64, 128), dtype=torch.bfloat16)
    return cast(
        Tensor, Mock(spec=Tensor, is_cuda=True, dtype=cache.dtype, shape=cache.shape, device=cache.device)
    )


def test_what_is_without_its_kernel_is_the_references(library: _lib.Library) -> None:
    ops.use_kernels("cuda", without=("rms_norm", "greedy"))
    backend = choice.backend(on_gpu())
    theirs = {name for name in cuda.NAMES if getattr(backend, name) is getattr(reference, name)}
    assert theirs == {"rms_norm", "greedy"}
    ops.use_kernels("cuda")
    assert choice.backend(on_gpu()).rms_norm is not reference.rms_norm


def test_a_fallback_computes_what_the_kernel_does(library: _lib.Library) -> None:
    x, weight = torch.randn(3, 64), torch.randn(64)
    ours, theirs = cuda.backend(library), cuda.backend(library, without=["rms_norm"])
    torch.testing.assert_close(ours.rms_norm(x, weight, 1e-5, x), theirs.rms_norm(x, weight, 1e-5, x))


def test_a_name_without_a_kernel_is_refused() -> None:
    with pytest.raises(
        ops.KernelError, match=r"no operation with a kernel: norm, pack; those are activate, "
    ):
        ops.use_kernels("torch", without=("pack", "greedy", "norm"))


@pytest.mark.parametrize(
    ("without", "captured"),
    [((), True), (("rms_norm", "greedy"), True), (("paged_attention",), False), (cuda.NAMES, False)],
)
def test_graphs_hold_no_operation_that_the_host_looks_at(
    library: _lib.Library, without: tuple[str, ...], captured: bool
) -> None:
    ops.use_kernels("cuda", without=without)
    assert ops.decodes_on_device(on_gpu()) is captured


def test_every_kernel_serves_an_operation() -> None:
    assert set(cuda.NAMES) <= set(ops.__all__)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_an_engine_without_a_gpu_loads_no_driver() -> None:
    code = "import mii.engine.engine, mii.server.serve; print(open('/proc/self/maps').read())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert "libtorch" in done.stdout
    assert "libcuda" not in done.stdout
    assert "libmii_kernels" not in done.stdout
