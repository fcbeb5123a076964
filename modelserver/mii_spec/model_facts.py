"""What sizing must know of a model, read from its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

_TIED_BY_DEFAULT = ("opt", "falcon", "RefinedWeb", "RefinedWebModel")
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Sizes of a decoder. `parameter_bytes` are all weights, `dtype_bytes` each, before any split;
    `embedding_bytes` those of embedding and head among them, which are never quantised."""

    heads: int
    kv_heads: int
    layers: int
    head_dim: int
    hidden: int
    parameter_bytes: int
    embedding_bytes: int = 0
    max_position: int  # tokens of prompt and output that the model was made for
    dtype_bytes: int = 2  # bytes per weight and per KV element

    def cast(self, dtype: str) -> "ModelFacts":
        """The same model loaded as `dtype`; "auto" is as it is stored."""
        if dtype == "auto":
            return self
        size = DTYPE_BYTES[dtype]
        return replace(
            self,
            parameter_bytes=self.parameter_bytes * size // self.dtype_bytes,
            embedding_bytes=self.embedding_bytes * size // self.dtype_bytes,
            dtype_bytes=size,
        )

    def quantised(self, quantization: str) -> "ModelFacts":
        """The same model with its linear layers at a byte a weight, and a float32 scale for each output
        channel of about `hidden` weights. The KV cache stays as it is."""
        if quantization == "none":
            return self
        weights = (self.parameter_bytes - self.embedding_bytes) // self.dtype_bytes
        return replace(self, parameter_bytes=self.embedding_bytes + weights + 4 * weights // self.hidden)


def from_config(config: Mapping[str, Any], parameter_bytes: int) -> ModelFacts:
    """Facts from a config.json of the Llama, Mistral, Mixtral, Qwen, Falcon, Phi or OPT families.

    `parameter_bytes` is the checkpoint's size, as in model.safetensors.index.json's metadata.total_size.
    Raises ValueError naming the key that is missing or not an integer.
    """
    heads = _integer(config, "num_attention_heads", "n_head")
    hidden = _integer(config, "hidden_size", "n_embd", "n_embed")
    dtype = config.get("torch_dtype") or config.get("dtype") or "float16"
    dtype_bytes = DTYPE_BYTES.get(str(dtype).removeprefix("torch."), 2)
    return ModelFacts(
        heads=heads,
        kv_heads=_kv_heads(config, heads),
        layers=_integer(config, "num_hidden_layers", "n_layer"),
        head_dim=_integer(config, "head_dim", "kv_channels", default=hidden // heads),
        hidden=hidden,
        parameter_bytes=parameter_bytes,
        embedding_bytes=min(_embeddings(config) * hidden * dtype_bytes, parameter_bytes),
        max_position=_integer(config, "max_position_embeddings", "n_positions", "seq_length", default=2048),
        dtype_bytes=dtype_bytes,
    )


def _embeddings(config: Mapping[str, Any]) -> int:
    """Rows of embedding and head, or of the one matrix that is both; 0 where the vocabulary is not known."""
    if config.get("vocab_size") is None:
        return 0
    tied = config.get("tie_word_embeddings", config.get("model_type") in _TIED_BY_DEFAULT)
    return _integer(config, "vocab_size") * (1 if tied else 2)


def _kv_heads(config: Mapping[str, Any], heads: int) -> int:
    """Falcon's first architecture has one KV head or as many as heads, whatever num_kv_heads says."""
    falcon = config.get("model_type") in ("falcon", "RefinedWeb", "RefinedWebModel")
    if falcon and not config.get("new_decoder_architecture", config.get("model_type") == "RefinedWeb"):
        return 1 if config.get("multi_query", True) else heads
    return _integer(config, "num_key_value_heads", "num_kv_heads", "n_head_kv", default=heads)


def _integer(config: Mapping[str, Any], *keys: str, default: int | None = None) -> int:
    """The first of `keys` that is set. Families disagree on names, not on meanings."""
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if type(value) is not int or value <= 0:
            raise ValueError(f"config.json: {key} must be a positive integer, got {value!r}")
        return value
    if default is None:
        raise ValueError(f"config.json: {' or '.join(keys)} is missing")
    return default
