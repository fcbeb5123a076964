// RMSNorm and LayerNorm of rows of n elements, each after the addition of a residual.
//
//   summed = x + residual, rounded to T             (not written where there is no residual: it is x)
//   rms_norm:   round(summed / sqrt(mean(summed^2) + eps)) * weight
//   layer_norm: (summed - mean) / sqrt(mean((summed - mean)^2) + eps) * weight + bias
//
// A row is read once and stays in registers: ITEMS vectors a thread, all loaded before the first is used.
// Rows of few elements share a block, one row for each threadIdx.y.
#include "dtypes.cuh"
#include "launch.cuh"
#include "reduce.cuh"

namespace mii {

constexpr int ITEMS = 4;
template <int WIDTH>
constexpr int MAX_THREADS = WIDTH == 8 ? 512 : 1024;  // at most 16384 elements a row, 4096 where WIDTH is 1
constexpr int THREADS_A_BLOCK = 128;  // at least, where rows are short

template <typename T>
struct NormArgs {
    T *out;     // [rows, n]
    T *summed;  // [rows, n], with a residual
    const T *x;
    const T *residual;  // null: none; otherwise x and residual are [rows, n]
    const T *weight;    // [n]; null only for LayerNorm: ones
    const T *bias;      // [n]; null: zeros
    int64_t rows;
    int64_t n;
    int64_t inner;   // x: row r is at (r / inner) * stride + (r % inner) * n
    int64_t stride;
    float eps;
};

// What a thread holds of its row.
template <typename T, int WIDTH>
struct Part {
    Vector<T, WIDTH> at[ITEMS];

    // f(column, vector) for each vector that is within the row.
    template <typename F>
    __device__ void each(int64_t n, F f) {
#pragma unroll
        for (int item = 0; item < ITEMS; ++item) {
            int64_t column = (threadIdx.x + item * static_cast<int64_t>(blockDim.x)) * WIDTH;
            if (column < n) f(column, at[item]);
        }
    }

    template <typename F>
    __device__ float sum(int64_t n, F f) {
        float total = 0;
        each(n, [&](int64_t, const Vector<T, WIDTH> &x) {
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) total += f(to_float(x.at[i]));
        });
        return total;
    }
};

template <typename T, int WIDTH>
__device__ inline void add_residual(Part<T, WIDTH> &part, int64_t row, bool active, const NormArgs<T> &args) {
    Part<T, WIDTH> residual;
    residual.each(args.n, [&](int64_t column, Vector<T, WIDTH> &x) {
        x = load<WIDTH>(args.residual + row * args.n + column);
    });
#pragma unroll
    for (int item = 0; item < ITEMS; ++item)
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            float sum = to_float(part.at[item].at[i]) + to_float(residual.at[item].at[i]);
            part.at[item].at[i] = from_float<T>(sum);
        }
    if (!active) return;
    part.each(args.n, [&](int64_t column, const Vector<T, WIDTH> &x) {
        store_global<WIDTH>(args.summed + row * args.n + column, x);
    });
}

template <bool RMS, typename T, int WIDTH>
__device__ inline void write_scaled(Part<T, WIDTH> &part, int64_t row, float mean, float factor,
                                    const NormArgs<T> &args) {
    part.each(args.n, [&](int64_t column, Vector<T, WIDTH> &x) {
        Vector<T, WIDTH> weight, bias;
        if (args.weight) weight = load<WIDTH>(args.weight + column);
        if (args.bias) bias = load<WIDTH>(args.bias + column);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            float y = (to_float(x.at[i]) - mean) * factor;
            if (RMS) y = rounded<T>(y);
            if (args.weight) y *= to_float(weight.at[i]);
            if (args.bias) y += to_float(bias.at[i]);
            x.at[i] = from_float<T>(y);
        }
        store_global<WIDTH>(args.out + row * args.n + column, x);
    });
}

template <typename T, int WIDTH, bool RMS>
__global__ void __launch_bounds__(MAX_THREADS<WIDTH>) norm_kernel(NormArgs<T> args) {
    __shared__ float scratch[WARP];
    int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
    bool active = row < args.rows;  // inactive threads still take part in the reductions
    if (!active) row = 0;
    const T *from = args.x + row / args.inner * args.stride + row % args.inner * args.n;

    Part<T, WIDTH> part;
    part.each(args.n, [&](int64_t column, Vector<T, WIDTH> &x) { x = load<WIDTH>(from + column); });
    if (args.residual) add_residual(part, row, active, args);

    float mean = 0;
    if (!RMS) {
        float total = part.sum(args.n, [](float x) { return x; });
        mean = row_reduce(total, Sum{}, scratch) / args.n;
    }
    float squares = part.sum(args.n, [=](float x) { return (x - mean) * (x - mean); });
    float variance = row_reduce(squares, Sum{}, scratch) / args.n;
    if (active) write_scaled<RMS>(part, row, mean, rsqrtf(variance + args.eps), args);
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
    return launch<norm_kernel<T, WIDTH, RMS>>({blocks, block, stream}, args);
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
