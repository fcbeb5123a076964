"""What pods are in trouble with, in the words of those who know."""

from datetime import UTC, datetime, timedelta

import pytest

from mii_operator.pods import problem, unscheduled

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
STARTUP = timedelta(minutes=30)


def pod(**status):
    return {"metadata": {"name": "p"}, "status": {"containerStatuses": [{"image": "i", **status}]}}


def ago(minutes):
    return (NOW - timedelta(minutes=minutes)).isoformat()


def ended(code, *, reason="Error", ran=1, message=""):
    return {
        "exitCode": code,
        "reason": reason,
        "startedAt": ago(ran),
        "finishedAt": ago(0),
        "message": message,
    }


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (
            {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such tag"}}},
            "ImagePullFailed",
            "no such tag",
        ),
        ({"state": {"waiting": {"reason": "ImagePullBackOff"}}}, "ImagePullFailed", "ImagePullBackOff"),
        (
            {
                "state": {
                    "waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}
                }
            },
            "ContainerNotCreated",
            'secret "x" not found',
        ),
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": ended(1, message="CUDA out of memory")},
                "restartCount": 4,
            },
            "CrashLooping",
            "CUDA out of memory, 4 restarts",
        ),
        (
            {
                "state": {"running": {"startedAt": ago(1)}},
                "lastState": {"terminated": ended(137, reason="OOMKilled", ran=31)},
                "restartCount": 1,
            },
            "CrashLooping",
            "OOMKilled",
        ),
        ({"state": {"running": {"startedAt": ago(31)}}, "started": False}, "StartupTimeout", "30 min"),
        (
            {
                "state": {"running": {"startedAt": ago(1)}},
                "lastState": {"terminated": ended(137, ran=31)},
                "restartCount": 1,
            },
            "StartupTimeout",
            "30 min",
        ),
    ],
)
def test_problems(status, reason, words):
    found = problem([pod(**status)], now=NOW, startup=STARTUP)
    assert found
    assert found.reason == reason
    assert words in found.message


@pytest.mark.parametrize(
    "status",
    [
        {"ready": True, "lastState": {"terminated": ended(1)}, "restartCount": 1},
        {"state": {"waiting": {"reason": "ContainerCreating"}}},
        {"state": {"running": {"startedAt": ago(29)}}, "started": False},
    ],
)
def test_no_problem_or_none_any_more(status):
    assert problem([pod(**status)], now=NOW, startup=STARTUP) is None


def test_the_schedulers_words():
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    waiting = {"metadata": {"name": "p"}, "status": {"conditions": [condition]}}
    assert unscheduled([pod(), waiting]) == "0/3 nodes are available"
    assert unscheduled([pod()]) is None
