// A stretch of a row in the registers of a warp: loaded once, looked at more than once.
#pragma once

#include <type_traits>

#include "launch.cuh"
#include "scores.cuh"

namespace mii {

// As floats. Of 16 bits in a word the compiler would take each out before it widens it.
template <typename T, int WIDTH>
__device__ inline void widen(float (&x)[WIDTH], const Vector<T, WIDTH> &from) {
    if constexpr (std::is_same_v<T, bfloat16> && WIDTH % 2 == 0) {
        unsigned words[WIDTH / 2];
        memcpy(words, &from, sizeof words);
#pragma unroll
        for (int i = 0; i < WIDTH; i += 2) {
            x[i] = __uint_as_float(words[i / 2] << 16);
            x[i + 1] = __uint_as_float(words[i / 2] & 0xffff0000u);
        }
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) x[i] = to_float(from.at[i]);
    }
}

template <typename T, int WIDTH>
struct Tile {
    static constexpr int VECTORS = 4;          // of a lane: 64 bytes under way where they are of full width
    static constexpr int STEP = WARP * WIDTH;  // tokens between them
    static constexpr int TOKENS = VECTORS * STEP;
    Vector<T, WIDTH> at[VECTORS];
    int first;  // id of the lane's first token

    // Past the end of the row it is -inf. WIDTH divides vocab.
    __device__ Tile(const Row<T, WIDTH> &row, int index) : first(index * TOKENS + threadIdx.x % WARP * WIDTH) {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) {
            bool inside = first + v * STEP < row.vocab;
            if constexpr (sizeof at[v] == ACCESS_BYTES) {
                uint4 words = nothing();
                if (inside) words = *reinterpret_cast<const uint4 *>(row.logits + first + v * STEP);
                memcpy(&at[v], &words, sizeof words);
            } else {
                at[v].at[0] = inside ? row.logits[first + v * STEP] : from_float<T>(-INFINITY);
            }
        }
    }

    // -inf as often as 16 bytes hold it.
    static __device__ uint4 nothing() {
        unsigned word = sizeof(T) == 4 ? 0xff800000u : std::is_same_v<T, bfloat16> ? 0xff80ff80u : 0xfc00fc00u;
        return make_uint4(word, word, word, word);
    }

    static __host__ __device__ int count(int vocab) { return ceil_div(vocab, TOKENS); }

    // f(place, logit as it is) for each of the lane's tokens, and what stands for them past the end of the row.
    template <typename F>
    __device__ void each(F f) const {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) {
            float x[WIDTH];
            widen(x, at[v]);
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) f(v * WIDTH + i, x[i]);
        }
    }

    __device__ int id(int place) const { return first + place / WIDTH * STEP + place % WIDTH; }


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
