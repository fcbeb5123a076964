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


@pytest.mark.parametrize(("n", "k"), MISTRAL)
def test_many_tokens_need_high_tiles(n: int, k: int) -> None:
    """L2, which has 1.8 times the memory's speed, is read less often than that."""
    rows, _ = tiling(64, n, k, 132)
    assert (rows + 64) / rows < 1.8


def test_small_weights_are_split() -> None:
    rows, splits = tiling(1, 1024, 4096, 132)
    assert splits > 1
    assert 64 < 1024 // rows * splits <= 132


def test_what_splits_spare_is_weighed_against_their_sums() -> None:
    """Fastest on an H100: 512 x 4096 by 8 tokens in 6 pieces (4.1 us, 7.1 in one), by 64 in 3 (7.5; 11.4
    in 8); 4096 x 4096 by 64 in one piece (15.1; 18.3 in 3)."""
    assert tiling(8, 512, 4096, 132).splits in (3, 4, 6)
    assert tiling(64, 512, 4096, 132).splits in (2, 3)
    assert tiling(64, 576, 1536, 132).splits == 1
    assert tiling(64, 4096, 4096, 132).splits == 1


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
