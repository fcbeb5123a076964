"""Load in, replicas out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mii_operator import scaler
from mii_operator.autoscale import DOWN_WINDOW, Load, Sample, combine, desired, needed
from mii_spec.spec import Autoscaling

SCALING = Autoscaling(min=1, max=8, target_utilization=0.5)
TO_ZERO = Autoscaling.model_validate({"min": 0, "max": 4, "idleAfter": "10m"})


def load(utilization=0.0, waiting=0, replicas=1, idle=0.0):
    return Load(waiting, utilization, replicas, idle)


@pytest.mark.parametrize(
    ("utilization", "waiting", "replicas", "current", "expected"),
    [
        (0.5, 0, 1, 1, 1),
        (0.54, 0, 1, 1, 1),  # within tolerance
        (0.6, 0, 1, 1, 2),
        (3.0, 0, 4, 4, 6),
        (0.2, 0, 4, 4, 1),
        (0.5, 3, 1, 1, 2),  # somebody waits
        (0.5, 3, 1, 2, 1),  # for the one that is starting
        (0.0, 0, 0, 0, 0),
        (0.0, 5, 0, 0, 1),
    ],
)
def test_needed(utilization, waiting, replicas, current, expected):
    assert needed(load(utilization, waiting, replicas), current, SCALING) == expected


def test_up_at_once_down_after_the_window():
    samples = [Sample(0, 4), Sample(10, 1)]
    assert desired([Sample(0, 1), Sample(1, 6)], load(3.0), 2, SCALING, 1) == 6
    assert desired(samples, load(0.1), 4, SCALING, 10) == 4
    assert desired([*samples, Sample(DOWN_WINDOW + 1, 1)], load(0.1), 4, SCALING, DOWN_WINDOW + 1) == 1


def test_the_last_one_goes_by_idleness_alone():
    samples = [Sample(DOWN_WINDOW * 2, 0)]
    now = DOWN_WINDOW * 2
    assert desired(samples, load(idle=599), 2, TO_ZERO, now) == 1
    assert desired(samples, load(idle=600), 2, TO_ZERO, now) == 0
    assert desired(samples, load(waiting=1, idle=600), 1, TO_ZERO, now) == 1
    assert desired(samples, load(idle=1e6), 1, SCALING, now) == 1


@given(
    st.lists(st.tuples(st.floats(0, 600), st.integers(0, 50))),
    st.floats(0, 50),
    st.integers(0, 10),
    st.integers(0, 8),
    st.sampled_from([SCALING, TO_ZERO]),
)
def test_never_out_of_bounds(past, utilization, waiting, current, scaling):
    samples = [Sample(at, count) for at, count in sorted(past)]
    wanted = desired(samples, load(utilization, waiting, current), current, scaling, 600)
    assert scaling.min <= wanted <= scaling.max


def test_gateways_add_up():
    one = {"waiting": 1, "idle_seconds": 5, "replicas": [{"utilization": 0.25}, {"utilization": 0.5}]}
    assert combine([one, {**one, "idle_seconds": 3}]) == Load(2, 1.5, 2, 3)


@pytest.mark.parametrize("said", [{}, {"waiting": None}, {"waiting": 0, "replicas": 1, "idle_seconds": 0}])
def test_nonsense_is_no_load(said):
    assert combine([said]) is None
    assert combine([]) is None


HPA = Autoscaling(by="hpa", min=2, max=8)


def server(replicas, *managers):
    fields = {"f:spec": {"f:replicas": {}}}
    owners = [{"manager": name, "operation": "Apply", "fieldsV1": fields} for name in managers]
    return {"metadata": {"managedFields": owners}, "spec": {"replicas": replicas}}


@pytest.mark.parametrize(
    ("replicas", "managers", "scaling", "taken"),
    [
        (3, ["mii-operator"], SCALING, True),  # the plan set them, and would reset them
        (3, ["mii-operator-autoscaler"], SCALING, False),
        (3, [], SCALING, True),
        (3, ["mii-operator"], HPA, True),
        (3, [], HPA, False),  # the HorizontalPodAutoscaler's own
        (0, ["mii-operator-autoscaler"], HPA, True),  # which starts none
    ],
)
def test_replicas_are_taken_over_before_a_plan_leaves_them_out(replicas, managers, scaling, taken):
    assert scaler.unowned(server(replicas, *managers), scaling) is taken
