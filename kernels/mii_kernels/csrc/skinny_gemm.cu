// out [tokens, n] = x [tokens, k] weight [n, k]^T + bias [n], for at most 64 tokens. Each thread block has a strip of the
// weight's rows; skinny_gemm.cuh says how it multiplies.
//
// Cost: 2 n k bytes, and 2 tokens n k flops. 28672 x 4096: 235 MB, 70 us at the H100's 3.35 TB/s; with 64 tokens 15
// Gflop, 15 us at its 989 Tflop/s. x is read once a block, from L2: 2 tokens k bytes for every 16 TILES ROW_WARPS rows,
// which is why more tokens have larger blocks.
#include "skinny_gemm.cuh"

namespace mii {

template <typename T, typename Shape>
__global__ void __launch_bounds__(SKINNY_WARPS *WARP) skinny_gemm_kernel(SkinnyArgs<T> args) {
    multiply_rows<T, Shape>(args, blockIdx.x * Shape::ROWS);
}

}  // namespace mii

cudaError_t mii_skinny_gemm(void *out, const void *x, const void *weight, const void *bias, int tokens, int n, int k,
                            int rows, mii_dtype dtype, cudaStream_t stream) {
    if (dtype == MII_FLOAT32 || k % mii::SLAB != 0) return cudaErrorInvalidValue;
    if (tokens == 0) return cudaSuccess;
    auto run = [&](auto tag) {
        using T = typename decltype(tag)::type;
        mii::SkinnyArgs<T> args{static_cast<T *>(out),          static_cast<const T *>(x),
                                static_cast<const T *>(weight), static_cast<const T *>(bias),
                                tokens, n, k};
        return mii::with_skinny_shape(tokens, rows, [&](auto shape) {
            using Shape = decltype(shape);
            unsigned blocks = static_cast<unsigned>(mii::ceil_div(n, Shape::ROWS));
            mii::LaunchShape grid{blocks, mii::SKINNY_WARPS * mii::WARP, stream, Shape::BYTES};
            return mii::launch<mii::skinny_gemm_kernel<T, Shape>>(grid, args);
        });
    };
    return dtype == MII_BFLOAT16 ? run(mii::TypeTag<mii::bfloat16>{}) : run(mii::TypeTag<mii::float16>{});
}
