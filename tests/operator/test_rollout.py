"""Surge where a spare fits, else one by one."""

import pytest

from mii_operator.manifests.rollout import strategy
from mii_spec.spec import Rollout

SURGE, REPLACE = (1, 0), (0, 1)


@pytest.mark.parametrize(
    ("wanted", "gpus", "free", "expected"),
    [
        ("auto", 0, None, SURGE),
        ("auto", 0, 0, SURGE),
        ("auto", 2, 2, SURGE),
        ("auto", 2, 1, REPLACE),
        ("auto", 2, None, REPLACE),
        ("surge", 2, 0, SURGE),
        ("replace", 0, 8, REPLACE),
    ],
)
def test_strategy(wanted, gpus, free, expected):
    rolling = strategy(Rollout(strategy=wanted), gpus=gpus, free_gpus=free)["rollingUpdate"]
    assert (rolling["maxSurge"], rolling["maxUnavailable"]) == expected
