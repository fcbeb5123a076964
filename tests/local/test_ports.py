import socket

import pytest

from mii.errors import MIIError
from mii.local import ports


def test_free_ports_differ():
    assert len(set(ports.free(20))) == 20


def test_a_taken_port_is_refused_with_its_option():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MIIError, match=rf"127\.0\.0\.1:{port} .*choose another --grpc-port"):
            ports.require("127.0.0.1", {"--port": ports.free(1)[0], "--grpc-port": port})


def test_a_free_port_is_free_afterwards():
    [port] = ports.free(1)
    ports.require("127.0.0.1", {"--port": port})
    socket.create_server(("127.0.0.1", port)).close()


def test_the_same_port_twice_is_refused():
    [port] = ports.free(1)
    with pytest.raises(MIIError, match="choose another --grpc-port"):
        ports.require("127.0.0.1", {"--port": port, "--grpc-port": port})


@pytest.mark.parametrize("port", [-1, 0, 65536, 99999])
def test_what_is_no_port_is_refused(port):
    with pytest.raises(MIIError, match=f"--port is {port}: a port is a number from 1 to 65535"):
        ports.require("127.0.0.1", {"--port": port})
