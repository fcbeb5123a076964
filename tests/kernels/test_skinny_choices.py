"""What is decided on the host before a product for few tokens is launched."""

import pytest

from mii_kernels.cuda.skinny_gemm import block_rows, launcher, ring_bytes, tile_tokens, tiling

MISTRAL = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)]


def test_hopper_has_a_kernel_of_its_own() -> None:
    assert launcher(4096, (9, 0)) == "mii_skinny_wgmma"
    assert launcher(4096 + 32, (9, 0)) == "mii_skinny_gemm"
    assert launcher(4096, (8, 0)) == "mii_skinny_gemm"


@pytest.mark.parametrize("tokens", [1, 16])
@pytest.mark.parametrize(("n", "k"), MISTRAL)
def test_few_tokens_need_no_splits(tokens: int, n: int, k: int) -> None:
    """Tiles are as high as gives all multiprocessors the same work."""
    rows, splits = tiling(tokens, n, k, 132)
    tiles = -(-n // rows)
    assert splits == 1
    assert tiles / (-(-tiles // 132) * 132) > 0.96


@pytest.mark.parametrize("n", [14336, 22016, 28672, 57344])
def test_many_tokens_need_high_tiles_of_weights_that_have_many(n: int) -> None:
    """28672 x 4096 by 64 tokens on an H100: 85.2 us in tiles of 112 rows, 88.6 of 56, 92.3 of 40."""
    rows, splits = tiling(64, n, 4096, 132)
    assert rows >= 96
    assert splits == 1


@pytest.mark.parametrize(("n", "k"), [(6144, 4096), (4096, 4096), (4096, 14336)])
def test_all_multiprocessors_count_where_tiles_are_few(n: int, k: int) -> None:
    """4096 x 14336 by 64 tokens on an H100: 45.1 us in tiles of 32 rows, 46.9 of 64 rows split in two, 52.2
    of 128, 49.6 of those split in three."""
    rows, splits = tiling(64, n, k, 132)
    assert rows <= 48
    assert splits == 1


def test_small_weights_are_split() -> None:
    rows, splits = tiling(1, 1024, 4096, 132)
    assert splits > 1
    assert 64 <= 1024 // rows * splits <= 132


def test_what_splits_spare_is_weighed_against_their_sums() -> None:
    """512 x 4096 on an H100, by 8 tokens: 4.4 us in tiles of 32 rows split in three, 7.1 of one piece; by 64:
    7.5 and 8.4, and 11.4 split in eight. 576 x 1536 by 64: 4.4 of one piece, 6.4 split in three."""
    assert tiling(8, 512, 4096, 132).splits in (3, 4, 6)
    assert tiling(64, 512, 4096, 132).splits == 3
    assert tiling(64, 576, 1536, 132).splits == 1


@pytest.mark.parametrize("tokens", [1, 8, 9, 16, 17, 32, 33, 64])
@pytest.mark.parametrize(("n", "k"), [*MISTRAL, (1, 64), (64, 128), (128256, 4096), (1024, 1024)])
def test_every_tiling_can_be_launched(tokens: int, n: int, k: int) -> None:
    rows, splits = tiling(tokens, n, k, 132)
    columns = tile_tokens(tokens)
    step = 64 if rows > 64 else 128
    assert rows % (16 if rows > 64 else 8) == 0
    assert rows <= (128 if tokens > 32 else 64)
    assert splits <= -(-k // step)
    assert splits == 1 or -(-n // rows) <= 128
    assert ring_bytes(tokens) // ((rows + columns) * step * 2) >= 3


def test_blocks_of_the_general_kernel_are_large_where_tokens_are_many_and_rows_enough() -> None:
    assert block_rows(1, 28672, 132) == 32
    assert block_rows(64, 28672, 132) == 128
    assert block_rows(64, 4096, 132) == 32
    assert block_rows(1, 1024, 132) == 16
