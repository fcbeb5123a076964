"""Decodes padded to a frame, as a CUDA graph replays them; and on a GPU the graphs themselves."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from transformers import LlamaConfig

from mii.config import EngineConfig
from mii.core import EngineRequest, SamplingParams
from mii.engine.batch import Frame
from mii.engine.cuda_graph import can_capture, sizes
from mii.engine.engine import Engine
from mii.engine.loading import find_model, load_model
from mii_kernels import ops

CONFIG = LlamaConfig(
    vocab_size=300,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    max_position_embeddings=512,
)
PROMPTS = [[7 * i % 290 + j for j in range(length)] for i, length in enumerate((1, 5, 63, 64, 65, 130))]


@pytest.mark.parametrize("largest", [1, 2, 7, 8, 100, 256, 500])
def test_sizes_reach_the_largest_with_little_padding(largest: int) -> None:
    found = sizes(largest)
    assert found == sorted(set(found))
    assert found[-1] == largest
    assert all(b - a - 1 <= max(7, b / 5) for a, b in itertools.pairwise(found))


def test_a_gpu_that_goes_without_graphs_is_said(caplog: pytest.LogCaptureFixture) -> None:
    shape = torch.empty((1, 2, 64, 72), dtype=torch.float32)
    keys = Mock(spec=torch.Tensor, is_cuda=True, dtype=shape.dtype, shape=shape.shape)
    assert not can_capture([(keys, keys)])
    assert "attention over a float32 cache of 72 columns a head is PyTorch's" in caplog.text
    caplog.clear()
    assert not can_capture([(shape, shape)])
    assert not caplog.records, "on a CPU there are none"


def test_padding_changes_nothing(tiny_model: Callable[..., Path], make_engine: Any) -> None:
    """The logits of decodes in a frame are those of the same decodes alone."""
    engine = make_engine(tiny_model(CONFIG), kv_blocks=16, max_running=8, overlap=False)
    for index, prompt in enumerate(PROMPTS[:5]):
        engine.add(EngineRequest(str(index), prompt, SamplingParams(max_tokens=4, temperature=0.0)))
    engine.step()
    batch, runner = engine.scheduler.schedule(), engine.runner
    assert len(batch.decodes) == 5
    frame = Frame(8, runner.builder.max_blocks, torch.zeros(runner.builder.words, dtype=torch.int32))
    with torch.inference_mode():
        alone = logits(runner, runner.builder.build(batch))
        framed = logits(runner, runner.builder.build(batch, frame))
    assert len(framed) == 8
    torch.testing.assert_close(framed[:5], alone, rtol=1e-4, atol=1e-4)


def logits(runner: Any, step: Any) -> torch.Tensor:
    hidden = runner.decoder(runner._last_tokens[step.decode_rows], step.ragged, runner.cache)
    return runner.decoder.logits(hidden)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("overlap", [False, True])
def test_graphs_give_the_same_tokens(
    tiny_model: Callable[..., Path], make_engine: Any, run: Any, overlap: bool
) -> None:
    """Of decodes of many sizes, as sequences end one by one."""
    model = tiny_model(CONFIG)
    requests = [
        (prompt, SamplingParams(max_tokens=3 + 5 * i, temperature=0.0, ignore_eos=True))
        for i, prompt in enumerate(PROMPTS)
    ]
    found = [
        run(
            make_engine(
                model,
                device="cuda",
                dtype="float16",
                kernels="cuda",
                kv_blocks=64,
                max_running=8,
                overlap=overlap,
                cuda_graphs=graphs,
            ),
            requests,
        )
        for graphs in (False, True)
    ]
    assert [ran.token_ids for ran in found[0]] == [ran.token_ids for ran in found[1]]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "without", ["rms_norm", "rope_and_store_kv", "paged_attention", "gated_linear", "linear", "greedy"]
)
def test_an_operation_of_pytorchs_gives_the_same_tokens(
    tiny_model: Callable[..., Path], run: Any, without: str
) -> None:
    """In graphs, unless it is one that no graph holds. float16 rounds too little to change these tokens."""
    model = str(tiny_model(CONFIG))
    options: dict[str, Any] = {"dtype": "float16", "kernels": "cuda", "kv_blocks": 64, "max_running": 8}
    config = EngineConfig(model=model, device="cuda", **options)
    loaded = load_model(config, find_model(config))
    requests = [
        (prompt, SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)) for prompt in PROMPTS
    ]
    expected = run(Engine(config, loaded=loaded), requests)
    try:
        ops.use_kernels("cuda", without=(without,))
        engine = Engine(config, loaded=loaded)
        assert can_capture(engine.runner.cache) is (without != "paged_attention")
        got = run(engine, requests)
    finally:
        ops.use_kernels("cuda")
    assert [ran.token_ids for ran in got] == [ran.token_ids for ran in expected]
