// Rows of n elements as 8-bit floats (e4m3), each row with its scale.
//
//   scales [rows]    = max |x| of the row * 1/448 (448 is e4m3's largest); at least FLT_MIN, for rows of zeros
//   values [rows, n] = x [rows, n] / scale, rounded to nearest even
//
// An infinity makes the scale infinite, and itself NaN, as any NaN becomes: then so do the products of its row.
//
// A row is read once and stays in registers, ITEMS vectors a thread, all loaded before the first is used. Rows of
// few elements share a block, one row for each threadIdx.y.
#include <cuda_fp8.h>
#include <float.h>

#include "dtypes.cuh"
#include "launch.cuh"
#include "reduce.cuh"

namespace mii {

constexpr int QUANTISE_ITEMS = 4;
constexpr int QUANTISE_MAX_THREADS = 1024;  // at most 32768 elements a row of 8 an access, 4096 where it is 1
constexpr int QUANTISE_MIN_THREADS = 128;   // of a block, where rows are short
constexpr float E4M3_LARGEST = 448.0f;

struct MagnitudeMax {
    __device__ float operator()(float a, float b) const { return fmaxf(a, fabsf(b)); }
};

template <typename T, int WIDTH>
__global__ void __launch_bounds__(QUANTISE_MAX_THREADS)
    quantise_kernel(uint8_t *values, float *scales, const T *x, int64_t rows, int64_t n) {
    __shared__ float scratch[WARP];
    int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
    bool active = row < rows;  // inactive threads still take part in the reduction
    if (!active) row = 0;

    Vector<T, WIDTH> part[QUANTISE_ITEMS];
    auto each = [&](auto f) {
#pragma unroll
        for (int item = 0; item < QUANTISE_ITEMS; ++item) {
            int64_t column = (threadIdx.x + item * static_cast<int64_t>(blockDim.x)) * WIDTH;
            if (column < n) f(column, part[item]);
        }
    };
    each([&](int64_t column, Vector<T, WIDTH> &vector) { vector = load<WIDTH>(x + row * n + column); });

    float largest = 0;
    each([&](int64_t, const Vector<T, WIDTH> &vector) {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) largest = MagnitudeMax{}(largest, to_float(vector.at[i]));
    });
    float scale = fmaxf(row_reduce(largest, MagnitudeMax{}, scratch) * (1.0f / E4M3_LARGEST), FLT_MIN);
    if (!active) return;
    if (threadIdx.x == 0) scales[row] = scale;
    each([&](int64_t column, const Vector<T, WIDTH> &vector) {
        Vector<uint8_t, WIDTH> rounded;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i)
            rounded.at[i] = __nv_cvt_float_to_fp8(to_float(vector.at[i]) / scale, __NV_SATFINITE, __NV_E4M3);
        store<WIDTH>(values + row * n + column, rounded);
    });
}

// Threads for a row of so many vectors, and rows of a block.
static dim3 quantise_block(int64_t vectors) {
    int64_t threads = ceil_div(vectors, static_cast<int64_t>(QUANTISE_ITEMS));
    threads = ceil_div(threads, static_cast<int64_t>(WARP)) * WARP;
    unsigned rows = threads < QUANTISE_MIN_THREADS ? QUANTISE_MIN_THREADS / threads : 1;
    return dim3(static_cast<unsigned>(threads), rows);
}

template <typename T, int WIDTH>
static cudaError_t launch_quantise(uint8_t *values, float *scales, const T *x, int64_t rows, int64_t n,
                                   cudaStream_t stream) {
    if (n > static_cast<int64_t>(QUANTISE_MAX_THREADS) * QUANTISE_ITEMS * WIDTH) return cudaErrorInvalidValue;
    dim3 block = quantise_block(n / WIDTH);
    unsigned blocks = static_cast<unsigned>(ceil_div(rows, static_cast<int64_t>(block.y)));
    return launch<quantise_kernel<T, WIDTH>>({blocks, block, stream}, values, scales, x, rows, n);
}

}  // namespace mii

cudaError_t mii_quantise(void *values, float *scales, const void *x, int64_t rows, int64_t n, mii_dtype dtype,
                         cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    return mii::with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        uint8_t *to = static_cast<uint8_t *>(values);
        const T *from = static_cast<const T *>(x);
        return mii::fits_full_width<T>(n, values, x)
                   ? mii::launch_quantise<T, mii::FULL_WIDTH<T>>(to, scales, from, rows, n, stream)
                   : mii::launch_quantise<T, 1>(to, scales, from, rows, n, stream);
    });
}
