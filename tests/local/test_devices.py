import pytest

from mii.errors import MIIError
from mii.local.devices import Gpu, map_gpus, select_gpus, share_gpus, usable_cores

LISTING = "0, GPU-aa, 81559\n1, GPU-bb, 81559\n2, GPU-cc, [N/A]\n"
GPUS = [Gpu("0"), Gpu("1"), Gpu("2"), Gpu("3")]


def names(env):
    return [one.get("CUDA_VISIBLE_DEVICES") for one in env]


def test_all_gpus_with_their_memory():
    assert select_gpus(None, LISTING) == [Gpu("0", 81559 * 2**20), Gpu("1", 81559 * 2**20), Gpu("2")]


@pytest.mark.parametrize(
    ("chosen", "selected"),
    [("1", ["1"]), ("GPU-bb, 0", ["GPU-bb", "0"]), ("", []), ("-1", []), ("MIG-x", ["MIG-x"])],
)
def test_cuda_visible_devices_is_respected(chosen, selected):
    assert [gpu.name for gpu in select_gpus(chosen, LISTING)] == selected


def test_a_chosen_uuid_has_its_memory():
    assert select_gpus("GPU-bb", LISTING) == [Gpu("GPU-bb", 81559 * 2**20)]


def test_no_driver_no_gpus():
    assert select_gpus(None, "") == []


def test_replicas_get_gpus_of_their_own():
    assert names(share_gpus(GPUS, replicas=2, per_replica=2)) == ["0,1", "2,3"]
    assert names(share_gpus(GPUS, replicas=2, per_replica=1)) == ["0", "1"]


def test_the_cpu_needs_no_environment():
    assert share_gpus([], replicas=2, per_replica=0) == [{}, {}]


def test_too_few_gpus_are_refused_with_the_count():
    with pytest.raises(
        MIIError, match=r"3 replica\(s\) of 2 GPU\(s\) need 6, but 4 are visible \(0, 1, 2, 3\)"
    ):
        share_gpus(GPUS, replicas=3, per_replica=2)


@pytest.mark.parametrize(
    ("device_map", "replicas", "expected"),
    [
        (1, 1, ["1"]),
        ([2, 0], 2, ["2", "0"]),
        ([[0, 1], [2, 3]], 2, ["0,1", "2,3"]),
        ({"localhost": [[3]]}, 1, ["3"]),
    ],
)
def test_device_maps(device_map, replicas, expected):
    assert names(map_gpus(device_map, GPUS, replicas=replicas)) == expected


def test_device_maps_count_the_visible_gpus():
    assert names(map_gpus([1], [Gpu("5"), Gpu("7")], replicas=1)) == ["7"]


@pytest.mark.parametrize(
    ("device_map", "replicas", "message"),
    [
        ([0], 2, r"GPUs to 1 replica\(s\), but replica_num is 2"),
        (4, 1, r"GPU 4, but 4 GPU\(s\) are visible"),
        ({"worker-1": [0]}, 1, "names worker-1: only localhost"),
        ({}, 1, "names no host"),
    ],
)
def test_device_maps_refused(device_map, replicas, message):
    with pytest.raises(MIIError, match=message):
        map_gpus(device_map, GPUS, replicas=replicas)


def test_there_is_a_core():
    assert usable_cores() >= 1
