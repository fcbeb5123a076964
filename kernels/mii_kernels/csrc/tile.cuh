// A stretch of a row in the registers of a warp: loaded once, looked at more than once.
#pragma once

#include "launch.cuh"
#include "scores.cuh"

namespace mii {

template <typename T, int WIDTH>
struct Tile {
    static constexpr int VECTORS = 4;           // of a lane: 64 bytes under way where they are of full width
    static constexpr int STEP = WARP * WIDTH;   // tokens between them
    static constexpr int TOKENS = VECTORS * STEP;
    Vector<T, WIDTH> at[VECTORS];
    int first;  // id of the lane's first token

    // Past the end of the row it is -inf. WIDTH divides vocab.
    __device__ Tile(const Row<T, WIDTH> &row, int index) : first(index * TOKENS + threadIdx.x % WARP * WIDTH) {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) {
            if (first + v * STEP < row.vocab) {
                at[v] = load<WIDTH>(row.logits + first + v * STEP);
                continue;
            }
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) at[v].at[i] = from_float<T>(-INFINITY);
        }
    }

    static __host__ __device__ int count(int vocab) { return ceil_div(vocab, TOKENS); }

    // f(id, logit as it is) for each of the lane's tokens, and what stands for them past the end of the row.
    template <typename F>
    __device__ void each(F f) const {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) f(first + v * STEP + i, to_float(at[v].at[i]));
    }

    // The lane's largest logit; -inf if it has only NaN.
    __device__ float lane_peak() const {
        float peak = -INFINITY;
        each([&](int, float x) { peak = fmaxf(peak, x); });
        return fminf(peak, FLT_MAX);
    }
};

// The tiles of a warp: a stretch of the row, so that the first tiles of all warps are spread over it.
struct TileRange {
    int begin;
    int end;

    explicit __device__ TileRange(int tiles) {
        int warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
        begin = warp * tiles / warps, end = (warp + 1) * tiles / warps;
    }
};

}  // namespace mii
