"""Choosing a replica, as a table; and the arithmetic around it."""

from dataclasses import dataclass

import pytest

from mii_gateway.balance import PROMPT_TOKENS_PER_STREAM, choose, estimate_tokens
from mii_gateway.retry import RetryBudget, may_retry


@dataclass(frozen=True)
class Load:
    name: str
    streams: int = 0
    prompt_tokens: int = 0


LONG = 4 * PROMPT_TOKENS_PER_STREAM


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        ([], None),
        ([Load("a", 99)], "a"),
        ([Load("a", 1), Load("b", 0)], "b"),
        ([Load("a", 0), Load("b", 1)], "a"),
        ([Load("a", 3), Load("b", 2), Load("c", 4)], "b"),
        ([Load("a", 1, LONG), Load("b", 3)], "b"),  # a long prompt weighs more than two streams
        ([Load("a", 1, LONG), Load("b", 9)], "a"),  # but not more than eight
    ],
)
def test_least_loaded(replicas, expected):
    chosen = choose(replicas, b"key")
    assert (chosen and chosen.name) == expected


def test_equal_keys_meet_the_same_replica_in_any_order():
    replicas = [Load(name) for name in "abcde"]
    for key in (b"", b"one", b"two"):
        assert choose(replicas, key) == choose(replicas[::-1], key)


def test_equals_share_the_keys():
    replicas = [Load(name) for name in "abcd"]
    chosen = [choose(replicas, str(key).encode()).name for key in range(1000)]
    assert all(200 < chosen.count(name) < 300 for name in "abcd")


def test_a_replica_that_leaves_moves_only_its_own_keys():
    replicas = [Load(name) for name in "abcd"]
    for key in (str(number).encode() for number in range(100)):
        before = choose(replicas, key)
        if before.name != "d":
            assert choose(replicas[:3], key) == before


def test_only_the_least_loaded_break_ties():
    replicas = [Load("a", 1), Load("b", 1), Load("c", 2)]
    assert {choose(replicas, str(key).encode()).name for key in range(50)} == {"a", "b"}


def test_tokens_of_bytes():
    assert estimate_tokens(4096) == 1024


@pytest.mark.parametrize(
    ("failures", "allowed"),
    [
        (["connect"], True),
        (["connect"] * 7, True),
        (["connect"] * 8, False),
        (["broken"] * 2, True),
        (["broken"] * 3, False),
        (["broken", "refused", "broken", "connect"], True),
    ],
)
def test_may_retry(failures, allowed):
    assert may_retry(failures) is allowed


def test_retry_budget_refills_by_requests_and_by_time():
    now = 0.0
    budget = RetryBudget(reserve=2, clock=lambda: now)
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]
    for _ in range(5):
        budget.deposit()
    assert [budget.withdraw() for _ in range(2)] == [True, False]
    now = 0.1
    assert [budget.withdraw() for _ in range(2)] == [True, False]
    now = 1000.0
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]
