"""What routing by prefix buys, by the real servers' own counters."""

import itertools

import pytest

pytestmark = pytest.mark.slow

MODEL = "smollm2"
CONVERSATIONS = 5  # odd: with two replicas in turn, the turns of a conversation alternate
TURNS = 3
ACCOUNT = "On day {0} of journey {1} we walked past the mill, the old bridge and the orchard. " * 4


@pytest.fixture
async def hit_rate(deployment, http, eventually):
    """Holds the conversations at these URLs in turn; the share of prompt tokens that a cache had."""

    async def counted():
        metrics = [replica.metrics() for replica in deployment.replicas().values()]
        names = ("mii:prefix_cache_hits_total", "mii:prefix_cache_queries_total")
        return [sum(each[name] for each in metrics) for name in names]

    async def answer(url, messages, salt):
        body = {"model": MODEL, "messages": messages, "max_tokens": 4, "temperature": 0, "cache_salt": salt}
        async with http.post(f"{url}/v1/chat/completions", json=body) as response:
            assert response.status == 200
            return (await response.json())["choices"][0]["message"]

    async def measure(urls, salt):
        await eventually(
            lambda: all(replica.ready for replica in deployment.replicas().values()), "readiness"
        )
        url, before = itertools.cycle(urls), await counted()
        said = [[] for _ in range(CONVERSATIONS)]
        for turn, (number, messages) in itertools.product(range(TURNS), enumerate(said)):
            messages.append({"role": "user", "content": ACCOUNT.format(turn, number)})
            messages.append(await answer(next(url), messages, salt))
        hits, queries = (now - then for then, now in zip(before, await counted(), strict=True))
        return hits / queries

    return measure


async def test_conversations_hit_the_cache_twice_as_often_as_with_replicas_in_turn(deployment, hit_rate):
    in_turn = await hit_rate([replica.url for replica in deployment.replicas().values()], "in turn")
    affine = await hit_rate([deployment.url], "affine")
    print(f"hit rate {affine:.2f} by prefix, {in_turn:.2f} in turn")
    assert in_turn > 0  # the last turn finds what the first has left
    assert affine >= 2 * in_turn
