"""config.json as it is found in checkpoints of several ages."""

import json
from pathlib import Path
from typing import Any

import pytest

from mii.errors import ModelLoadError
from mii.models.config import load_config
from mii.models.snapshot import Snapshot


def load(directory: Path, **files: Any) -> dict[str, Any]:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / f"{name}.json").write_text(text)
    return load_config(Snapshot("tiny", "", directory))


def test_as_transformers_saves_it(single: Path, tiny_llama: Any) -> None:
    config = load(single)
    expected = tiny_llama.config.to_dict()
    assert {name: config[name] for name in expected if name in config and name != "dtype"} == {
        name: value for name, value in expected.items() if name in config and name != "dtype"
    }
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rope_theta"] == 10000.0
    assert config["rope_scaling"] is None
    assert config["torch_dtype"] == "float32"


@pytest.mark.parametrize(
    ("in_config", "in_generation", "merged"),
    [
        (2, None, 2),
        (2, 2, 2),
        (None, 7, 7),
        (2, [7, 2], [2, 7]),
        ([2, 3], 9, [2, 3, 9]),
        ([2, 2], None, 2),
        (None, None, None),
    ],
)
def test_end_tokens_of_both_files(in_config: Any, in_generation: Any, merged: Any, tmp_path: Path) -> None:
    config = load(
        tmp_path, config={"eos_token_id": in_config}, generation_config={"eos_token_id": in_generation}
    )
    assert config["eos_token_id"] == merged


def test_no_generation_config(tmp_path: Path) -> None:
    assert load(tmp_path, config={"eos_token_id": [2, 3]})["eos_token_id"] == [2, 3]


def test_newer_names_are_also_given_as_older_ones(tmp_path: Path) -> None:
    rope = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}
    config = load(tmp_path, config={"rope_parameters": rope, "dtype": "bfloat16"})
    assert config["rope_theta"] == 5e5
    assert config["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0}
    assert config["torch_dtype"] == "bfloat16"


def test_older_names_stay_as_they_are(tmp_path: Path) -> None:
    old = {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float16"}
    assert load(tmp_path, config=old) == old


def test_rotary_parameters_per_kind_of_layer_are_left_alone(tmp_path: Path) -> None:
    config = {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}
    assert load(tmp_path, config=config) == config


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["config.json", "missing"]),
        ({"config": '{"hidden_size": 6'}, ["config.json", "not readable as JSON", "download it again"]),
        ({"config": "[1]"}, ["config.json", "must be a JSON object, not list"]),
        ({"config": "{}", "generation_config": ""}, ["generation_config.json", "not readable as JSON"]),
    ],
)
def test_broken_files_are_named(files: dict[str, str], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load(tmp_path, **files)
    assert all(word in str(caught.value) for word in (*words, str(tmp_path)))
