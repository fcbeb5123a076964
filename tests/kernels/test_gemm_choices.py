"""Which products of many tokens are ours."""

from mii_kernels.cuda import gemm


def test_where_tiles_of_ours_are_too_large() -> None:
    def choices(spared: float) -> list[bool]:
        return [gemm.pays(tokens, 28672, 132, spared) for tokens in (256, 512, 1024, 2600, 8192)]

    assert choices(spared=0.09) == [True, False, True, True, True]
    assert choices(spared=0.0) == [True, False, True, False, False]
    assert gemm.pays(8192, 4096, 132, 0.0)
    assert not gemm.pays(2600, 4096, 132, 0.04)  # 430 us with cuBLAS and an addition, 459 with ours
    assert not gemm.pays(256, 4096, 132, 0.0)


def test_even_tokens_leave_no_multiprocessor_idle() -> None:
    assert gemm.even_tokens(132) == 8448
    for rows in (4096, 6144, 28672):
        assert gemm._busy(gemm.even_tokens(132), rows, 66, 256, 256) == 1
        assert gemm._busy(8192, rows, 66, 256, 256) < 0.99
