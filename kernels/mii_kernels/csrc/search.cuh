// Where a running sum over a block's work reaches a target.
#pragma once

#include "launch.cuh"
#include "reduce.cuh"

namespace mii {

struct Place {
    int index;
    double before;  // the sum of all before it
    double total;   // the sum of all
};

struct SearchScratch {  // shared
    double sums[WARP];
    Place found;
};

__device__ inline double warp_scan(double x) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int offset = 1; offset < WARP; offset *= 2) {
        double other = __shfl_up_sync(ALL_LANES, x, offset);
        if (lane >= offset) x += other;
    }
    return x;
}

// The first of n indices for which reached(running sum of value, total) holds, value(i) >= 0; n if there is none.
// By all threads of a block without threadIdx.y.
template <typename Value, typename Reached>
__device__ inline Place block_search(int n, Value value, Reached reached, SearchScratch &scratch) {
    int per_thread = ceil_div(n, static_cast<int>(blockDim.x));
    int begin = min(n, static_cast<int>(threadIdx.x) * per_thread), end = min(n, begin + per_thread);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    double own = 0;
    for (int i = 0, at = begin + lane % per_thread; i < per_thread; ++i) {  // lanes out of step: other banks
        if (at < end) own += value(at);
        if (++at == begin + per_thread) at = begin;
    }
    double inclusive = warp_scan(own);
    if (lane == WARP - 1) scratch.sums[warp] = inclusive;
    if (threadIdx.x == 0) scratch.found.index = n;
    __syncthreads();

    double offset = 0, total = 0;
    for (int w = 0; w < static_cast<int>(blockDim.x) / WARP; ++w) {
        if (w == warp) offset = total;
        total += scratch.sums[w];
    }
    double previous = __shfl_up_sync(ALL_LANES, inclusive, 1);
    double running = lane == 0 ? offset : offset + previous;  // as the thread before has computed it
    Place mine{n, 0, total};
    if (begin < end && reached(offset + inclusive, total) && (threadIdx.x == 0 || !reached(running, total))) {
        for (int i = begin; i < end; ++i) {
            double weight = value(i), next = running + weight;
            if (weight > 0 || i == begin) mine = {i, running, total};  // also where rounding keeps the rest below
            if (reached(next, total)) {
                mine = {i, running, total};
                break;
            }
            running = next;
        }
        atomicMin(&scratch.found.index, mine.index);
    }
    __syncthreads();
    if (mine.index < n && mine.index == scratch.found.index) scratch.found.before = mine.before;
    __syncthreads();
    Place found = scratch.found;
    found.total = total;
    __syncthreads();
    return found;
}

}  // namespace mii
