"""What is decided on the host before an attention kernel is launched."""

from mii_kernels.cuda.attention import MAX_SPLITS, decode_splits, prefill_launcher, prefill_tiles


def test_splits_keep_the_gpu_busy() -> None:
    assert decode_splits(64, 8, 2600, 132) == 1  # 512 thread blocks
    assert decode_splits(8, 8, 2600, 132) > 1
    assert 8 < decode_splits(1, 8, 2600, 132) <= 41
    assert decode_splits(1, 1, 64, 132) == 1
    assert decode_splits(1, 1, 131072, 132) == MAX_SPLITS
    assert decode_splits(4096, 1, 131072, 132) <= 4


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
