"""What EndpointSlices and Endpoints say, as a table."""

import pytest

from mii_gateway.discovery import Address
from mii_gateway.endpoints import merge, read_endpoints, read_slice, sources

PORTS = [{"name": "grpc", "port": 50050}, {"name": "http", "port": 8000}]
A = Address("10.0.0.1", 8000, 50050, "pod-a")


def endpoint(conditions=None, host="10.0.0.1", pod="pod-a"):
    return {"addresses": [host], "conditions": conditions, "targetRef": {"kind": "Pod", "name": pod}}


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        (None, [A]),
        ({}, [A]),
        ({"ready": None}, [A]),
        ({"ready": True}, [A]),
        ({"ready": True, "serving": True, "terminating": False}, [A]),
        ({"ready": False}, []),
        ({"ready": False, "serving": True, "terminating": True}, []),
        ({"ready": True, "serving": True, "terminating": True}, []),  # publishNotReadyAddresses
    ],
    ids=str,
)
def test_only_ready_endpoints_that_stay(conditions, found):
    assert read_slice({"endpoints": [endpoint(conditions)], "ports": PORTS}) == found


@pytest.mark.parametrize("ports", [None, [], PORTS[:1], PORTS[1:], [{"port": 8000}]], ids=str)
def test_both_ports_are_needed_by_name(ports):
    assert read_slice({"endpoints": [endpoint()], "ports": ports}) == []


def test_an_empty_slice():
    assert read_slice({"endpoints": None, "ports": PORTS}) == read_slice({}) == []


def test_endpoints_name_ready_addresses_apart_from_others():
    subset = {
        "addresses": [{"ip": "10.0.0.1", "targetRef": {"name": "pod-a"}}, {"ip": "10.0.0.2"}],
        "notReadyAddresses": [{"ip": "10.0.0.3"}],
        "ports": PORTS,
    }
    assert read_endpoints({"subsets": [subset]}) == [A, Address("10.0.0.2", 8000, 50050)]
    assert read_endpoints({}) == []


def test_a_pod_has_one_address():
    six = Address("fd00::1", 8000, 50050, "pod-a")
    other = Address("10.0.0.2", 8000, 50050)
    assert merge([six, A, other, A]) == {A, other}
    assert merge([A, six]) == {A}
    assert merge([six]) == {six}


def test_sources_best_first():
    paths = [source.path for source in sources("prod", "mistral-server")]
    assert paths == [
        "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices",
        "/apis/discovery.k8s.io/v1beta1/namespaces/prod/endpointslices",
        "/api/v1/namespaces/prod/endpoints",
    ]
