"""Which products of many tokens are ours."""

from mii_kernels.cuda import gemm


def test_where_tiles_of_ours_are_too_large() -> None:
    def choices(gated: bool) -> list[bool]:
        return [gemm.pays(tokens, 28672, 132, gated=gated) for tokens in (256, 512, 1024, 2600, 8192)]

    assert choices(gated=True) == [True, False, True, True, True]
    assert choices(gated=False) == [True, False, True, False, False]
    assert gemm.pays(8192, 4096, 132, gated=False)
    assert not gemm.pays(256, 4096, 132, gated=False)
