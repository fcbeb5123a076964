"""What is decided on the host before an attention kernel is launched."""

from types import SimpleNamespace
from typing import Any

import pytest

from mii_kernels.cuda.attention_plan import (
    MAX_SPLITS,
    SPLIT_TILES,
    decode_splits,
    decode_us,
    prefill_launcher,
    prefill_tiles,
    prefill_us,
    prompt_multiprocessors,
)


def splits(decodes: int, tokens: int, head_tiles: int = 8) -> int:
    return decode_splits([tokens] * decodes, head_tiles, 132)


@pytest.mark.parametrize("tokens", [300, 1200, 2600])
@pytest.mark.parametrize("decodes", [32, 64, 256])
def test_contexts_of_many_decodes_are_whole(decodes: int, tokens: int) -> None:
    assert splits(decodes, tokens) == 1


def test_splits_keep_the_gpu_busy() -> None:
    assert splits(8, 2600) == 2  # 64 blocks would leave half of the multiprocessors idle
    assert splits(1, 1200) == 19  # a tile each
    assert 8 <= splits(1, 2600) <= 16
    assert splits(1, 64, head_tiles=1) == 1
    assert splits(1, 131072, head_tiles=1) == MAX_SPLITS
    assert splits(4096, 131072, head_tiles=1) == 1
    assert splits(8, 32768, head_tiles=1) > 8


def test_one_long_context_among_short_ones_is_split() -> None:
    assert 4 <= decode_splits([100] * 63 + [32768], 8, 132) <= 16


def test_no_more_blocks_meet_than_there_are_counters() -> None:
    assert decode_splits([1] * (SPLIT_TILES - 1) + [131072], 1, 132) > 1
    assert decode_splits([1] * SPLIT_TILES + [131072], 1, 132) == 1


def test_no_context_at_all() -> None:
    assert decode_splits([0, 0], 8, 132) == 1


def test_tiles_of_chunks() -> None:
    assert prefill_tiles([1, 128, 129, 0], 128) == 4
    assert prefill_tiles([1, 128, 129, 0], 256) == 6


def test_hopper_has_a_kernel_of_its_own() -> None:
    own, general = "mii_attention_prefill_wgmma", "mii_attention_prefill"
    assert prefill_launcher(128, query_address=1024, query_stride=6144, capability=(9, 0)) == own
    assert prefill_launcher(256, query_address=1024, query_stride=6144, capability=(9, 0)) == general
    assert prefill_launcher(128, query_address=1028, query_stride=6144, capability=(9, 0)) == general
    assert prefill_launcher(128, query_address=1024, query_stride=6142, capability=(9, 0)) == general
    assert prefill_launcher(128, query_address=1024, query_stride=6144, capability=(8, 6)) == general


def test_decodes_beside_prompts_are_done_with_them() -> None:
    """Each by its own share: prompts of the tensor cores, decodes of what keeps memory busy, 53 here."""
    for reading, computing in ((40.0, 250.0), (240.0, 250.0), (100.0, 2000.0)):
        prompts = prompt_multiprocessors(reading, computing, 132)
        decodes = 132 - prompts
        assert decodes < 53
        assert reading * 53 / decodes == pytest.approx(computing * 132 / prompts, rel=0.2)


def test_decodes_take_no_more_than_keeps_memory_busy() -> None:
    assert prompt_multiprocessors(900.0, 50.0, 132) == 79
    assert prompt_multiprocessors(900.0, 50.0, 2) == 1


def test_nothing_short_runs_beside() -> None:
    assert prompt_multiprocessors(5.0, 2000.0, 132) == 0
    assert prompt_multiprocessors(2000.0, 5.0, 132) == 0


def test_one_multiprocessor_is_not_shared() -> None:
    assert prompt_multiprocessors(50.0, 50.0, 1) == 0


def batch(decodes: int, prompts: int, length: int, context: int) -> Any:
    return SimpleNamespace(
        num_decodes=decodes,
        query_lens=[1] * decodes + [length] * prompts,
        context_lens_host=[context] * (decodes + prompts),
    )


def test_times_are_those_of_an_h100() -> None:
    """As benchmarks/kernels.py --op paged_attention gives them, within a tenth."""
    assert decode_us(batch(64, 3, 2600, 2600), 8, 128, None) == pytest.approx(238, rel=0.1)
    assert prefill_us(batch(64, 4, 2048, 2048), 32, 128, None) == pytest.approx(280, rel=0.1)
    assert prefill_us(batch(0, 1, 2600, 2600), 32, 128, None) == pytest.approx(112, rel=0.1)


def test_times_follow_what_is_seen() -> None:
    whole = batch(8, 2, 512, 4096)
    assert decode_us(whole, 8, 128, 1024) == decode_us(whole, 8, 128, None) / 4
    assert prefill_us(whole, 32, 128, 1024) < prefill_us(whole, 32, 128, None) / 3
    assert prefill_us(whole, 32, 128, None) > prefill_us(batch(8, 2, 512, 512), 32, 128, None) * 10
    assert (
        decode_us(batch(0, 2, 512, 512), 8, 128, None) == prefill_us(batch(8, 0, 0, 64), 32, 128, None) == 0
    )
