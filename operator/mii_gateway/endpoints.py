"""Which replicas an EndpointSlice (discovery.k8s.io/v1, v1beta1) or an Endpoints object names. Pure.

Only addresses that Kubernetes calls ready: a pod that terminates or fails its probe is not among them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mii_gateway.discovery import Address

HTTP, GRPC = "http", "grpc"  # what the Service calls its ports

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """A resource that tells where a Service's pods are."""

    path: str  # of the namespace's collection
    selector: Mapping[str, str]  # query parameters that leave only the Service's own
    read: Callable[[Object], list[Address]]


def sources(namespace: str, service: str) -> list[Source]:
    """Best first; an API server that lacks one answers 404."""
    slices = {"labelSelector": f"kubernetes.io/service-name={service}"}
    named = {"fieldSelector": f"metadata.name={service}"}
    path = f"namespaces/{namespace}"
    return [
        Source(f"/apis/discovery.k8s.io/v1/{path}/endpointslices", slices, read_slice),
        Source(f"/apis/discovery.k8s.io/v1beta1/{path}/endpointslices", slices, read_slice),
        Source(f"/api/v1/{path}/endpoints", named, read_endpoints),
    ]


def read_slice(slice_: Object) -> list[Address]:
    """Ready is what does not say otherwise, but never what ends (publishNotReadyAddresses calls it so)."""
    found = []
    for endpoint in slice_.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        if conditions.get("ready") is not False and not conditions.get("terminating"):
            found += _address(endpoint["addresses"][0], endpoint, slice_)
    return found


def read_endpoints(endpoints: Object) -> list[Address]:
    return [
        address
        for subset in endpoints.get("subsets") or ()
        for ready in subset.get("addresses") or ()
        for address in _address(ready["ip"], ready, subset)
    ]


def merge(addresses: Iterable[Address]) -> frozenset[Address]:
    """One address a pod, IPv4 before IPv6: a dual-stack Service has slices of both."""
    by_family = sorted(addresses, key=lambda address: (":" in address.host, address), reverse=True)
    return frozenset({address.pod or address.host: address for address in by_family}.values())


def _address(host: str, endpoint: Object, ports_of: Object) -> list[Address]:
    """Empty without both ports, by their names."""
    ports = {port.get("name"): port["port"] for port in ports_of.get("ports") or ()}
    if HTTP not in ports or GRPC not in ports:
        return []
    pod = (endpoint.get("targetRef") or {}).get("name", "")
    return [Address(host, ports[HTTP], ports[GRPC], pod)]
