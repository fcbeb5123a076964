"""Model facts from the config.json of each family."""

import pytest

from mii_spec.model_facts import ModelFacts, from_config


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(
            {
                "model_type": "qwen3",
                "hidden_size": 1024,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "num_hidden_layers": 28,
                "max_position_embeddings": 40960,
                "dtype": "bfloat16",
            },
            (16, 8, 28, 128, 40960, 2),
            id="qwen3: its own head_dim, dtype by its new name",
        ),
        pytest.param(
            {
                "model_type": "qwen",
                "hidden_size": 4096,
                "num_attention_heads": 32,
                "kv_channels": 128,
                "num_hidden_layers": 32,
                "seq_length": 8192,
            },
            (32, 32, 32, 128, 8192, 2),
            id="qwen: no KV heads of its own",
        ),
        pytest.param(
            {
                "model_type": "phi",
                "hidden_size": 2560,
                "num_attention_heads": 32,
                "num_key_value_heads": None,
                "num_hidden_layers": 32,
                "max_position_embeddings": 2048,
                "torch_dtype": "float16",
            },
            (32, 32, 32, 80, 2048, 2),
            id="phi-2",
        ),
        pytest.param(
            {
                "model_type": "opt",
                "hidden_size": 768,
                "num_attention_heads": 12,
                "num_hidden_layers": 12,
                "max_position_embeddings": 2048,
                "torch_dtype": "float32",
            },
            (12, 12, 12, 64, 2048, 4),
            id="opt in float32",
        ),
        pytest.param(
            {
                "model_type": "RefinedWebModel",
                "hidden_size": 4544,
                "n_head": 71,
                "n_layer": 32,
                "multi_query": True,
            },
            (71, 1, 32, 64, 2048, 2),
            id="falcon-7b as first published",
        ),
        pytest.param(
            {"model_type": "RefinedWeb", "hidden_size": 8192, "n_head": 128, "n_head_kv": 8, "n_layer": 60},
            (128, 8, 60, 64, 2048, 2),
            id="falcon-40b as first published",
        ),
        pytest.param(
            {
                "model_type": "falcon",
                "hidden_size": 2048,
                "num_attention_heads": 32,
                "num_hidden_layers": 24,
                "multi_query": False,
            },
            (32, 32, 24, 64, 2048, 2),
            id="falcon-rw",
        ),
    ],
)
def test_families(config, expected):
    facts = from_config(config, 1000)
    assert (
        facts.heads,
        facts.kv_heads,
        facts.layers,
        facts.head_dim,
        facts.max_position,
        facts.dtype_bytes,
    ) == expected
    assert (facts.hidden, facts.parameter_bytes) == (config["hidden_size"], 1000)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "num_attention_heads or n_head is missing"),
        ({"num_attention_heads": "32"}, "num_attention_heads must be a positive integer, got '32'"),
        ({"num_attention_heads": 0}, "positive integer"),
        ({"num_attention_heads": 8, "hidden_size": 512}, "num_hidden_layers"),
    ],
)
def test_a_config_that_lacks_something(config, words):
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        from_config(config, 1)
    assert words in str(caught.value)


MISTRAL = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 32768,
    "torch_dtype": "bfloat16",
}


def test_fp8_halves_what_is_neither_embedding_nor_head():
    facts = from_config(MISTRAL, 14_496_047_104)
    linear = 32 * (4096 * (6144 + 4096) + 3 * 4096 * 14336)
    assert facts.embedding_bytes == 2 * 2 * 32768 * 4096
    quantised = facts.quantised("fp8")
    assert quantised.parameter_bytes == pytest.approx(
        facts.embedding_bytes + linear * (1 + 4 / 4096), rel=1e-3
    )
    assert quantised.dtype_bytes == 2
    assert facts.cast("float32").quantised("fp8").parameter_bytes == pytest.approx(
        quantised.parameter_bytes + facts.embedding_bytes, rel=1e-6
    )
    assert facts.quantised("none") == facts


@pytest.mark.parametrize(
    ("config", "matrices"),
    [({"tie_word_embeddings": True}, 1), ({"model_type": "opt"}, 1), ({"vocab_size": None}, 0), ({}, 2)],
)
def test_a_tied_head_is_no_second_matrix(config, matrices):
    facts = from_config(MISTRAL | config, 14_496_047_104)
    assert facts.embedding_bytes == matrices * 2 * 32768 * 4096


def test_an_unchanged_dtype_changes_nothing():
    sizes = {"heads": 1, "kv_heads": 1, "layers": 1, "head_dim": 64, "hidden": 64, "max_position": 1}
    facts = ModelFacts(**sizes, parameter_bytes=101, dtype_bytes=2)
    assert facts.cast("float16") == facts
    assert facts.cast("float32").parameter_bytes == 202
