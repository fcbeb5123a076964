// The second step of a split attention: the parts of each row, normalised each, become one.
//
//   out [rows, D] = sum over s of 2^weights[s] partials[s] / sum over s of 2^weights[s]
//
// A part that saw nothing has weight -inf and partials of 0; a row of only such parts is 0.
#pragma once

#include "attention.cuh"

namespace mii {

constexpr int COMBINE_WARPS = 4;

// partials [rows, splits, D], weights [rows, splits]; a warp a row.
template <typename T, int D>
__global__ void __launch_bounds__(COMBINE_WARPS *WARP)
    combine_kernel(T *out, const float *partials, const float *weights, int64_t rows, int splits) {
    ptx::begin_overlapped();
    constexpr int ITEMS = ceil_div(D, 4 * WARP);
    int lane = threadIdx.x % WARP;
    int64_t row = static_cast<int64_t>(blockIdx.x) * COMBINE_WARPS + threadIdx.x / WARP;
    if (row >= rows) return;
    weights += row * splits, partials += row * splits * D;

    float best = -INFINITY;
    for (int split = lane; split < splits; split += WARP) best = fmaxf(best, weights[split]);
    float base = finite_or_zero(warp_reduce(best, Max{})), total = 0;
    Vector<float, 4> sum[ITEMS] = {};
#pragma unroll 4
    for (int split = 0; split < splits; ++split) {
        float weight = ptx::exp2(weights[split] - base);
        total += weight;
#pragma unroll
        for (int item = 0; item < ITEMS; ++item) {
            int column = (lane + item * WARP) * 4;
            if (column >= D) continue;
            auto more = load<4>(partials + split * D + column);
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[item].at[i] += weight * more.at[i];
        }
    }
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        int column = (lane + item * WARP) * 4;
        if (column >= D) continue;
        Vector<T, 4> rounded_out;
#pragma unroll
        for (int i = 0; i < 4; ++i) rounded_out.at[i] = from_float<T>(sum[item].at[i] * reciprocal(total));
        store<4>(out + row * D + column, rounded_out);
    }
}

template <typename T, int D>
cudaError_t launch_combine(T *out, const float *partials, const float *weights, int64_t rows, int splits,
                           cudaStream_t stream) {
    unsigned blocks = static_cast<unsigned>(ceil_div(rows, static_cast<int64_t>(COMBINE_WARPS)));
    return launch<combine_kernel<T, D>>(overlapped({blocks, COMBINE_WARPS * WARP, stream}), out, partials, weights,
                                        rows, splits);
}

}  // namespace mii
