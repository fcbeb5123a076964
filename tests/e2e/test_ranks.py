"""`mii serve --tensor-parallel 2` on a tiny random model: who notices when a rank, or its server, is gone."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import transformers

pytestmark = pytest.mark.slow

LLAMA: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}


@pytest.fixture
def ranks(serve: Any, tiny_model: Any, smollm2: Path) -> Iterator[Any]:
    model = tiny_model(transformers.LlamaConfig(**LLAMA))
    sizes = ["--max-model-len=8192", "--kv-blocks=512"]
    with serve(model, f"--tokenizer={smollm2}", "--tensor-parallel=2", *sizes) as serving:
        yield serving


@pytest.fixture
def rank_one(ranks: Any, children: Any) -> psutil.Process:
    (process,) = children(ranks.pid, "-m", "mii.engine.follower")
    return process


class Stream:
    """An answer that would take minutes: how many pieces there are, and the error that it ends with."""

    def __init__(self, http: Any, url: str) -> None:
        self.pieces, self.error = 0, ""
        self.end = asyncio.create_task(self._read(http, url))

    async def _read(self, http: Any, url: str) -> None:
        body = {"prompt": [5, 6, 7], "max_tokens": 8000, "ignore_eos": True, "stream": True}
        async with http.post(url + "/v1/completions", json=body) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    self.pieces += bool(event.get("choices"))
                    self.error = event.get("error", {}).get("message", "")


async def first_failure(get: Any, url: str) -> tuple[int, str]:
    """What liveness says once it is not well."""
    while (answer := await asyncio.to_thread(get, url + "/health/live"))[0] == 200:
        pass
    return answer


async def test_a_killed_rank_ends_every_request_and_the_server(
    ranks: Any, rank_one: psutil.Process, http: Any, eventually: Any, get: Any, lives: Any
) -> None:
    info = json.loads((await asyncio.to_thread(get, ranks.url + "/v1/info"))[1])
    assert (info["tensor_parallel"], info["kv_blocks"], info["device"]) == (2, 512, "cpu")
    engine = ranks.engine()
    streams = [Stream(http, ranks.url) for _ in range(4)]
    failing = asyncio.create_task(first_failure(get, ranks.url))
    await eventually(lambda: all(stream.pieces for stream in streams), "4 streams")
    rank_one.kill()
    killed = time.monotonic()
    await asyncio.gather(*(stream.end for stream in streams))
    assert time.monotonic() - killed < 2
    for stream in streams:
        assert "rank 1 of 2 was killed by SIGKILL" in stream.error
    status, text = await failing
    assert (status, "rank 1 of 2 was killed by SIGKILL" in text) == (503, True)
    assert await asyncio.to_thread(ranks.program.process.wait, 30) == 1
    assert not lives(engine)


@pytest.mark.parametrize("end", ["terminate", "kill"])
async def test_a_servers_end_leaves_no_rank(
    ranks: Any, rank_one: psutil.Process, end: str, eventually: Any, lives: Any
) -> None:
    engine = ranks.engine()
    getattr(ranks.program.process, end)()
    await eventually(lambda: not lives(engine) and not lives(rank_one), "the end of both ranks")
    assert await asyncio.to_thread(ranks.program.process.wait, 30) == (0 if end == "terminate" else -9)
