// What the kernels for prompt chunks share: their arguments, and which positions a token sees.
#pragma once

#include "attention.cuh"
#include "query_tile.cuh"

namespace mii {

template <typename T>
struct PrefillArgs {
    T *out;            // [tokens, heads, D]
    const T *query;    // [tokens, heads, D], tokens `query_stride` apart
    int64_t query_stride;
    PagedCache<T> cache;
    const int *cu_seqlens;  // [sequences + 1]
    int sequences;
    int heads;
    int window;   // tokens that are seen, 0: all
    float scale;  // of scores, times log2(e)
};

// Row i of a warp is at `position` + i and sees the positions up to its own, `window` of them.
struct CausalMask {
    int position;
    int window;

    __device__ int first_seen(int row) const { return window ? max(0, position + row - window + 1) : 0; }
    __device__ bool none_sees(int first, int tokens) const {
        return first > position + MMA_ROWS - 1 || first + tokens <= first_seen(0);
    }
    __device__ bool all_see(int first, int tokens) const {
        return first + tokens - 1 <= position && first >= first_seen(MMA_ROWS - 1);
    }
};

// Of a lane's two rows, the columns are compared with what is the same for all of them: few instructions each.
template <int N>
__device__ inline void apply(const CausalMask &mask, float (&scores)[N][4], int first) {
    int lane = threadIdx.x % WARP, column = first + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = lane / 4 + 8 * half, last = mask.position + row - column, begin = mask.first_seen(row) - column;
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                if (8 * n + i > last || 8 * n + i < begin) scores[n][2 * half + i] = -INFINITY;
    }
}

}  // namespace mii
