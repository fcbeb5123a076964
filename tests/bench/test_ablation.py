"""The rows of benchmarks/ablation.py, without the runs."""

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from mii.config import EngineConfig
from mii_kernels import cuda

from .test_benchmarks import BENCHMARKS

CONFIG = EngineConfig(model="m", overlap=True)
WHOLE = {"seconds": 6.0, "stream": {"seconds": 0.5, "itl_p50": 0.005}}


@pytest.fixture(scope="module")
def ablation() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("ablation")


def made(ablation: ModuleType, config: EngineConfig = CONFIG, **probe: Any) -> Any:
    found = {"cuda_graphs": True, "kernels": ("linear", "greedy")} | probe
    return ablation.variants(config, ablation.Probe(**found))


def test_each_part_is_left_out_once_and_all_kernels_at_last(ablation: ModuleType) -> None:
    variants = made(ablation)
    names = [None, "cuda_graphs", "overlap", "linear", "greedy", "kernels"]
    assert [variant.off for variant in variants] == names
    assert [variant.without for variant in variants] == [(), (), (), ("linear",), ("greedy",), cuda.NAMES]
    switched_off = [v.off for v in variants if not (v.config.cuda_graphs and v.config.overlap)]
    assert switched_off == ["cuda_graphs", "overlap"]


def test_what_is_off_anyway_is_not_left_out(ablation: ModuleType) -> None:
    config = EngineConfig(model="m", overlap=False)
    assert [variant.off for variant in made(ablation, config, cuda_graphs=False, kernels=())] == [None]


def test_a_choice_of_rows_keeps_what_they_are_compared_with(ablation: ModuleType) -> None:
    variants = made(ablation)
    assert [variant.off for variant in ablation.chosen(variants, ["greedy"])] == [None, "greedy"]
    assert ablation.chosen(variants, None) == variants
    with pytest.raises(
        SystemExit, match="--only norm: what can be left out here is cuda_graphs, overlap, lin"
    ):
        ablation.chosen(variants, ["norm", "greedy"])


def test_what_was_broken_off_is_slower_than_a_bound(ablation: ModuleType) -> None:
    limits = ablation.limits_of(WHOLE, 4.0)
    assert (limits.stream, limits.requests) == (2, 24)
    row = {"stream": {"seconds": 1.0, "itl_p50": 0.01}, "cut_after": limits.requests}
    found = ablation.ratios(row, WHOLE)
    assert (found["of_all_below"], found["stream"]["of_all"]) == (0.25, 0.5)
    assert "of_all" not in found


def test_engines_are_compared_up_to_the_first_other_token(ablation: ModuleType) -> None:
    agreement = importlib.import_module("ablation_engines").agreement
    found = agreement([[1, 2], [3, 4]], [[1, 5], [6, 4]])
    assert found == {"same_first": 0.5, "same_tokens": 0.25}
