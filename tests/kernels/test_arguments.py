"""How tensors get to a launcher, and on which device and stream."""

from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from mii_kernels.cuda.arguments import launch, served

HANDLES = {0: 700, 1: 701}


def test_arguments_are_pointers_codes_and_numbers() -> None:
    library, x = Mock(), torch.zeros(3)
    launch(library, "f", x, torch.nn.Parameter(x), None, 3, 0.5, True, torch.float16, on=x)
    library.call.assert_called_once_with("f", x.data_ptr(), x.data_ptr(), None, 3, 0.5, True, 2, 0)


@pytest.mark.parametrize(("current", "guarded"), [(1, []), (0, [1])])
def test_the_device_is_that_of_the_tensor(
    monkeypatch: pytest.MonkeyPatch, current: int, guarded: list[int]
) -> None:
    entered: list[int] = []

    @contextmanager
    def device(index: int) -> Any:
        entered.append(index)
        yield

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", HANDLES.get, raising=False)
    library = Mock()
    launch(library, "f", 5, on=Mock(is_cuda=True, get_device=lambda: 1))
    library.call.assert_called_once_with("f", 5, HANDLES[1])
    assert entered == guarded


def test_all_have_one_dtype_that_kernels_have() -> None:
    x = torch.zeros(2)
    assert served(x)
    assert served(x, None, x)
    assert not served(x, None, x.half())
    assert not served(x.double(), x.double())
