"""Replica addresses, and the table that they make."""

import pytest

from mii_gateway.app import check, discover
from mii_gateway.discovery import Address, parse_replica
from mii_gateway.replicas import ReplicaTable, State
from mii_gateway.work import Work
from mii_spec.launch import GatewayArgs

A, B = Address("a", 1, 2), Address("b", 1, 2)
WORK = Work.of(b"x" * 400)


@pytest.mark.parametrize(
    ("text", "address", "name"),
    [
        ("127.0.0.1:8001/50051", Address("127.0.0.1", 8001, 50051), "127.0.0.1:8001"),
        ("mistral-0.mistral:80/50050", Address("mistral-0.mistral", 80, 50050), "mistral-0.mistral:80"),
        ("[::1]:8001/50051", Address("::1", 8001, 50051), "[::1]:8001"),
    ],
)
def test_parse_replica(text, address, name):
    assert parse_replica(text) == address
    assert address.name == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "host", "host:80", "host:80/", "host:80/x", "host:x/1", ":80/1"),
        *("u@h:80/1", "h:80/1?q", "h:0/1", "h:80/65536", "h:80/1/2"),
    ],
)
def test_bad_replica_names_the_option_and_the_form(text):
    with pytest.raises(ValueError, match=r"--replica.*HTTP_HOST:PORT/GRPC_PORT"):
        parse_replica(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--replica: give at least one"),
        ({"replica": ("h:1/2",), "endpoints_service": "s"}, "--replica: .* not both"),
        ({"replica": ("h:1/2",), "namespace": "n"}, "--namespace: only with --endpoints-service"),
        ({"replica": ("h:1/2",), "idle_timeout": 0.0}, "--idle-timeout: must be more than 0"),
    ],
)
def test_check_refuses_what_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        check(GatewayArgs(deployment_name="demo", **options))


def test_who_is_there_comes_from_the_options():
    with pytest.raises(ValueError, match="--replica 'x'"):
        discover(GatewayArgs(deployment_name="demo", replica=("x",)), {})
    with pytest.raises(ValueError, match="--endpoints-service: KUBERNETES_SERVICE_HOST is not set"):
        discover(GatewayArgs(deployment_name="demo", endpoints_service="s"), {})


def ready_table(*addresses):
    table = ReplicaTable()
    table.update(frozenset(addresses))
    for replica in table.all():
        table.observe(replica, State.READY, replica.failures)
    return table


def test_a_new_replica_gets_nothing_until_it_is_ready():
    table = ReplicaTable()
    table.update(frozenset({A}))
    assert table.lease(WORK, ()) is None
    table.observe(table.all()[0], State.READY, 0)
    assert table.lease(WORK, ()).replica.name == "a:1"


def test_lease_counts_and_releases_once():
    [replica] = (table := ready_table(A)).all()
    lease = table.lease(WORK, ())
    assert (replica.streams, replica.prompt_tokens) == (1, 100)
    lease.first_byte()
    assert (replica.streams, replica.prompt_tokens) == (1, 0)
    lease.release()
    lease.release()
    assert (replica.streams, replica.prompt_tokens) == (0, 0)


def test_a_check_that_began_before_a_failure_does_not_undo_it():
    [replica] = (table := ready_table(A)).all()
    before = replica.failures
    table.failed(replica, State.DOWN)
    table.observe(replica, State.READY, before)
    assert replica.state is State.DOWN
    table.observe(replica, State.READY, replica.failures)
    assert replica.state is State.READY


def test_a_replica_that_came_back_may_be_tried_again():
    [replica] = (table := ready_table(A)).all()
    tried = [replica.identity]
    assert table.lease(WORK, tried) is None
    table.failed(replica, State.DOWN)
    table.observe(replica, State.READY, replica.failures)
    assert table.lease(WORK, tried) is not None


def test_a_replica_that_came_back_is_the_last_choice():
    replicas = (table := ready_table(A, B)).all()
    for tried, other in (replicas, replicas[::-1]):
        table.failed(tried, State.DOWN)
        table.observe(tried, State.READY, tried.failures)
        lease = table.lease(WORK, [(tried.name, tried.incarnation - 1)])
        assert lease.replica is other
        lease.release()


def test_update_keeps_who_stays_and_drops_who_leaves():
    table = ready_table(A, B)
    kept = next(replica for replica in table.all() if replica.address == A)
    lease = table.lease(WORK, [("b:1", 1)])
    table.update(frozenset({A, Address("c", 1, 2)}))
    assert [replica.name for replica in table.all()] == ["a:1", "c:1"]
    assert table.all()[0] is kept
    assert lease.replica is kept
    assert kept.streams == 1


def test_listeners_hear_every_change():
    table = ReplicaTable()
    seen = []
    table.subscribe(lambda: seen.append(table.count()[State.READY]))
    table.update(frozenset({A}))
    [replica] = table.all()
    table.observe(replica, State.READY, 0)
    table.observe(replica, State.READY, 0)
    table.failed(replica, State.DOWN)
    assert seen == [0, 1, 0]
