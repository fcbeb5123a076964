"""Safetensors checkpoints: whole ones equal transformers', broken ones are errors that name the file."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mii.errors import ModelLoadError
from mii.models.progress import loading_progress
from mii.models.snapshot import Snapshot
from mii.models.weights import RandomWeights, WeightReader, open_checkpoint

NORM = "model.norm.weight"
INDEX = "model.safetensors.index.json"


def reader(directory: Path, **options: Any) -> WeightReader:
    checkpoint = open_checkpoint(Snapshot("tiny", "", directory))
    return WeightReader(checkpoint, **({"dtype": torch.float32, "device": "cpu"} | options))


def take_all(weights: WeightReader, model: Any) -> dict[str, torch.Tensor]:
    return {name: weights.take(name, *tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("files", ["single", "sharded"])
def test_equal_to_transformers(files: str, request: pytest.FixtureRequest, tiny_llama: Any) -> None:
    directory = request.getfixturevalue(files)
    weights = reader(directory)
    taken = take_all(weights, tiny_llama)
    weights.finish()
    for name, tensor in tiny_llama.state_dict().items():
        assert torch.equal(taken[name], tensor), name


def test_sharded_means_several_files(sharded: Path) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 2


def test_cast_on_the_way(single: Path, tiny_llama: Any) -> None:
    norm = reader(single, dtype=torch.bfloat16).take(NORM, 64)
    assert norm.dtype is torch.bfloat16
    assert torch.equal(norm, tiny_llama.state_dict()[NORM].to(torch.bfloat16))


def test_bytes_add_up_to_the_total(sharded: Path, tiny_llama: Any) -> None:
    counted: list[int] = []
    take_all(reader(sharded, dtype=torch.float16, on_bytes=counted.append), tiny_llama)
    total = open_checkpoint(Snapshot("tiny", "", sharded)).total_bytes
    assert sum(counted) == total == sum(tensor.nbytes for tensor in tiny_llama.state_dict().values())


def test_has_and_a_second_take(single: Path) -> None:
    weights = reader(single)
    assert weights.has(NORM)
    assert not weights.has("model.norm.bias")
    assert torch.equal(weights.take(NORM, 64), weights.take(NORM, 64))


def test_a_part_is_cut_out_of_a_tensor(single: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    whole = reader(single).take(name, 64, 64)
    for weights in (reader(single), RandomWeights(dtype=torch.float32, device="cpu")):
        drawn = whole if isinstance(weights, WeightReader) else weights.take(name, 64, 64)
        rows = weights.take(name, 64, 64, rows=[(48, 64), (0, 16)])
        assert torch.equal(rows, torch.cat((drawn[48:], drawn[:16])))
        columns = weights.take(name, 64, 64, columns=(32, 48))
        assert torch.equal(columns, drawn[:, 32:48])
        assert columns.is_contiguous()
        assert weights.take(name, 64, 64, rows=[(64, 64)]).shape == (0, 64)


def test_a_missing_tensor_is_named_with_its_like(single: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        reader(single).take("model.layers.0.self_attn.q_proj.bias", 64)
    assert str(caught.value) == (
        f"{single}/model.safetensors: no tensor 'model.layers.0.self_attn.q_proj.bias';"
        " there is 'model.layers.0.self_attn.q_proj.weight'"
    )


def test_a_wrong_shape_says_both(sharded: Path) -> None:
    weights = reader(sharded)
    file = json.loads((sharded / INDEX).read_text())["weight_map"][NORM]
    with pytest.raises(ModelLoadError) as caught:
        weights.take(NORM, 65)
    assert str(caught.value) == (
        f"{sharded}/{file}: tensor {NORM!r} has shape (64,), the model's config asks for (65,)"
    )


def test_leftovers_are_listed_ten_at_a_time(single: Path, tiny_llama: Any) -> None:
    extra = {f"extra.{i:02}": torch.zeros(1) for i in range(12)}
    save_file(load_file(single / "model.safetensors") | extra, single / "model.safetensors")
    weights = reader(single)
    take_all(weights, tiny_llama)
    with pytest.raises(ModelLoadError) as caught:
        weights.finish()
    message = str(caught.value)
    assert message.startswith(
        f"the model has no use for 12 tensor(s): 'extra.00' in {single}/model.safetensors"
    )
    assert "'extra.09'" in message
    assert "'extra.10'" not in message
    assert message.endswith("and 2 more")


def test_ignored_names_may_be_left(single: Path, tiny_llama: Any) -> None:
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.zeros(8) for i in range(2)}
    save_file(load_file(single / "model.safetensors") | buffers, single / "model.safetensors")
    weights = reader(single, ignore=(r"\.rotary_emb\.inv_freq$",))
    take_all(weights, tiny_llama)
    weights.finish()


def test_a_tensor_beside_the_index_is_a_leftover(sharded: Path, tiny_llama: Any) -> None:
    index = json.loads((sharded / INDEX).read_text())
    shard = sharded / index["weight_map"][NORM]
    save_file(load_file(shard) | {"extra": torch.zeros(1)}, shard)
    weights = reader(sharded)
    take_all(weights, tiny_llama)
    with pytest.raises(ModelLoadError, match=re.escape(f"'extra' in {shard}")):
        weights.finish()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_quantised_tensors_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(4, 4).to(dtype)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"model\.safetensors: tensor 'w' is .*F32.*not quantised"):
        reader(tmp_path).take("w", 4, 4)


def cut_short(directory: Path) -> str:
    file = sorted(directory.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-100])
    return f"{file} .*not a whole safetensors file .*download it again"


def cut_in_the_header(directory: Path) -> str:
    file = sorted(directory.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:20])
    return f"{file} .*not a whole safetensors file"


def emptied(directory: Path) -> str:
    file = sorted(directory.glob("*.safetensors"))[0]
    file.write_bytes(b"")
    return f"{file} .*not a whole safetensors file"


def garbage(directory: Path) -> str:
    file = sorted(directory.glob("*.safetensors"))[0]
    file.write_bytes(b"<html>" * 100)
    return f"{file} .*not a whole safetensors file"


def shard_gone(directory: Path) -> str:
    file = sorted(directory.glob("*.safetensors"))[0]
    file.unlink()
    return f"{file}: missing"


def index_is_no_json(directory: Path) -> str:
    (directory / INDEX).write_text("{")
    return f"{directory / INDEX}: not a safetensors index"


def index_without_map(directory: Path) -> str:
    (directory / INDEX).write_text("{}")
    return f"{directory / INDEX}: not a safetensors index"


def index_names_an_absent_tensor(directory: Path) -> str:
    index = json.loads((directory / INDEX).read_text())
    shard = index["weight_map"][NORM]
    index["weight_map"]["model.absent"] = shard
    (directory / INDEX).write_text(json.dumps(index))
    return f"{directory / shard}: no tensor 'model.absent', which {INDEX} says is there"


def index_points_elsewhere(directory: Path) -> str:
    (directory / INDEX).write_text(json.dumps({"weight_map": {NORM: "../other.safetensors"}}))
    return f"{directory / INDEX}: not a safetensors index .*other.safetensors"


BREAKS = [cut_short, cut_in_the_header, emptied, garbage, shard_gone, index_is_no_json, index_without_map]
BREAKS += [index_names_an_absent_tensor, index_points_elsewhere]


@pytest.mark.parametrize("breaks", BREAKS, ids=lambda breaks: breaks.__name__)
def test_broken_checkpoints_are_named(breaks: Callable[[Path], str], sharded: Path) -> None:
    expected = breaks(sharded)
    with pytest.raises(ModelLoadError, match=expected):
        reader(sharded)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"has neither model\.safetensors nor"):
        reader(tmp_path)


def test_loading_logs_its_rate_where_nobody_watches(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mii"), loading_progress(3_000_000_000) as on_bytes:
        on_bytes(1_000_000_000)
        on_bytes(2_000_000_000)
    assert re.search(r"loading weights: 3\.00 GB in \d+\.\d s \(\d+\.\d\d GB/s\)", caplog.text)


def test_loading_draws_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with loading_progress(2000) as on_bytes:
        on_bytes(2000)
    assert re.search(r"loading weights.*2\.0/2\.0", capsys.readouterr().err)


def test_random_weights_repeat_in_any_order() -> None:
    first, second = (RandomWeights(dtype=torch.bfloat16, device="cpu", seed=3) for _ in range(2))
    query = first.take("q.weight", 64, 32)
    key = first.take("k.weight", 64, 32)
    assert torch.equal(second.take("k.weight", 64, 32), key)
    assert torch.equal(second.take("q.weight", 64, 32), query)
    assert not torch.equal(query, key)
    assert not torch.equal(
        RandomWeights(dtype=torch.bfloat16, device="cpu", seed=4).take("q.weight", 64, 32), query
    )
    assert query.dtype is torch.bfloat16
    first.finish()


def test_random_weights_are_of_a_model_that_can_compute() -> None:
    weights = RandomWeights(dtype=torch.float32, device="cpu")
    linear = weights.take("model.layers.0.mlp.up_proj.weight", 512, 256)
    assert abs(linear.mean()) < 1e-3
    assert 0.019 < linear.std() < 0.021
    assert torch.equal(weights.take("model.layers.0.input_layernorm.weight", 64), torch.ones(64))
    assert weights.take("model.layers.0.input_layernorm.bias", 64).abs().max() < 0.2
    assert not weights.has("lm_head.weight")  # tied models draw no second head
