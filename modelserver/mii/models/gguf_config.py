"""The config.json that a GGUF file's metadata stands for.

ggml's names are in its docs/gguf.md; the other side is transformers' LlamaConfig and Qwen2Config. A
hyperparameter that is not understood here is refused rather than ignored: it would change what is computed.
"""

from typing import Any

from mii.errors import ModelLoadError, UnsupportedModel
from mii.models.gguf_file import GGUFFile
from mii.models.gguf_rope import rope_scaling

# ggml's architecture -> transformers' class and model_type. Mistral's files say "llama".
ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
}
_INFORMATIVE = ("vocab_size", "attention.causal", "rope.scaling.finetuned")  # known elsewhere, or not needed
_DTYPES = {"F32": "float32", "F16": "float16"}  # anything else computes in bfloat16
_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")


class Hyperparameters:
    """The metadata under the architecture's prefix; remembers what was asked for."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self._prefix = f"{file.architecture}."
        self._asked = {self._prefix + name for name in _INFORMATIVE}

    def get(self, name: str, default: Any = None) -> Any:
        key = self._prefix + name
        self._asked.add(key)
        return self.file.metadata.get(key, default)

    def need(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise ModelLoadError(f"{self.file.path}: {self._prefix}{name} is missing from the metadata")
        return value

    def refuse_unknown(self) -> None:
        for key, value in self.file.metadata.items():
            if key.startswith(self._prefix) and key not in self._asked and value:
                raise UnsupportedModel(f"{self.file.path}: {key} = {value!r} is not supported")


def config_from_gguf(file: GGUFFile) -> dict[str, Any]:
    """`file`'s metadata as transformers would write it to config.json.

    Raises UnsupportedModel for an architecture or hyperparameter that is not served, ModelLoadError if
    one is missing.
    """
    if file.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedModel(
            f"{file.path}: GGUF architecture {file.architecture!r} is not supported (supported: {known});"
            " use the model's safetensors"
        )
    parameters = Hyperparameters(file)
    config = _shape(parameters) | _rotary(parameters) | _family(parameters) | _tokens(file)
    config["torch_dtype"] = _dtype(file)
    parameters.refuse_unknown()
    return config


def _shape(parameters: Hyperparameters) -> dict[str, Any]:
    hidden, heads = parameters.need("embedding_length"), parameters.need("attention.head_count")
    head_dim = parameters.get("attention.key_length", hidden // heads)
    _require(parameters, "attention.value_length", head_dim)
    _require(parameters, "rope.dimension_count", head_dim)
    return {
        "hidden_size": hidden,
        "num_hidden_layers": parameters.need("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": parameters.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": parameters.need("feed_forward_length"),
        "rms_norm_eps": parameters.need("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": parameters.need("context_length"),
        "vocab_size": _vocab_size(parameters.file),
        "tie_word_embeddings": "output.weight" not in parameters.file.tensors,
        "hidden_act": "silu",
    }


def _require(parameters: Hyperparameters, name: str, value: int) -> None:
    if (actual := parameters.get(name, value)) != value:
        raise UnsupportedModel(f"{parameters.file.path}: {name} = {actual} where the head size is {value}")


def _vocab_size(file: GGUFFile) -> int:
    if "token_embd.weight" not in file.tensors:
        raise ModelLoadError(f"{file.path}: no tensor 'token_embd.weight'")
    return int(file.tensors["token_embd.weight"].shape[1])  # ggml lists the fastest dimension first


def _rotary(parameters: Hyperparameters) -> dict[str, Any]:
    theta = float(parameters.get("rope.freq_base", 10000.0))
    scaling = rope_scaling(parameters, theta)
    return {"rope_theta": theta} | ({"rope_scaling": scaling} if scaling else {})


def _family(parameters: Hyperparameters) -> dict[str, Any]:
    file = parameters.file
    architecture, model_type = ARCHITECTURES[file.architecture]
    config: dict[str, Any] = {"architectures": [architecture], "model_type": model_type}
    if model_type == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in file.tensors
        if window := parameters.get("attention.sliding_window"):
            config |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
            config["sliding_window"] = window
    return config


def _tokens(file: GGUFFile) -> dict[str, Any]:
    ids = {name: file.metadata.get(f"tokenizer.ggml.{name}") for name in ("bos_token_id", *_END_TOKENS)}
    ends = list(dict.fromkeys(ids[name] for name in _END_TOKENS if ids[name] is not None))
    return {
        "bos_token_id": ids["bos_token_id"],
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": file.metadata.get("tokenizer.ggml.padding_token_id"),
    }


def _dtype(file: GGUFFile) -> str:
    """By the type that holds most of the file."""
    sizes: dict[str, int] = {}
    for tensor in file.tensors.values():
        kind = tensor.tensor_type.name
        sizes[kind] = sizes.get(kind, 0) + int(tensor.n_bytes)
    return _DTYPES.get(max(sizes, key=lambda kind: sizes[kind]), "bfloat16")
