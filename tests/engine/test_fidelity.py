"""SmolLM2 token for token as transformers generates it, whatever shares the batch with it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mii.core import SamplingParams
from mii.engine.engine import Engine
from mii.models.snapshot import fetch
from mii.models.tokenizer import load_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # transformers goes first, one prompt at a time

NEW_TOKENS = 24
TEXT = (
    "The history of bread begins long before the first ovens were built. People ground wild grains "
    "between stones, mixed the meal with water and baked it on hot rocks beside the fire. Later someone "
    "left the dough standing overnight, and in the morning it had risen. From then on bakers kept a piece "
    "of each dough for the next day. In the cities of Egypt bread was wages; in Rome it was politics. "
    "Mills moved from the courtyard to the river, and from the river to the hill where the wind blows. "
    "Every valley had a loaf of its own, and every loaf a name. When railways came, flour travelled "
    "further than any miller ever had, and the steel roller replaced the stone. Today a baker weighs, "
    "mixes and waits much as before, and the crust still sings when it leaves the oven and meets the cold "
    "air of the morning, "
)
PARIS = "What is the capital of France? Answer in one sentence."
LENGTHS = (1, 2, 17, 33, 63, 64, 65, 127, 128, 129, 150, 200)


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    return load_tokenizer(fetch(str(smollm2)))


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[list[int]]:
    """1 to 200 tokens, each from another place of the text."""
    token_ids = tokenizer.encode(TEXT * 2)
    return [token_ids[7 * index : 7 * index + length] for index, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def expected(smollm2: Path, prompts: list[list[int]], truth: Callable[[Path], Any]) -> list[list[int]]:
    return [truth(smollm2)(prompt, NEW_TOKENS) for prompt in prompts]


@pytest.fixture(scope="module")
def engine(smollm2: Path, make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(smollm2, token_budget=4096, kv_blocks=512)


def rebudget(engine: Engine, budget: int, *, blocks: int | None = None, overlap: bool = False) -> None:
    """The same loaded engine with another schedule."""
    from mii.engine.batch import BatchBuilder
    from mii.engine.block_manager import BlockManager
    from mii.engine.scheduler import Scheduler

    assert not engine.has_work()
    length = engine.info.max_model_len
    engine.overlap = overlap
    engine.scheduler = Scheduler(
        BlockManager(blocks or engine.info.kv_blocks),
        token_budget=budget,
        max_running=256,
        max_model_len=length,
    )
    engine.runner.builder = BatchBuilder(
        max_running=256, max_model_len=length, token_budget=budget, device=engine.runner.device
    )


def greedy(max_tokens: int = NEW_TOKENS, **changes: Any) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, **changes)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("budget", [16, 100, 512, 4096])
def test_mixed_prompts_at_any_budget(
    engine: Engine, run: Any, prompts: list[list[int]], expected: list[list[int]], budget: int, overlap: bool
) -> None:
    rebudget(engine, budget, overlap=overlap)
    ran = run(engine, [(prompt, greedy()) for prompt in prompts])
    assert [it.token_ids for it in ran] == expected


@pytest.mark.parametrize("overlap", [False, True])
def test_three_times_more_requests_than_the_cache_holds(
    engine: Engine, run: Any, prompts: list[list[int]], expected: list[list[int]], overlap: bool
) -> None:
    rebudget(engine, 256, blocks=8, overlap=overlap)
    needed = sum(-(-(len(prompt) + NEW_TOKENS) // 64) for prompt in prompts)
    assert needed > 3 * 8
    ran = run(engine, [(prompt, greedy()) for prompt in prompts])
    assert [it.token_ids for it in ran] == expected
    engine.scheduler.blocks.check([])


def test_preemption_happens_and_loses_nothing(
    engine: Engine, run: Any, truth: Callable[[Path], Any], smollm2: Path, prompts: list[list[int]]
) -> None:
    rebudget(engine, 256, blocks=8)
    chosen = [prompts[LENGTHS.index(length)] for length in (33, 63, 64, 65)]
    ran = run(engine, [(prompt, greedy(80)) for prompt in chosen])
    assert engine.scheduler.num_preemptions > 0
    assert [it.token_ids for it in ran] == [truth(smollm2)(prompt, 80) for prompt in chosen]


def test_shared_prefixes_are_hit_and_change_nothing(
    engine: Engine, run: Any, truth: Callable[[Path], Any], smollm2: Path, tokenizer: Any
) -> None:
    rebudget(engine, 512)
    prefix = tokenizer.encode(TEXT)[:140]
    prompts = [prefix + tokenizer.encode(tail) for tail in (" Yes", " And then", " In Paris", "")]
    expected = [truth(smollm2)(prompt, 16) for prompt in prompts]
    for attempt in range(2):
        ran = run(engine, [(prompt, greedy(16)) for prompt in prompts])
        assert [it.token_ids for it in ran] == expected
        hits = [it.cached_tokens for it in ran]
        assert hits == ([0, 128, 128, 128] if attempt == 0 else [128] * 4)


def test_an_answer_does_not_depend_on_its_neighbours(
    engine: Engine, run: Any, prompts: list[list[int]]
) -> None:
    rebudget(engine, 64)
    draw = random.Random(3)
    requests = [
        (prompt, SamplingParams(max_tokens=12, temperature=0.8, top_p=0.9, top_k=40, seed=index))
        for index, prompt in enumerate(prompts)
    ]
    together = [it.token_ids for it in run(engine, requests)]
    rebudget(engine, 512)
    order = draw.sample(range(len(requests)), len(requests))
    shuffled = [it.token_ids for it in run(engine, [requests[index] for index in order])]
    assert [shuffled[order.index(index)] for index in range(len(requests))] == together


def test_the_capital_of_france(engine: Engine, run: Any, tokenizer: Any) -> None:
    rebudget(engine, 256)
    text = tokenizer.apply_chat_template([{"role": "user", "content": PARIS}])
    prompt = tokenizer.encode(text, add_special_tokens=False)
    (ran,) = run(engine, [(prompt, greedy(40, eos_token_ids=tokenizer.eos_token_ids))])
    assert tokenizer.decode(ran.token_ids) == "The capital of France is Paris."
    assert ran.finish_reason == "stop"


def test_prompt_logprobs_equal_transformers(
    engine: Engine, run: Any, truth: Callable[[Path], Any], smollm2: Path, prompts: list[list[int]]
) -> None:
    import torch

    rebudget(engine, 48)
    prompt = prompts[LENGTHS.index(129)]
    with torch.inference_mode():
        logits = truth(smollm2).model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    for max_tokens in (0, 1):
        (ran,) = run(engine, [(prompt, greedy(max_tokens, prompt_logprobs=2, logprobs=2))])
        scores = ran.outputs[0].prompt_logprobs
        assert [score.token_id for score in scores] == prompt[1:]
        for index, score in enumerate(scores):
            assert score.logprob == pytest.approx(float(logits[index, prompt[index + 1]]), abs=2e-3)
            best = logits[index].topk(2)
            assert [token for token, _ in score.top] == best.indices.tolist()
        assert ran.finish_reason == "length"
        assert len(ran.token_ids) == max_tokens
