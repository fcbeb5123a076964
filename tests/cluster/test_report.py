"""From the objects of a deployment to what is said about it."""

from datetime import UTC, datetime

import pytest

from mii.cluster import pods, report
from mii.cluster.events import MOST
from mii.cluster.times import age
from mii_spec.reasons import MEANINGS

WAITING = {
    "Ready": ("False", "WaitingForGPU", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
    "Accepted": ("True", "Planned", "width 4 as asked for"),
    "Scheduled": ("False", "WaitingForGPU", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
    "GatewayReady": ("True", "GatewayReady", ""),
}
READY = dict.fromkeys(("Ready", "GatewayReady"), ("True", "Ready", "1 of 1 replicas are ready"))


@pytest.fixture
def explain(now):
    def explain(resource, children=(), events=()):
        return report.report(resource, children, events, now, kubectl="kubectl")

    return explain


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172800, "2d")],
)
def test_age(seconds, expected):
    assert age("1970-01-01T00:00:00Z", datetime.fromtimestamp(seconds, UTC)) == expected
    assert age(None, datetime.now(UTC)) == ""


def test_why_it_waits_and_what_to_do(explain, resource):
    made = explain(resource(WAITING, gpus=4))
    assert not made.summary.ready
    assert (made.verdict.reason, made.verdict.since) == ("WaitingForGPU", "5m")
    assert "Insufficient nvidia.com/gpu" in made.verdict.message
    assert (made.verdict.words, made.verdict.advice) == MEANINGS["WaitingForGPU"]
    assert [(c.type, c.status) for c in made.conditions] == [
        ("Accepted", "True"),
        ("Scheduled", "False"),
        ("GatewayReady", "True"),
    ]


def test_of_a_refusal_before_anything_exists_nothing_else_is_said(explain, resource, pod):
    refused = ("False", "InvalidSpec", "spec.gpus: …")
    found = resource({**WAITING, "Ready": refused, "Accepted": refused})
    assert [c.type for c in explain(found).conditions] == ["Accepted"]
    assert len(explain(found, [pod()]).conditions) == 3  # what an earlier manifest has left


def test_a_resource_that_no_operator_has_seen(explain, resource):
    made = explain(resource())
    assert (made.summary.ready, made.summary.reason) == (False, "Unobserved")
    assert "kubectl get deployment -A" in made.verdict.advice
    assert made.conditions == made.usage == []


def test_ready_counts_for_the_generation_that_it_is_about(explain, resource):
    assert explain(resource(READY)).summary.ready
    stale = resource(READY)
    stale["metadata"]["generation"] = 3
    assert explain(stale).summary.reason == "Outdated"
    going = resource(READY)
    going["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:10Z"
    assert (explain(going).summary.ready, explain(going).summary.reason) == (False, "Terminating")


def test_a_reason_of_a_newer_operator_keeps_its_message(explain, resource):
    made = explain(resource({"Ready": ("False", "Meteorite", "a hole in the roof")}))
    assert (made.verdict.words, made.verdict.message) == ("", "a hole in the roof")


@pytest.mark.parametrize(
    ("spec", "engine", "said"),
    [
        ({"gpus": 4}, {"tensorParallel": 4}, "4 GPUs each"),
        ({"gpus": "auto"}, {"tensorParallel": 1, "device": "NVIDIA H100"}, "1 GPU each"),
        ({"gpus": "auto"}, {"tensorParallel": 1}, None),  # planned: a GPU or the CPU
        ({"gpus": "auto"}, {"tensorParallel": 1, "device": "cpu"}, "on the CPU"),
        ({"gpus": 0}, {"tensorParallel": 1}, "on the CPU"),
        ({"revision": "v2"}, {}, "org/model at v2"),
        ({"autoscaling": {"min": 0, "max": 4}}, {}, "scaled between 0 and 4 by the operator"),
    ],
)
def test_what_it_is(explain, resource, spec, engine, said):
    found = resource(READY, **spec)
    found["status"]["engine"] = engine
    facts = explain(found).facts
    assert said in facts if said else len(facts) == 2


def test_a_metric_that_an_hpa_does_not_get_is_told(explain, resource):
    stuck = {"type": "ScalingActive", "status": "False", "message": "no metrics API"}
    hpa = {
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "m-server"},
        "status": {"conditions": [stuck]},
    }
    found = resource(READY, autoscaling={"by": "hpa", "min": 1, "max": 4})
    assert explain(found, [hpa]).facts[-1].endswith("by a HorizontalPodAutoscaler: no metrics API")


UNSCHEDULED = {"type": "PodScheduled", "status": "False", "message": "3 Insufficient nvidia.com/gpu"}
ENDED = {"exitCode": 137, "reason": "OOMKilled", "message": "the last line\n"}
PULL = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
LOOP = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}


@pytest.mark.parametrize(
    ("status", "state", "said"),
    [
        ({"conditions": [UNSCHEDULED]}, "Pending", "scheduler: 3 Insufficient nvidia.com/gpu"),
        ({"containerStatuses": [{"name": "server", "state": PULL}]}, "ImagePullBackOff", "kubelet: Back-off"),
        (
            {
                "containerStatuses": [
                    {"name": "server", "restartCount": 3, "state": LOOP, "lastState": {"terminated": ENDED}}
                ]
            },
            "CrashLoopBackOff",
            "server: OOMKilled (exit code 137): the last line",
        ),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, "Evicted", "kubelet: low on"),
        ({"phase": "Running", "containerStatuses": [{"name": "server", "ready": True}]}, "Running", ""),
    ],
)
def test_the_last_words_about_a_pod(now, pod, status, state, said):
    line = pods.line(pod(**status), now)
    assert line.state == state
    assert line.said.startswith(said)
    assert bool(line.said) == bool(said)


def test_a_pod_on_its_way_out(now, pod):
    going = pod(phase="Running")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:10Z"
    assert pods.line(going, now).state == "Terminating"


def test_events_of_the_deployments_own_objects_the_newest_last(explain, resource, pod, event):
    events = [
        event("uid-m", "Second", lastTimestamp="2026-01-01T11:59:59Z", type="Warning", count=7),
        event("uid-m-server-x", "First", lastTimestamp=None, eventTime="2026-01-01T11:59:58.000001Z"),
        event("uid-other", "Other"),
    ]
    made = explain(resource(WAITING), [pod()], events)
    assert [(e.reason, e.age, e.kind, e.count) for e in made.events] == [
        ("First", "1s", "Normal", 1),
        ("Second", "1s", "Warning", 7),
    ]


def test_only_the_newest_events(explain, resource, event):
    many = [event("uid-m", f"E{n}", lastTimestamp=f"2026-01-01T11:00:{n:02}Z") for n in range(30)]
    assert [e.reason for e in explain(resource(READY), events=many).events] == [
        f"E{n}" for n in range(30 - MOST, 30)
    ]


def test_how_to_ask_it(explain, resource):
    plain = explain(resource(READY, servedName="it's"))
    assert plain.usage[0] == "kubectl -n prod port-forward service/m 8000:80 &"
    assert plain.usage[1].startswith("curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type")
    secrets = {"apiKeysSecretRef": {"name": "keys"}, "tlsSecretRef": {"name": "tls"}}
    guarded = explain(resource(READY, gateway=secrets)).usage
    assert "get secret keys" in guarded[1]
    assert guarded[2].startswith("curl -k https://127.0.0.1:8000/")
    assert '-H "authorization: Bearer $KEY"' in guarded[2]
