"""Every API against a server with a script: counts, times, failures."""

import asyncio
import time
from typing import Any

import pytest

from mii.bench.drivers import APIS, Target, open_endpoint
from mii.bench.load import run_level
from mii.bench.measure import Record, Summary, summarize
from mii.bench.workload import Job, jobs, ordinary_ids, parse_workload
from mii.openai_client import RequestFailed

STREAMING = [api for api in APIS if api != "mii"]


def target(server: Any, api: str, **options: Any) -> Target:
    return Target(url=server.grpc_address if api == "mii-grpc" else server.url, api=api, **options)


async def level(server: Any, api: str, *, clients: int = 2, requests: int = 6, **options: Any) -> Summary:
    vocabulary = ordinary_ids(1000) if api == "openai" else None
    async with open_endpoint(target(server, api, **options)) as endpoint:
        drawn = jobs(parse_workload("30/12", 0.0), seed="0", vocabulary=vocabulary)
        records = await run_level(endpoint.driver, drawn, clients=clients, requests=requests)
    return summarize(records, clients=clients)


@pytest.mark.parametrize("api", APIS)
async def test_counts_are_exact(server: Any, api: str) -> None:
    summary = await level(server, api)
    assert (summary.requests, summary.errors) == (6, 0)
    assert summary.prompt_tokens_mean == 30
    assert summary.new_tokens_mean == 12


@pytest.mark.parametrize("api", STREAMING)
async def test_times_are_the_scripted_ones(server: Any, script: Any, api: str) -> None:
    script.first_delay, script.gap = 0.15, 0.02
    summary = await level(server, api)
    assert summary.ttft_p50 == pytest.approx(0.15, abs=0.05)
    assert summary.itl_p50 == pytest.approx(0.02, abs=0.006)
    assert summary.latency_mean == pytest.approx(0.15 + 11 * 0.02, abs=0.08)
    assert summary.output_tokens_per_second == pytest.approx(2 * 12 / 0.37, rel=0.25)


async def test_several_tokens_in_a_chunk(server: Any, script: Any) -> None:
    script.gap, script.tokens_per_chunk = 0.06, 3
    summary = await level(server, "openai")
    assert summary.new_tokens_mean == 12
    assert summary.itl_p50 == pytest.approx(
        0.06 * 3 / 11, abs=0.005
    )  # 3 gaps between chunks, 11 between tokens


async def test_whole_answers_have_a_latency_and_no_token_times(server: Any, script: Any) -> None:
    script.first_delay = 0.1
    summary = await level(server, "mii")
    assert summary.latency_mean == pytest.approx(0.1, abs=0.05)
    assert summary.ttft_p50 is None
    assert summary.itl_p50 is None


@pytest.mark.parametrize("api", APIS)
async def test_errors_are_counted_with_the_servers_words(server: Any, script: Any, api: str) -> None:
    script.fail = lambda index: index in (1, 4)
    summary = await level(server, api)
    assert (summary.requests, summary.errors) == (4, 2)
    assert summary.first_error is not None
    assert "scripted failure" in summary.first_error


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("break_off", True, "without"),
        ("finish_reason", "abort", "'abort'"),
        ("finish_reason", "error", "'error'"),
    ],
)
async def test_a_broken_answer_is_an_error(
    server: Any, script: Any, field: str, value: Any, words: str
) -> None:
    setattr(script, field, value)
    summary = await level(server, "openai", requests=1)
    assert summary.errors == 1
    assert summary.first_error is not None
    assert words in summary.first_error


async def test_clients_is_the_number_of_requests_in_flight(server: Any, script: Any) -> None:
    script.first_delay = 0.02
    await level(server, "openai", clients=5, requests=20)
    assert script.most_running == 5


async def test_the_body_asks_for_exact_lengths_and_greedy(server: Any, script: Any) -> None:
    await level(server, "openai", requests=1)
    body = script.requests[0]
    assert body["max_tokens"] == body["min_tokens"] == 12
    assert body["ignore_eos"] is True
    assert body["temperature"] == 0
    assert len(body["prompt"]) == 30


async def test_inexact_default_sampling_sends_only_what_any_server_knows(server: Any, script: Any) -> None:
    await level(server, "openai-chat", requests=1, greedy=False, exact=False)
    assert set(script.requests[0]) == {"model", "stream", "stream_options", "messages", "max_tokens"}


@pytest.mark.parametrize("api", ["mii", "mii-grpc"])
async def test_mii_options(server: Any, script: Any, api: str) -> None:
    await level(server, api, requests=1)
    expected = {"max_new_tokens": 12, "min_new_tokens": 12, "ignore_eos": True, "do_sample": False}
    assert expected.items() <= script.requests[0].items()


async def test_the_key_is_sent(server: Any, script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MII_API_KEY", "secret")
    await level(server, "openai", requests=1)
    assert script.headers[0]["Authorization"] == "Bearer secret"


async def test_duration_stops_starting_requests(server: Any, script: Any) -> None:
    script.first_delay = 0.05
    async with open_endpoint(target(server, "openai-chat")) as endpoint:
        drawn = jobs(parse_workload("5/2"), seed="0")
        records = await run_level(endpoint.driver, drawn, clients=2, duration=0.3)
    started = [record.started - records[0].started for record in records]
    assert max(started) < 0.4
    assert len(records) > 4


async def test_cancelling_leaves_no_request_open(server: Any, script: Any) -> None:
    script.endless, script.gap = True, 0.01
    async with open_endpoint(target(server, "openai-chat")) as endpoint:
        drawn = jobs(parse_workload("5/2"), seed="0")
        task = asyncio.create_task(run_level(endpoint.driver, drawn, clients=3, requests=3))
        await until(lambda: script.running == 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: script.running == 0)
    assert script.cancelled == 3


@pytest.mark.parametrize("api", APIS)
async def test_nothing_listens(api: str, unused_tcp_port: int) -> None:
    with pytest.raises(RequestFailed, match=rf"127.0.0.1:{unused_tcp_port}"):
        async with open_endpoint(Target(url=f"http://127.0.0.1:{unused_tcp_port}", api=api)):
            pass


async def test_timeout(server: Any, script: Any) -> None:
    script.first_delay = 5.0
    summary = await level(server, "openai", requests=1, timeout=0.2)
    assert summary.errors == 1
    assert "in time" in str(summary.first_error)


async def test_the_client_is_light(server: Any, script: Any) -> None:
    """64 streams at 50 tokens/s are 3200 chunks/s: 60 % of a core leaves 187 µs a chunk.

    Here client and server share a process, so this bounds both together.
    """
    async with open_endpoint(target(server, "openai-chat")) as endpoint:
        before = time.process_time()
        record = Record(started=0.0)
        await endpoint.driver.send(Job("hello", 1, 4000), record)
        used = time.process_time() - before
    assert record.new_tokens == 4000
    assert used / 4000 < 187e-6


async def until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the state of another's task
            await asyncio.sleep(0.005)
