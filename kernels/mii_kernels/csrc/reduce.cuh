// Reductions over a warp and over groups of warps of a block. Every lane gets the result; the order of the
// operations is fixed, so results do not differ from run to run.
#pragma once

#include <cuda_runtime.h>

namespace mii {

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

struct Sum {
    template <typename T>
    __device__ T operator()(T a, T b) const { return a + b; }
};
struct Max {
    template <typename T>
    __device__ T operator()(T a, T b) const { return a > b ? a : b; }
};
struct Min {
    template <typename T>
    __device__ T operator()(T a, T b) const { return a < b ? a : b; }
};

template <typename Op, typename T>
__device__ inline T warp_reduce(T x, Op op) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = op(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

// Over the threads of one row of a block: threadIdx.x of the same threadIdx.y; blockDim.x is a multiple of 32.
// Every thread of the block calls it. `scratch`: shared, one T per warp of the block; free again on return.
template <typename Op, typename T>
__device__ inline T row_reduce(T x, Op op, T *scratch) {
    constexpr int AT_ONCE = 8;  // loads that are waited for together
    int warps = blockDim.x / WARP;
    x = warp_reduce(x, op);
    if (warps == 1) return x;
    T *mine = scratch + threadIdx.y * warps;
    if (threadIdx.x % WARP == 0) mine[threadIdx.x / WARP] = x;
    __syncthreads();
    x = mine[0];
    for (int first = 1; first < warps; first += AT_ONCE) {
        T next[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) next[i] = mine[first + i < warps ? first + i : 0];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i)
            if (first + i < warps) x = op(x, next[i]);
    }
    __syncthreads();
    return x;
}

}  // namespace mii
