import pytest

from mii.engine.device import choose_device
from mii.errors import ModelLoadError


@pytest.mark.parametrize("name", ["tpu", "meta", "cpu:x", ""])
def test_a_device_that_is_none_is_named(name: str) -> None:
    with pytest.raises(ModelLoadError, match=f"device '{name}' is none of auto, cpu, cuda, cuda:N"):
        choose_device(name)
