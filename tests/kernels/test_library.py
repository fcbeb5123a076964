"""The library: header and loader agree, and what is missing is said."""

import re
import shutil
from collections.abc import Callable
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path

import pytest
import torch

from mii_kernels import _lib, build, ops

TYPES = {
    "float": c_float,
    "int": c_int,
    "int64_t": c_int64,
    "mii_dtype": c_int,
    "mii_activation": c_int,
    "cudaStream_t": c_void_p,
}


def declared() -> dict[str, tuple[object, ...]]:
    """The functions of mii.h, as ctypes has their arguments."""
    text = re.sub(r"/\*.*?\*/", "", (build.SOURCES / "mii.h").read_text(), flags=re.DOTALL)
    found = re.findall(r"MII_API cudaError_t (\w+)\((.*?)\);", text, flags=re.DOTALL)
    return {name: tuple(map(ctype, arguments.split(","))) for name, arguments in found}


def ctype(argument: str) -> object:
    return c_void_p if "*" in argument else TYPES[argument.split()[0]]


def test_header_and_table_agree() -> None:
    assert declared() == _lib.FUNCTIONS


def test_every_launcher_is_defined(emulated: Callable[..., _lib.Library]) -> None:
    emulated()  # raises for a function that is missing


@pytest.mark.timeout(1800)  # half a minute of processor time
def test_nvcc_compiles_every_kernel() -> None:
    """For sm_90a and sm_80; warnings are errors."""
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    _lib.Library(build.build())


def test_names_have_the_headers_codes() -> None:
    text = (build.SOURCES / "mii.h").read_text()
    codes = {name.lower(): int(code) for name, code in re.findall(r"MII_(\w+) = (\d+)", text)}
    assert codes == _lib.DTYPES | _lib.ACTIVATIONS


def test_sources_name_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in build.SOURCES.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = build.library_path()
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    assert build.library_path() == before
    (tmp_path / "mii.h").write_text("// another")
    assert build.library_path() != before


def test_without_library_and_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "library_path", lambda: tmp_path / "none.so")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ops.KernelError, match=r"no nvcc on the PATH.*--kernels torch"):
        ops.use_kernels("cuda")


def test_a_failing_compiler_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'norms.cu(3): error: no' >&2\nexit 2\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(build, "library_path", lambda: tmp_path / "lib" / "none.so")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(build.BuildError, match=r"(?s)exit code 2.*norms\.cu\(3\): error: no"):
        build.build()


def test_a_library_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.so"
    path.write_bytes(b"not a library")
    with pytest.raises(_lib.KernelError, match=r"other\.so is not the library of these kernels"):
        _lib.Library(path)


@pytest.mark.parametrize(
    ("capability", "served"),
    [((7, 5), False), ((8, 0), True), ((8, 9), True), ((9, 0), True), ((10, 0), False)],
)
def test_the_device_must_be_served(capability: tuple[int, int], served: bool) -> None:
    assert _lib.serves(capability) == served


def test_errors_carry_cudas_text(emulated: Callable[..., _lib.Library]) -> None:
    args = [*[None] * 5, 1, 1, 1, 1, 1e-5, 99, None]
    with pytest.raises(_lib.KernelError, match="mii_rms_norm: CUDA error 1, invalid argument"):
        emulated().call("mii_rms_norm", *args)


def test_unknown_choice() -> None:
    with pytest.raises(ops.KernelError, match="'triton' is none of auto, cuda, torch"):
        ops.use_kernels("triton")


def test_auto_without_kernels_says_why_and_runs_the_references(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(device: int) -> _lib.Library:
        raise ops.KernelError("no nvcc on the PATH")

    monkeypatch.setattr(_lib, "load", missing)
    ops.use_kernels("auto")
    assert ops.library(torch.device("cuda")) is None
    assert "PyTorch's operations" in caplog.text
    assert "no nvcc on the PATH" in caplog.text


def test_auto_takes_the_kernels_where_they_are(
    monkeypatch: pytest.MonkeyPatch, emulated: Callable[..., _lib.Library]
) -> None:
    monkeypatch.setattr(_lib, "load", lambda device: emulated())
    try:
        ops.use_kernels("auto")
        assert ops.library(torch.device("cuda")) is not None
        assert ops.library(torch.device("cpu")) is None
    finally:
        ops.use_kernels("torch")
