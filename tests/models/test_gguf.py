"""GGUF files written here: their config and weights against the model they were made of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from mii.errors import ModelLoadError, UnsupportedModel
from mii.models.config import load_config
from mii.models.gguf_rope import llama3_factors
from mii.models.snapshot import Snapshot
from mii.models.weights import WeightReader, open_checkpoint

Kind = gguf.GGMLQuantizationType
ARCHS = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}


@dataclass
class File:
    """What goes into a GGUF file; tests change it before `write`."""

    architecture: str
    metadata: dict[str, Any] = field(default_factory=dict)  # under the architecture's prefix
    tokens: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, tuple[np.ndarray, Kind]] = field(default_factory=dict)
    splits: int = 0

    def write(self, path: Path) -> Snapshot:
        writer = gguf.GGUFWriter(path, self.architecture)
        for name, value in self.metadata.items():
            add(writer, f"{self.architecture}.{name}", value)
        for name, token in self.tokens.items():
            writer.add_uint32(f"tokenizer.ggml.{name}", token)
        if self.splits:
            writer.add_uint16("split.count", self.splits)
        for name, (values, kind) in self.tensors.items():
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return Snapshot("tiny", "", path.parent, path)


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds[type(value)](key, value)


def as_file(model: Any, kind: Kind = Kind.F32) -> File:
    """`model` as llama.cpp's converter would write it: matrices of `kind`, vectors in F32."""
    config = model.config
    metadata = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
    }
    file = File(config.model_type, metadata, {"bos_token_id": 1, "eos_token_id": 2})
    names = gguf.get_tensor_name_map(ARCHS[config.model_type], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        values = tensor.detach().numpy()
        if config.model_type == "llama" and "q_proj" in name:
            values = permute(values, config.num_attention_heads)
        if config.model_type == "llama" and "k_proj" in name:
            values = permute(values, config.num_key_value_heads)
        file.tensors[names.get_name(name, (".weight", ".bias"))] = (
            values,
            kind if values.ndim > 1 else Kind.F32,
        )
    return file


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """transformers' halves of a head, interleaved."""
    head = np.arange(len(rows)).reshape(heads, 2, -1)
    return rows[head.transpose(0, 2, 1).ravel()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.gguf"


def tiny_qwen(family: str) -> Any:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=False,
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for parameter in model.parameters():  # biases and norms start as zeros and ones
        torch.nn.init.normal_(parameter)
    return model


def read(snapshot: Snapshot, model: Any, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    weights = WeightReader(open_checkpoint(snapshot), dtype=dtype, device="cpu")
    taken = {name: weights.take(name, *tensor.shape) for name, tensor in model.state_dict().items()}
    weights.finish()
    return taken


STORED: dict[Kind, Callable[[torch.Tensor], torch.Tensor]] = {
    Kind.F32: lambda tensor: tensor,
    Kind.F16: lambda tensor: tensor.half().float(),
    Kind.BF16: lambda tensor: tensor.bfloat16().float(),
    Kind.Q8_0: lambda tensor: through(tensor, Kind.Q8_0),
    Kind.Q4_0: lambda tensor: through(tensor, Kind.Q4_0),
}


def through(tensor: torch.Tensor, kind: Kind) -> torch.Tensor:
    return torch.from_numpy(gguf.dequantize(gguf.quantize(tensor.detach().numpy(), kind), kind))


@pytest.mark.parametrize("kind", STORED, ids=lambda kind: kind.name)
def test_llama_comes_back_as_it_was(kind: Kind, tiny_llama: Any, path: Path) -> None:
    taken = read(as_file(tiny_llama, kind).write(path), tiny_llama)
    for name, tensor in tiny_llama.state_dict().items():
        expected = STORED[kind](tensor) if tensor.ndim > 1 else tensor
        assert torch.equal(taken[name], expected), name


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3"])
def test_qwen_comes_back_as_it_was(family: str, path: Path) -> None:
    model = tiny_qwen(family)
    file = as_file(model)
    file.metadata["attention.key_length"] = 16
    snapshot = file.write(path)
    taken = read(snapshot, model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(taken[name], tensor), name
    config = load_config(snapshot)
    assert config["architectures"] == [f"{family}ForCausalLM"]
    assert config["model_type"] == family.lower()


def test_bytes_are_those_of_the_file(tiny_llama: Any, path: Path) -> None:
    snapshot = as_file(tiny_llama, Kind.Q8_0).write(path)
    checkpoint = open_checkpoint(snapshot)
    counted: list[int] = []
    weights = WeightReader(checkpoint, dtype=torch.float32, device="cpu", on_bytes=counted.append)
    for name in checkpoint.names:
        weights.take(name, *checkpoint.shape(name))
    assert sum(counted) == checkpoint.total_bytes < path.stat().st_size < 1.2 * checkpoint.total_bytes


def test_config_is_that_of_the_model(tiny_llama: Any, path: Path) -> None:
    config = load_config(as_file(tiny_llama).write(path))
    ours = {"architectures", "rope_theta", "torch_dtype", "rms_norm_eps", "bos_token_id", "pad_token_id"}
    expected = tiny_llama.config.to_dict()
    assert {name: config[name] for name in config.keys() - ours} == {
        name: expected[name] for name in config.keys() - ours
    }
    assert config["rms_norm_eps"] == pytest.approx(expected["rms_norm_eps"])  # GGUF keeps 32 bits
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rope_theta"] == 10000.0
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(Kind.F32, "float32"), (Kind.F16, "float16"), (Kind.BF16, "bfloat16"), (Kind.Q8_0, "bfloat16")],
)
def test_dtype(kind: Kind, dtype: str, tiny_llama: Any, path: Path) -> None:
    assert load_config(as_file(tiny_llama, kind).write(path))["torch_dtype"] == dtype


def test_tied_embeddings(tiny_llama: Any, path: Path) -> None:
    file = as_file(tiny_llama)
    assert load_config(file.write(path))["tie_word_embeddings"] is False
    del file.tensors["output.weight"]
    assert load_config(file.write(path))["tie_word_embeddings"] is True


def test_all_tokens_that_end_a_turn(tiny_llama: Any, path: Path) -> None:
    file = as_file(tiny_llama)
    file.tokens |= {"eot_token_id": 5, "eom_token_id": 2}
    assert load_config(file.write(path))["eos_token_id"] == [2, 5]


def test_sliding_window_makes_it_a_mistral(tiny_llama: Any, path: Path) -> None:
    file = as_file(tiny_llama)
    file.metadata["attention.sliding_window"] = 32
    config = load_config(file.write(path))
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 32)
    assert config["architectures"] == ["MistralForCausalLM"]


def test_linear_and_yarn_scaling(tiny_llama: Any, path: Path) -> None:
    file = as_file(tiny_llama)
    file.metadata |= {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    assert load_config(file.write(path))["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    file.metadata |= {"rope.scaling.type": "yarn", "rope.scaling.original_context_length": 64}
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    assert load_config(file.write(path))["rope_scaling"] == scaling


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recognised(factor: float, tiny_llama: Any, path: Path) -> None:
    """The factors of transformers' own llama3 scaling."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    truth = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=scaling | {"rope_theta": 5e5})
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](truth, torch.device("cpu"))
    plain = 5e5 ** -(torch.arange(64) / 64)
    factors = (plain / scaled).numpy().astype(np.float32)
    assert llama3_factors(5e5, 64, factor) == pytest.approx(factors.tolist(), rel=1e-4)

    file = as_file(tiny_llama)
    file.metadata |= {"rope.freq_base": 5e5}
    file.tensors["rope_freqs.weight"] = factors, Kind.F32
    snapshot = file.write(path)
    assert load_config(snapshot)["rope_scaling"] == scaling
    read(snapshot, tiny_llama)  # the factors are no leftover


def test_other_frequency_factors_become_longrope(tiny_llama: Any, path: Path) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    factors = np.linspace(1, 3, 8, dtype=np.float32)
    file = as_file(tiny_llama)
    file.tensors["rope_freqs.weight"] = factors, Kind.F32
    config = load_config(file.write(path))
    parameters = config["rope_scaling"] | {"rope_theta": config["rope_theta"]}
    truth = LlamaConfig(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=128, rope_parameters=parameters
    )
    inverse, attention = ROPE_INIT_FUNCTIONS["longrope"](truth, torch.device("cpu"), seq_len=10_000)
    assert attention == 1.0
    assert torch.allclose(inverse, 1 / (torch.from_numpy(factors) * 10000.0 ** (torch.arange(8) / 8)))


def test_factors_of_one_are_no_scaling(tiny_llama: Any, path: Path) -> None:
    file = as_file(tiny_llama)
    file.tensors["rope_freqs.weight"] = np.ones(8, dtype=np.float32), Kind.F32
    assert "rope_scaling" not in load_config(file.write(path))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"expert_count": 8}, "llama.expert_count = 8 is not supported"),
        ({"rope.scaling.type": "longrope"}, "rope.scaling.type 'longrope' is not supported"),
        ({"rope.dimension_count": 8}, "rope.dimension_count = 8 where the head size is 16"),
        ({"attention.value_length": 8}, "attention.value_length = 8 where the head size is 16"),
    ],
)
def test_what_is_not_understood_is_refused(
    metadata: dict[str, Any], message: str, tiny_llama: Any, path: Path
) -> None:
    file = as_file(tiny_llama)
    file.metadata |= metadata
    with pytest.raises(UnsupportedModel) as caught:
        load_config(file.write(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_neutral_hyperparameters_are_not_refused(tiny_llama: Any, path: Path) -> None:
    file = as_file(tiny_llama)
    file.metadata |= {
        "expert_count": 0,
        "vocab_size": 96,
        "rope.dimension_count": 16,
        "attention.causal": True,
    }
    assert load_config(file.write(path))["vocab_size"] == 96


def test_an_unknown_architecture(path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"'bert' is not supported \(supported: llama, qwen2"):
        load_config(File("bert").write(path))


def test_missing_metadata_is_named(tiny_llama: Any, path: Path) -> None:
    file = as_file(tiny_llama)
    del file.metadata["block_count"]
    with pytest.raises(ModelLoadError, match=r"tiny\.gguf: llama\.block_count is missing"):
        load_config(file.write(path))


def test_leftover_and_missing_tensors_are_named(tiny_llama: Any, path: Path) -> None:
    file = as_file(tiny_llama)
    file.tensors["blk.0.attn_sinks.weight"] = file.tensors.pop("output_norm.weight")
    weights = WeightReader(open_checkpoint(file.write(path)), dtype=torch.float32, device="cpu")
    with pytest.raises(ModelLoadError, match=r"tiny\.gguf: no tensor 'model\.norm\.weight'"):
        weights.take("model.norm.weight", 64)
    with pytest.raises(ModelLoadError, match=r"'blk\.0\.attn_sinks\.weight' in .*tiny\.gguf"):
        weights.finish()


def test_a_part_of_a_split_file(tiny_llama: Any, path: Path) -> None:
    file = as_file(tiny_llama)
    file.splits = 2
    with pytest.raises(ModelLoadError, match="one part of a split GGUF; join the parts first"):
        load_config(file.write(path))


@pytest.mark.parametrize("keep", [0, 3, 20, 300, 0.5, 0.999])
def test_truncated(keep: float, tiny_llama: Any, path: Path) -> None:
    snapshot = as_file(tiny_llama).write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(ModelLoadError, match=r"tiny\.gguf \(\d+ bytes\): not a whole GGUF file"):
        load_config(snapshot)


def test_garbage(path: Path) -> None:
    path.write_bytes(b"<html>" * 1000)
    with pytest.raises(ModelLoadError, match="not a whole GGUF file"):
        load_config(Snapshot("tiny", "", path.parent, path))


def test_the_other_byte_order(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match="other byte order"):
        load_config(Snapshot("tiny", "", path.parent, path))
