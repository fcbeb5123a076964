"""Tensor parallelism: what ranks agree on, what they hold of a model, and what happens when one is gone."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mii.config import EngineConfig
from mii.core import EngineRequest, SamplingParams
from mii.engine.device import choose_device
from mii.engine.engine import Engine
from mii.engine.leading import LeadingEngine, open_engine
from mii.engine.loading import find_model
from mii.errors import EngineDead, ModelLoadError
from mii.models.shard import Shard

pytestmark = pytest.mark.timeout(120)

LLAMA: dict[str, Any] = {
    "vocab_size": 500,  # no multiple of what a rank's share is rounded to
    "hidden_size": 64,
    "intermediate_size": 130,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
GREEDY = SamplingParams(max_tokens=24, temperature=0.0)
PREFIX = [3 + index % 400 for index in range(140)]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(transformers.LlamaConfig(**LLAMA))


@pytest.fixture
def leading(model: Path) -> Iterator[LeadingEngine]:
    """Two ranks, the other one in a process of its own."""
    threads = torch.get_num_threads()
    engine = open_engine(config(model, 2))
    assert isinstance(engine, LeadingEngine)
    yield engine
    engine.close()
    torch.set_num_threads(threads)


def step_for_ever(engine: Engine) -> None:
    while True:
        engine.step()


def config(model: Path, ranks: int, **changes: Any) -> EngineConfig:
    return EngineConfig(model=str(model), device="cpu", tensor_parallel=ranks, kv_blocks=32, **changes)


def test_ranks_are_processes_that_end_with_their_engine(
    leading: LeadingEngine, model: Path, run: Any, truth: Callable[[Path], Any]
) -> None:
    """Its second rank has heard of an abort, and finds what the first request left in the prefix cache."""
    prompts = [[*PREFIX, 7], [*PREFIX, 8, 9]]
    leading.add(EngineRequest("left", PREFIX, GREEDY))
    leading.step()
    leading.abort("left")
    for prompt in prompts:
        (ran,) = run(leading, [(prompt, GREEDY)])
        assert ran.token_ids == truth(model)(prompt, GREEDY.max_tokens)
        assert ran.cached_tokens == 128
    assert (leading.info.tensor_parallel, leading.info.kv_blocks) == (2, 32)
    (pid,) = leading.followers.pids
    directory = leading.followers.directory
    assert psutil.pid_exists(pid)
    assert directory.exists()
    leading.close()
    assert not psutil.pid_exists(pid)
    assert not directory.exists()


def test_a_lost_rank_is_named_at_once(leading: LeadingEngine) -> None:
    leading.add(EngineRequest("a", PREFIX, GREEDY))
    leading.step()
    (pid,) = leading.followers.pids
    psutil.Process(pid).kill()
    killed = time.monotonic()
    with pytest.raises(EngineDead, match=r"^rank 1 of 2 was killed by SIGKILL$"):
        step_for_ever(leading)
    assert time.monotonic() - killed < 2
    with pytest.raises(EngineDead, match="rank 1 of 2"):
        leading.step()


def test_a_rank_that_fails_gives_its_reason(leading: LeadingEngine) -> None:
    """It is told of a request that it refuses, which rank 0 has not even seen."""
    leading.add(EngineRequest("a", PREFIX, GREEDY))
    leading._news.append(EngineRequest("empty", [], GREEDY))
    with pytest.raises(EngineDead, match=r"rank 1 of 2: the prompt has no tokens"):
        step_for_ever(leading)


def test_a_missing_tensor_is_named_once(model: Path, tmp_path: Path, capfd: Any) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    tensors = load_file(model / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    before = {child.pid for child in psutil.Process().children()}
    threads = torch.get_num_threads()
    with pytest.raises(ModelLoadError) as caught:
        open_engine(config(tmp_path, 2))
    torch.set_num_threads(threads)
    assert f"{caught.value}{capfd.readouterr()}".count(repr(name)) == 1
    assert {child.pid for child in psutil.Process().children()} <= before


@pytest.mark.parametrize("overlap", [False, True])
def test_ranks_draw_and_score_alike_and_as_one(
    model: Path, in_ranks: Any, make_engine: Any, run: Any, overlap: bool
) -> None:
    """Every rank sees the same bits; how sums are split may change a logit's last ones."""
    requests = [
        (
            PREFIX[: 3 + 20 * index],
            SamplingParams(
                max_tokens=20, temperature=0.8, top_p=0.9, seed=index, logprobs=3, prompt_logprobs=1
            ),
        )
        for index in range(6)
    ]

    def work(engine: Engine) -> list[Any]:
        return [(it.token_ids, [out.logprobs for out in it.outputs]) for it in run(engine, requests)]

    settings = {"token_budget": 40, "kv_blocks": 32, "overlap": overlap}
    first, second = in_ranks(2, model, work, **settings)
    assert first == second
    alone = work(make_engine(model, **settings))
    assert [tokens for tokens, _ in first] == [tokens for tokens, _ in alone]


@pytest.mark.parametrize(("ranks", "part"), [(2, 16), (4, 8)])
def test_a_rank_holds_its_part_of_the_weights_and_of_the_cache(
    model: Path, in_ranks: Any, ranks: int, part: int
) -> None:
    def sizes(engine: Engine) -> tuple[Any, ...]:
        decoder, (keys, _) = engine.runner.decoder, engine.runner.cache[0]
        attention, mlp = decoder.blocks[0].attention, decoder.blocks[0].mlp
        rows = (decoder.embedding.weight.shape[0], decoder.head.weight.shape[0])
        return rows, attention.num_heads, keys.shape[1], mlp.down.weight.shape[1], engine.info.kv_blocks

    held = in_ranks(ranks, model, sizes, prepack_weights=False, kv_blocks=9)
    rows = {2: 256, 4: 128}[ranks]  # 500 rounded up to a multiple of 64 for each
    kv_heads = max(1, 2 // ranks)
    widths = [130 * (rank + 1) // ranks - 130 * rank // ranks for rank in range(ranks)]
    assert held == [((rows, rows), 4 // ranks, kv_heads, width, 9) for width in widths]


def test_the_cache_is_as_large_as_on_the_poorest_rank(
    model: Path, in_ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = iter((9, 7, 8, 11))
    monkeypatch.setattr("mii.engine.engine.num_kv_blocks", lambda *_: next(rooms))
    sizes = in_ranks(4, model, lambda engine: (engine.info.kv_blocks, engine.runner.cache[0][0].shape[0]))
    assert sizes == [(7, 7 + 1)] * 4  # and the block that padding writes into


def test_random_weights_are_those_of_one_rank(model: Path, in_ranks: Any, make_engine: Any, run: Any) -> None:
    def work(engine: Engine) -> list[list[int]]:
        return [it.token_ids for it in run(engine, [(PREFIX, GREEDY)])]

    options = {"random_weights": True, "kv_blocks": 9}
    alone = work(make_engine(model, **options))
    assert in_ranks(2, model, work, **options) == [alone, alone]


@pytest.mark.parametrize("ranks", [3, 8])
def test_heads_that_cannot_be_split_are_refused_before_anything_loads(model: Path, ranks: int) -> None:
    words = f"tensor_parallel {ranks} does not divide the model: it has 4 attention heads and 2 KV heads"
    with pytest.raises(ModelLoadError, match=re.escape(f"{words}; it can be one of 1, 2, 4")):
        find_model(config(model, ranks))


def test_each_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device("auto", Shard(rank, 2)) for rank in (0, 1)] == [
        torch.device("cuda", 0),
        torch.device("cuda", 1),
    ]
    with pytest.raises(ModelLoadError, match="tensor_parallel 4 needs 4 GPUs, torch sees 2"):
        choose_device("cuda", Shard(0, 4))
    with pytest.raises(ModelLoadError, match="'cuda:1' is one GPU, tensor_parallel 2 needs as many"):
        choose_device("cuda:1", Shard(0, 2))
    assert choose_device("cuda:1") == torch.device("cuda:1")
