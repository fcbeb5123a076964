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
constexpr int MAX_THREADS = 1024;
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

template <typename T, int WIDTH, bool RMS>
__device__ inline Vector<T, WIDTH> scale_row(const float (&x)[WIDTH], float mean, float factor, int64_t column,
                                             const NormArgs<T> &args) {
    Vector<T, WIDTH> weight, bias, out;
    if (args.weight) weight = load<WIDTH>(args.weight + column);
    if (args.bias) bias = load<WIDTH>(args.bias + column);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
        float y = (x[i] - mean) * factor;
        if (RMS) y = rounded<T>(y);
        if (args.weight) y *= to_float(weight.at[i]);
        if (args.bias) y += to_float(bias.at[i]);
        out.at[i] = from_float<T>(y);
    }
    return out;
}

template <typename T, int WIDTH, bool RMS>
__global__ void __launch_bounds__(MAX_THREADS) norm_kernel(NormArgs<T> args) {
    __shared__ float scratch[WARP];
    int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
    bool active = row < args.rows;  // inactive threads still take part in the reductions
    if (!active) row = 0;
    const T *x = args.x + row / args.inner * args.stride + row % args.inner * args.n;

    Vector<T, WIDTH> loaded[ITEMS], more[ITEMS];
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        int64_t column = (threadIdx.x + item * static_cast<int64_t>(blockDim.x)) * WIDTH;
        if (column >= args.n) continue;
        loaded[item] = load<WIDTH>(x + column);
        if (args.residual) more[item] = load<WIDTH>(args.residual + row * args.n + column);
    }

    float values[ITEMS][WIDTH];
    float total = 0;
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        int64_t column = (threadIdx.x + item * static_cast<int64_t>(blockDim.x)) * WIDTH;
        bool inside = column < args.n;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            float value = inside ? to_float(loaded[item].at[i]) : 0;
            if (args.residual && inside) value = rounded<T>(value + to_float(more[item].at[i]));
            values[item][i] = value;
            total += RMS ? value * value : value;
        }
        if (args.residual && inside && active) {
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) loaded[item].at[i] = from_float<T>(values[item][i]);
            store<WIDTH>(args.summed + row * args.n + column, loaded[item]);
        }
    }

    float mean = 0, variance = row_reduce(total, Sum{}, scratch) / args.n;
    if (!RMS) {
        mean = variance;
        float squares = 0;
#pragma unroll
        for (int item = 0; item < ITEMS; ++item) {
            int64_t column = (threadIdx.x + item * static_cast<int64_t>(blockDim.x)) * WIDTH;
            if (column >= args.n) continue;
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) squares += (values[item][i] - mean) * (values[item][i] - mean);
        }
        variance = row_reduce(squares, Sum{}, scratch) / args.n;
    }
    float factor = rsqrtf(variance + args.eps);

    if (!active) return;
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        int64_t column = (threadIdx.x + item * static_cast<int64_t>(blockDim.x)) * WIDTH;
        if (column >= args.n) continue;
        auto out = scale_row<T, WIDTH, RMS>(values[item], mean, factor, column, args);
        store<WIDTH>(args.out + row * args.n + column, out);
    }
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
    if (block.x > MAX_THREADS) return cudaErrorInvalidValue;
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
