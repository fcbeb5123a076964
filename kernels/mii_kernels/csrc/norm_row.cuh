// What RMSNorm and LayerNorm do with a row of n elements that a group of threads holds, for the kernels that differ in
// where the row comes from (norms.cu, all_reduce_norm.cu).
//
//   summed = x + residual, rounded to T             (not written where there is no residual: it is x)
//   rms_norm:   round(summed / sqrt(mean(summed^2) + eps)) * weight
//   layer_norm: (summed - mean) / sqrt(mean((summed - mean)^2) + eps) * weight + bias
#pragma once

#include "dtypes.cuh"
#include "reduce.cuh"

namespace mii {

constexpr int ITEMS = 4;  // vectors a thread, at most
template <int WIDTH>
constexpr int MAX_THREADS = WIDTH == 8 ? 512 : 1024;  // at most 16384 elements a row, 4096 where WIDTH is 1

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

// What a thread holds of its row: COUNT vectors, as far as the row reaches.
template <typename T, int WIDTH, int COUNT = ITEMS>
struct Part {
    Vector<T, WIDTH> at[COUNT];

    // All loads are started before the first is used.
    __device__ void read(const T *row, int64_t n) {
        each(n, [&](int64_t column, Vector<T, WIDTH> &x) { x = load<WIDTH>(row + column); });
    }

    __device__ static int64_t column(int item) {
        return (threadIdx.x + item * static_cast<int64_t>(blockDim.x)) * WIDTH;
    }

    // f(column, vector) for each vector that is within the row.
    template <typename F>
    __device__ void each(int64_t n, F f) {
#pragma unroll
        for (int item = 0; item < COUNT; ++item)
            if (column(item) < n) f(column(item), at[item]);
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

template <typename T, int WIDTH, int COUNT>
__device__ inline void add_residual(Part<T, WIDTH, COUNT> &part, const Part<T, WIDTH, COUNT> &residual, int64_t row,
                                    bool active, const NormArgs<T> &args) {
#pragma unroll
    for (int item = 0; item < COUNT; ++item)
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

// A thread's vectors of weight and bias. Where it has few of them they are read together with the row, so that neither
// is waited for alone; where it has many, registers are worth more, and each is read when it is needed.
template <typename T, int WIDTH, int COUNT>
struct NormWeights {
    static constexpr bool EARLY = COUNT < ITEMS;
    const NormArgs<T> &args;
    Part<T, WIDTH, EARLY ? COUNT : 1> weight, bias;

    __device__ explicit NormWeights(const NormArgs<T> &args) : args(args) {
        if (EARLY && args.weight) weight.read(args.weight, args.n);
        if (EARLY && args.bias) bias.read(args.bias, args.n);
    }
    // y [WIDTH] times weight plus bias, rounded.
    __device__ Vector<T, WIDTH> apply(const float (&y)[WIDTH], int item, int64_t column) {
        int at = EARLY ? item : 0;
        if (!EARLY && args.weight) weight.at[0] = load<WIDTH>(args.weight + column);
        if (!EARLY && args.bias) bias.at[0] = load<WIDTH>(args.bias + column);
        Vector<T, WIDTH> out;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            float scaled = args.weight ? y[i] * to_float(weight.at[at].at[i]) : y[i];
            out.at[i] = from_float<T>(args.bias ? scaled + to_float(bias.at[at].at[i]) : scaled);
        }
        return out;
    }
};

template <bool RMS, typename T, int WIDTH, int COUNT>
__device__ inline void write_scaled(const Part<T, WIDTH, COUNT> &part, NormWeights<T, WIDTH, COUNT> &weights,
                                    int64_t row, float mean, float factor, const NormArgs<T> &args) {
#pragma unroll
    for (int item = 0; item < COUNT; ++item) {
        int64_t column = part.column(item);
        if (column >= args.n) continue;
        float y[WIDTH];
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            y[i] = (to_float(part.at[item].at[i]) - mean) * factor;
            if (RMS) y[i] = rounded<T>(y[i]);
        }
        store_global<WIDTH>(args.out + row * args.n + column, weights.apply(y, item, column));
    }
}

// Writes the norm of a row; every thread of the block calls it. `active`: of threads that only take part in the
// reductions it is false. `scratch`: see row_reduce.
template <bool RMS, typename T, int WIDTH, int COUNT>
__device__ inline void write_norm(Part<T, WIDTH, COUNT> &part, NormWeights<T, WIDTH, COUNT> &weights, int64_t row,
                                  bool active, float *scratch, const NormArgs<T> &args) {
    float mean = 0;
    if (!RMS) {
        float total = part.sum(args.n, [](float x) { return x; });
        mean = row_reduce(total, Sum{}, scratch) / args.n;
    }
    float squares = part.sum(args.n, [=](float x) { return (x - mean) * (x - mean); });
    float variance = row_reduce(squares, Sum{}, scratch) / args.n;
    if (active) write_scaled<RMS>(part, weights, row, mean, rsqrtf(variance + args.eps), args);
}

}  // namespace mii
