"""The kernels' library through ctypes: its functions' types, and its error codes as exceptions."""

import ctypes
from ctypes import c_char_p, c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

from mii_kernels import build

DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2}  # mii_dtype
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}  # mii_activation
SUPPORTED = "devices of compute capability 8.x and 9.0"

_ERRORS = {
    35: "CUDA 13 needs an NVIDIA driver 580 or newer, and there is an older one, or none",
    100: "there is no CUDA device",
    209: f"the library has no code for this device; it serves {SUPPORTED}",
}

# By name: the arguments' types, in the order of csrc/mii.h. All return cudaError_t, except the last.
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "mii_device_capability": (c_int, c_void_p, c_void_p),
    "mii_rms_norm": (*[c_void_p] * 5, *[c_int64] * 4, c_float, c_int, c_void_p),
    "mii_layer_norm": (*[c_void_p] * 6, *[c_int64] * 4, c_float, c_int, c_void_p),
    "mii_peer_buffer_bytes": (c_void_p, c_int),
    "mii_peer_allocate": (*[c_void_p] * 2, c_int64, c_int),
    "mii_peer_open": (*[c_void_p] * 2, *[c_int] * 2),
    "mii_peer_close": (c_void_p,),
    "mii_peer_free": (c_void_p,),
    "mii_all_reduce_one_shot": (*[c_void_p] * 4, c_int64, *[c_int] * 3, c_void_p),
    "mii_all_reduce_two_shot": (*[c_void_p] * 4, c_int64, *[c_int] * 3, c_void_p),
    "mii_all_reduce_norm": (*[c_void_p] * 8, *[c_int64] * 2, *[c_int] * 3, c_float, c_int, c_void_p),
    "mii_rope_and_store_kv": (*[c_void_p] * 6, *[c_int64] * 2, *[c_int] * 7, c_void_p),
    "mii_activate": (*[c_void_p] * 2, *[c_int64] * 2, c_int, c_int, c_void_p),
    "mii_activate_and_mul": (*[c_void_p] * 2, *[c_int64] * 2, c_int, c_int, c_void_p),
    "mii_greedy": (*[c_void_p] * 2, c_int64, c_int, c_int64, c_int, c_void_p),
    "mii_add_bias": (*[c_void_p] * 5, c_int64, c_int, *[c_int64] * 3, c_int, c_void_p),
    "mii_apply_penalties": (*[c_void_p] * 9, c_int64, c_int, *[c_int64] * 2, c_int, c_void_p),
    "mii_count_tokens": (*[c_void_p] * 3, *[c_int64] * 2, c_void_p),
    "mii_moe_gate": (*[c_void_p] * 3, c_int64, *[c_int] * 4, c_void_p),
    "mii_moe_permute": (*[c_void_p] * 5, *[c_int64] * 2, *[c_int] * 3, c_void_p),
    "mii_moe_unpermute": (*[c_void_p] * 4, *[c_int64] * 2, *[c_int] * 2, c_void_p),
    "mii_sample": (*[c_void_p] * 8, c_int64, c_int, c_int64, c_int, c_void_p),
    "mii_log_probs": (*[c_void_p] * 5, c_int64, c_int, c_int64, *[c_int] * 2, c_void_p),
    "mii_attention_decode": (*[c_void_p] * 8, *[c_int64] * 3, *[c_int] * 6, c_float, c_int, c_void_p),
    "mii_attention_prefill": (*[c_void_p] * 7, *[c_int64] * 4, *[c_int] * 4, c_float, c_int, c_void_p),
    "mii_attention_prefill_wgmma": (*[c_void_p] * 7, *[c_int64] * 4, *[c_int] * 5, c_float, c_int, c_void_p),
    "mii_quantise": (*[c_void_p] * 3, *[c_int64] * 2, c_int, c_void_p),
    "mii_skinny_gemm": (*[c_void_p] * 4, *[c_int] * 5, c_void_p),
    "mii_skinny_wgmma": (*[c_void_p] * 5, *[c_int] * 9, c_void_p),
    "mii_gated_gemm": (*[c_void_p] * 3, *[c_int] * 6, c_void_p),
    "mii_gemm": (*[c_void_p] * 3, *[c_int] * 6, c_void_p),
    "mii_grouped_gemm": (*[c_void_p] * 4, *[c_int] * 7, c_void_p),
    "mii_plain_grouped_gemm": (*[c_void_p] * 4, *[c_int] * 5, c_void_p),
}
ERROR_STRING = "mii_error_string"


class KernelError(RuntimeError):
    """The kernels' library cannot be had, or one of its functions failed."""


class Library:
    """A loaded library of the ABI in csrc/mii.h."""

    def __init__(self, path: Path) -> None:
        """Raises KernelError if the file is no such library."""
        try:
            self._dll = ctypes.CDLL(str(path))
            self._error_string = self._dll[ERROR_STRING]
            self._functions = {name: self._dll[name] for name in FUNCTIONS}
        except (OSError, AttributeError) as error:
            raise KernelError(f"{path} is not the library of these kernels: {error}") from error
        self._error_string.argtypes, self._error_string.restype = (c_int,), c_char_p
        for name, function in self._functions.items():
            function.argtypes, function.restype = FUNCTIONS[name], c_int

    def call(self, name: str, *args: Any) -> None:
        """Calls a function by name. Raises KernelError with what CUDA says if it fails."""
        code = self._functions[name](*args)
        if code:
            said = self._error_string(code).decode()
            hint = f": {_ERRORS[code]}" if code in _ERRORS else ""
            raise KernelError(f"{name}: CUDA error {code}, {said}{hint}")

    def capability(self, device: int) -> tuple[int, int]:
        """Major and minor compute capability. Raises KernelError without device or with too old a driver."""
        major, minor = c_int(), c_int()
        self.call("mii_device_capability", device, ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value


def load(device: int) -> Library:
    """The library, built if need be, for one CUDA device. Raises KernelError that says what is missing."""
    try:
        library = Library(build.build())
    except (build.BuildError, OSError) as error:
        raise KernelError(str(error)) from error
    capability = library.capability(device)
    if not serves(capability):
        raise KernelError(
            "CUDA device {} has compute capability {}.{}; the kernels serve {}: use `--kernels torch`".format(
                device, *capability, SUPPORTED
            )
        )
    return library


def serves(capability: tuple[int, int]) -> bool:
    """Whether the library has code for the device: that of sm_80 runs on all 8.x, that of sm_90a on 9.0."""
    return capability[0] == 8 or capability == (9, 0)
