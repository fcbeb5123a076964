"""A checkpoint in a GGUF file: dequantised, under transformers' names and in transformers' row order."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mii.errors import ModelLoadError
from mii.models.gguf_config import config_from_gguf
from mii.models.gguf_file import GGUFFile
from mii.models.gguf_rope import FREQUENCY_FACTORS

if TYPE_CHECKING:
    from gguf.gguf_reader import ReaderTensor

# transformers' modules in the families of gguf_config; the gguf library knows ggml's names for them.
_MODULES = ("model.embed_tokens", "model.norm", "lm_head")
_LAYER_MODULES = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "self_attn.q_norm",
    "self_attn.k_norm",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
_RAW = {"F32": np.float32, "F16": np.float16}  # passed through as they are, like BF16


class GGUFCheckpoint:
    """The Checkpoint of one GGUF file. A tensor without a name in transformers keeps ggml's."""

    def __init__(self, file: GGUFFile) -> None:
        config = config_from_gguf(file)
        names = hf_names(file.architecture, config["num_hidden_layers"])
        self.path = file.path
        # Frequency factors are no weight: config_from_gguf turned them into rope_scaling.
        tensors = {name: tensor for name, tensor in file.tensors.items() if name != FREQUENCY_FACTORS}
        self._tensors = {names.get(name, name): tensor for name, tensor in tensors.items()}
        self._permuted = _permuted_heads(file.architecture, config)
        self.names = frozenset(self._tensors)
        self.total_bytes = sum(int(tensor.n_bytes) for tensor in tensors.values())

    def where(self, name: str) -> str:
        return f"{self.path} ({self._tensors[name].name})"

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self._tensors[name].shape))  # ggml: fastest first

    def nbytes(self, name: str) -> int:
        return int(self._tensors[name].n_bytes)

    def tensor(self, name: str) -> torch.Tensor:
        """float32 if it was quantised; F32, F16 and BF16 are views of the mapped file."""
        tensor = self._tensors[name]
        data = np.asarray(tensor.data)  # [rows, values or bytes of a row]
        if heads := self._permuted.get(_module(name)):
            data = unpermute(data, heads)
        try:
            return _to_torch(tensor, data).reshape(self.shape(name))
        except NotImplementedError as error:
            raise ModelLoadError(f"{self.where(name)}: {error}; use another quantisation") from error


def hf_names(architecture: str, num_layers: int) -> dict[str, str]:
    """ggml's tensor name -> transformers' name."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture)
    ggml = get_tensor_name_map(arch, num_layers)
    layers = (f"model.layers.{i}.{module}" for i in range(num_layers) for module in _LAYER_MODULES)
    pairs = ((ggml.get_name(module), module) for module in (*_MODULES, *layers))
    return {
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in pairs
        if theirs
        for kind in ("weight", "bias")
    }


def _permuted_heads(architecture: str, config: dict[str, Any]) -> dict[str, int]:
    """Module -> heads, where llama.cpp's converter reorders rows for its interleaved rotary layout."""
    if architecture != "llama":
        return {}
    return {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * head_dim, ...]: of each head from (pair, half) order to transformers' (half, pair)."""
    pairs = rows.shape[0] // heads // 2
    return rows.reshape(heads, pairs, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _module(name: str) -> str:
    """ "q_proj" of "model.layers.0.self_attn.q_proj.weight"."""
    return name.rpartition(".")[0].rpartition(".")[2]


def _to_torch(tensor: "ReaderTensor", data: np.ndarray) -> torch.Tensor:
    from gguf.quants import dequantize

    kind = tensor.tensor_type.name
    if kind in _RAW:
        return torch.from_numpy(data.view(_RAW[kind]))
    if kind == "BF16":
        return torch.from_numpy(data.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(dequantize(data, tensor.tensor_type))
