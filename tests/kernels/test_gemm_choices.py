"""Which products of many tokens are ours."""

from mii_kernels.cuda import gemm


def test_where_tiles_of_ours_are_too_large() -> None:
    def choices(spared: float) -> list[bool]:
        return [gemm.pays(tokens, 28672, 132, spared) for tokens in (256, 512, 1024, 2600, 8192)]

    assert choices(spared=0.09) == [True, False, True, True, True]
    assert choices(spared=0.0) == [True, False, True, False, False]
    assert gemm.pays(8192, 4096, 132, 0.0)
    assert not gemm.pays(256, 4096, 132, 0.0)
