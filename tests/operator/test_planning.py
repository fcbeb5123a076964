"""From a resource and what is observed to a verdict, a rollout and a status."""

from datetime import UTC, datetime

import pytest

from mii_operator import settle, status, verdict
from mii_operator.conditions import View
from mii_operator.facts import Images
from mii_operator.model_source import Found
from mii_operator.observe import Observed
from mii_operator.planning import decide, is_server
from mii_operator.store import ChildKey, Holding

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
IMAGES = Images(server="server", gateway="gateway")
UNREACHABLE = Found(reachable=False, problem="the hub does not answer")


def node(name="n1", gpus=8, gib=80):
    labels = {"nvidia.com/gpu.memory": str(gib * 1024)}
    allocatable = {"nvidia.com/gpu": str(gpus)}
    return {"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}}


def seen(*children, nodes=(), held=()):
    found = {ChildKey(c["kind"], c["metadata"]["name"]): c for c in children}
    return Observed(found, tuple(nodes), tuple(held))


@pytest.fixture
def decided(deployment, newest):
    def make(observed, model=UNREACHABLE, **spec):
        return decide(deployment(**spec), observed, model, IMAGES, newest)

    return make


def server_of(made):
    return next(filter(is_server, made.plan.children))


def rollout_of(made):
    rolling = server_of(made)["spec"]["strategy"]["rollingUpdate"]
    return rolling["maxSurge"], rolling["maxUnavailable"]


def live(server, **state):
    return {**server, "metadata": {**server["metadata"], "generation": 1}, "status": state}


def test_without_the_hub_an_explicit_width_goes_on(decided):
    made = decided(seen(nodes=[node()]), gpus=4)
    assert made.accepted
    assert made.plan.choice.gpus == 4


def test_without_the_hub_a_new_width_waits(decided):
    made = decided(seen(nodes=[node()]))
    assert (made.accepted, made.reason) == (None, "ModelUnreachable")
    assert "spec.gpus" in made.message
    assert decided(seen()).accepted  # without GPUs there is nothing to choose


@pytest.mark.parametrize("nodes", [[node()], []], ids=["hub gone", "nodes gone too"])
def test_a_width_that_runs_stays_though_its_facts_are_gone(decided, nodes):
    running = server_of(decided(seen(nodes=[node()]), gpus=4))
    assert decided(seen(running, nodes=nodes)).plan.choice.gpus == 4


def test_surge_where_a_spare_fits(decided):
    full = [Holding("n1", {"nvidia.com/gpu": 7})]
    assert rollout_of(decided(seen(nodes=[node()], held=full), gpus=2)) == (0, 1)
    assert rollout_of(decided(seen(nodes=[node(), node("n2")], held=full), gpus=2)) == (1, 0)
    assert rollout_of(decided(seen(nodes=[{**node(), "spec": {"unschedulable": True}}]), gpus=2)) == (0, 1)


def test_the_strategy_stays_until_the_next_rollout(decided):
    free, full = seen(nodes=[node()]), [Holding("n1", {"nvidia.com/gpu": 8})]
    running = live(server_of(decided(free, gpus=2)), observedGeneration=1, replicas=2, updatedReplicas=2)
    assert rollout_of(decided(seen(running, nodes=[node()], held=full), gpus=2)) == (1, 0)
    changed = decided(seen(running, nodes=[node()], held=full), gpus=2, engine={"maxModelLen": 64})
    assert rollout_of(changed) == (0, 1)


def test_a_spare_that_finds_no_node_is_given_up(decided):
    full = [Holding("n1", {"nvidia.com/gpu": 8})]
    server = server_of(decided(seen(nodes=[node()]), gpus=2))
    rolling = live(server, observedGeneration=1, replicas=3, updatedReplicas=1)
    labels = server["spec"]["template"]["metadata"]["labels"]
    words = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}
    metadata = {"name": "p", "labels": labels, "creationTimestamp": "2026"}
    spare = {"kind": "Pod", "metadata": metadata, "status": {"conditions": [words]}}
    assert rollout_of(decided(seen(rolling, nodes=[node()], held=full), gpus=2)) == (1, 0)
    assert rollout_of(decided(seen(rolling, spare, nodes=[node()], held=full), gpus=2)) == (0, 1)


def test_a_named_strategy_is_taken_as_it_is(decided):
    running = live(server_of(decided(seen(nodes=[node()]), gpus=2)), observedGeneration=1)
    made = decided(seen(running, nodes=[node()]), gpus=2, rollout={"strategy": "replace"})
    assert rollout_of(made) == (0, 1)


def test_rolling():
    state = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2}
    assert not settle.rolling({"metadata": {"generation": 1}, "status": state})
    assert settle.rolling({"metadata": {"generation": 2}, "status": state})
    assert settle.rolling({"metadata": {"generation": 1}, "status": {**state, "replicas": 3}})


def build(made, deployment, *children, old=None, now=NOW):
    resource = {"metadata": {"generation": 3}, "status": old or {}}
    view = View(made.deployment or deployment(), made, seen(*children), None, now)
    return status.build(resource, made, view, None, now)


def conditions(made):
    return {c["type"]: c for c in made["conditions"]}


def ready_children(made):
    count = {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
    return [live(c, **count) for c in made.plan.children if c["kind"] == "Deployment"]


def test_a_status_from_start_to_ready(decided, deployment):
    made = decided(seen(), gpus=0)
    first = build(made, deployment)
    assert conditions(first)["Ready"]["status"] == "False"
    later = datetime(2026, 1, 1, 13, tzinfo=UTC)
    done = build(made, deployment, *ready_children(made), old=first, now=later)
    assert {c["type"]: c["status"] for c in done["conditions"]} == {
        "Ready": "True",
        "Accepted": "True",
        "Available": "True",
        "Progressing": "True",
        "Scheduled": "Unknown",
        "GatewayReady": "True",
        "ModelCached": "True",
    }
    assert done["summary"] == "1/1"
    assert conditions(done)["Accepted"]["lastTransitionTime"] == "2026-01-01T12:00:00Z"
    assert conditions(done)["Ready"]["lastTransitionTime"] == "2026-01-01T13:00:00Z"
    assert not status.differs(done, build(made, deployment, *ready_children(made), old=done))


def test_a_refused_change_shows_what_still_runs(decided, deployment):
    running = ready_children(decided(seen(), gpus=0))
    refused = build(verdict.refuse("InvalidSpec", "spec.gpus: …"), deployment, *running)
    found = conditions(refused)
    assert (found["Ready"]["status"], found["Ready"]["reason"]) == ("False", "InvalidSpec")
    assert found["Available"]["status"] == "True"
    assert refused["summary"] == "1/1"


def test_a_refusal_before_anything_exists_is_no_progress(deployment):
    found = conditions(build(verdict.refuse("InvalidSpec", "spec.gpus: …"), deployment))
    assert (found["Progressing"]["status"], found["Progressing"]["reason"]) == ("False", "InvalidSpec")


def test_events_tell_of_changes_once(decided, deployment):
    made = decided(seen(), gpus=0)
    first = build(made, deployment)
    done = build(made, deployment, *ready_children(made), old=first)
    assert [t.reason for t in status.transitions(first, done)] == ["Ready"]
    assert status.transitions(done, done) == []
    refused = build(verdict.refuse("InvalidSpec", "why"), deployment, old=done)
    [event] = status.transitions(done, refused)
    assert (event.kind, event.reason, event.message) == ("Warning", "InvalidSpec", "why")
