// RMSNorm and LayerNorm of rows of n elements, each after the addition of a residual (see norm_row.cuh).
//
// A row is read once and stays in registers: up to ITEMS vectors a thread, all loaded before the first is used. Few
// rows are a matter of latency, and get as many threads as a block may have; of many rows small blocks fill a
// multiprocessor better. Rows of few elements share a block, one row for each threadIdx.y.
#include "launch.cuh"
#include "norm_row.cuh"
#include "ptx.cuh"

namespace mii {

constexpr int THREADS_A_BLOCK = 128;  // at least, where rows are short
constexpr int FEW_ROWS = 256;

// Where weight and bias are not in L2, they come there while earlier kernels end.
template <typename T, int WIDTH, int COUNT>
__device__ inline void prefetch_weights(Part<T, WIDTH, COUNT> &part, const NormArgs<T> &args) {
    part.each(args.n, [&](int64_t column, const Vector<T, WIDTH> &) {
        if (args.weight) ptx::prefetch_l2(args.weight + column);
        if (args.bias) ptx::prefetch_l2(args.bias + column);
    });
}

template <typename T, int WIDTH, int COUNT, bool RMS>
__global__ void __launch_bounds__(MAX_THREADS<WIDTH>) norm_kernel(NormArgs<T> args) {
    __shared__ float scratch[WARP];
    int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
    bool active = row < args.rows;  // inactive threads still take part in the reductions
    if (!active) row = 0;
    const T *from = args.x + row / args.inner * args.stride + row % args.inner * args.n;

    Part<T, WIDTH, COUNT> part, residual;
    ptx::let_next_grid_begin();  // as a rule a product, which fetches its own weights before it waits
    prefetch_weights(part, args);
    ptx::wait_for_earlier_grids();
    part.read(from, args.n);
    if (args.residual) residual.read(args.residual + row * args.n, args.n);
    NormWeights<T, WIDTH, COUNT> weights(args);
    if (args.residual) add_residual(part, residual, row, active, args);
    write_norm<RMS>(part, weights, row, active, scratch, args);
}

// Threads for a row of so many vectors, `count` of them a thread, and rows of a block.
static dim3 norm_block(int64_t vectors, int count) {
    int64_t threads = ceil_div(vectors, static_cast<int64_t>(count));
    threads = ceil_div(threads, static_cast<int64_t>(WARP)) * WARP;
    unsigned rows = threads < THREADS_A_BLOCK ? THREADS_A_BLOCK / threads : 1;
    return dim3(static_cast<unsigned>(threads), rows);
}

template <typename T, int WIDTH, int COUNT, bool RMS>
static cudaError_t launch_norm(const NormArgs<T> &args, cudaStream_t stream) {
    dim3 block = norm_block(args.n / WIDTH, COUNT);
    if (block.x > MAX_THREADS<WIDTH>) return cudaErrorInvalidValue;
    unsigned blocks = static_cast<unsigned>(ceil_div(args.rows, static_cast<int64_t>(block.y)));
    return launch<norm_kernel<T, WIDTH, COUNT, RMS>>(overlapped({blocks, block, stream}), args);
}

// Of rows that can be accessed 16 bytes at a time.
template <typename T, bool RMS>
static cudaError_t launch_wide_norm(const NormArgs<T> &args, cudaStream_t stream) {
    constexpr int WIDTH = FULL_WIDTH<T>;
    int64_t vectors = args.n / WIDTH;
    if (args.rows <= FEW_ROWS && vectors <= MAX_THREADS<WIDTH>) return launch_norm<T, WIDTH, 1, RMS>(args, stream);
    if (args.rows <= FEW_ROWS && vectors <= 2 * MAX_THREADS<WIDTH>) return launch_norm<T, WIDTH, 2, RMS>(args, stream);
    return launch_norm<T, WIDTH, ITEMS, RMS>(args, stream);
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
        return wide ? launch_wide_norm<T, RMS>(args, stream) : launch_norm<T, 1, ITEMS, RMS>(args, stream);
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
