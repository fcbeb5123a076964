// RMSNorm and LayerNorm of rows of n elements, each after the addition of a residual (see norm_row.cuh).
//
// A row is read once and stays in registers: ITEMS vectors a thread, all loaded before the first is used.
// Rows of few elements share a block, one row for each threadIdx.y.
#include "launch.cuh"
#include "norm_row.cuh"
#include "ptx.cuh"

namespace mii {

constexpr int THREADS_A_BLOCK = 128;  // at least, where rows are short

template <typename T, int WIDTH, bool RMS>
__global__ void __launch_bounds__(MAX_THREADS<WIDTH>) norm_kernel(NormArgs<T> args) {
    ptx::begin_overlapped();
    __shared__ float scratch[WARP];
    int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
    bool active = row < args.rows;  // inactive threads still take part in the reductions
    if (!active) row = 0;
    const T *from = args.x + row / args.inner * args.stride + row % args.inner * args.n;

    Part<T, WIDTH> part;
    part.read(from, args.n);
    if (args.residual) {
        Part<T, WIDTH> residual;
        residual.read(args.residual + row * args.n, args.n);
        add_residual(part, residual, row, active, args);
    }
    write_norm<RMS>(part, row, active, scratch, args);
}

// Threads for a row of so many vectors, and rows of a block.
static dim3 norm_block(int64_t vectors) {
    int64_t threads = ceil_div(vectors, static_cast<int64_t>(ITEMS));
    threads = ceil_div(threads, static_cast<int64_t>(WARP)) * WARP;
    unsigned rows = threads < THREADS_A_BLOCK ? THREADS_A_BLOCK / threads : 1;
    return dim3(static_cast<unsigned>(threads), rows);
}

template <typename T, int WIDTH, bool RMS>
static cudaError_t launch_norm(const NormArgs<T> &args, cudaStream_t stream) {
    dim3 block = norm_block(args.n / WIDTH);
    if (block.x > MAX_THREADS<WIDTH>) return cudaErrorInvalidValue;
    unsigned blocks = static_cast<unsigned>(ceil_div(args.rows, static_cast<int64_t>(block.y)));
    return launch<norm_kernel<T, WIDTH, RMS>>(overlapped({blocks, block, stream}), args);
}

template <bool RMS>
static cudaError_t norm(void *out, void *summed, const void *x, const void *residual, const void *weight,
                        const void *bias, int64_t rows, int64_t n, int64_t inner, int64_t stride, float eps,
                        mii_dtype dtype, cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    return with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        NormArgs<T> args{static_cast<T *>(out),          static_cast<T *>(summed),
                         static_cast<const T *>(x),      static_cast<const T *>(residual),
                         static_cast<const T *>(weight), static_cast<const T *>(bias),
                         rows, n, inner, stride, eps};
        bool wide = fits_full_width<T>(n, out, summed, x, residual, weight, bias) && stride % FULL_WIDTH<T> == 0;
        return wide ? launch_norm<T, FULL_WIDTH<T>, RMS>(args, stream) : launch_norm<T, 1, RMS>(args, stream);
    });
}

}  // namespace mii

cudaError_t mii_rms_norm(void *out, void *summed, const void *x, const void *residual, const void *weight,
                         int64_t rows, int64_t n, int64_t inner, int64_t stride, float eps, mii_dtype dtype,
                         cudaStream_t stream) {
    return mii::norm<true>(out, summed, x, residual, weight, nullptr, rows, n, inner, stride, eps, dtype, stream);
}

cudaError_t mii_layer_norm(void *out, void *summed, const void *x, const void *residual, const void *weight,
                           const void *bias, int64_t rows, int64_t n, int64_t inner, int64_t stride, float eps,
                           mii_dtype dtype, cudaStream_t stream) {
    return mii::norm<false>(out, summed, x, residual, weight, bias, rows, n, inner, stride, eps, dtype, stream);
}
