// A row of logits as the sampler sees it: x -> z = (x - best) / temperature -> weight exp(z).
#pragma once

#include <float.h>

#include "dtypes.cuh"
#include "ptx.cuh"
#include "reduce.cuh"

namespace mii {

// NaN counts as -inf, +inf as the largest float.
__device__ inline float cleaned(float x) { return fminf(fmaxf(x, -INFINITY), FLT_MAX); }

// What orders z from the best (0) down: non-negative floats are ordered like their bits.
__device__ inline unsigned key_of(float z) { return __float_as_uint(fabsf(z)); }

template <typename T, int WIDTH>
struct Row {
    static constexpr int UNROLL = 2;  // vectors that a thread has under way: 32 KB for two blocks of 512
    const T *logits;
    int vocab;

    // f(id of the first, values as floats) for each vector of a thread; WIDTH divides vocab.
    template <typename F>
    __device__ void each(F f) const {
        int vectors = vocab / WIDTH, stride = blockDim.x;
        for (int first = threadIdx.x; first < vectors; first += UNROLL * stride) {
            Vector<T, WIDTH> loaded[UNROLL];
#pragma unroll
            for (int u = 0; u < UNROLL; ++u)
                if (first + u * stride < vectors) loaded[u] = load<WIDTH>(logits + (first + u * stride) * WIDTH);
#pragma unroll
            for (int u = 0; u < UNROLL; ++u)
                if (first + u * stride < vectors) visit(f, first + u * stride, loaded[u]);
        }
    }

    template <typename F>
    static __device__ void visit(F &f, int vector, const Vector<T, WIDTH> &loaded) {
        float x[WIDTH];
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) x[i] = cleaned(to_float(loaded.at[i]));
        f(vector * WIDTH, x);
    }
};

// The order of tokens: larger for a larger logit, and among equals for a lower id; 0.0f makes -0 equal to 0.
__device__ inline unsigned long long rank_of(float x, int id) {
    unsigned bits = __float_as_uint(x + 0.0f);
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    return static_cast<unsigned long long>(bits) << 32 | (0xffffffffu - static_cast<unsigned>(id));
}
__device__ inline float logit_of(unsigned long long rank) {
    unsigned bits = static_cast<unsigned>(rank >> 32);
    return __uint_as_float(bits >> 31 ? bits ^ 0x80000000u : ~bits);
}
__device__ inline int id_of(unsigned long long rank) {
    return static_cast<int>(0xffffffffu - static_cast<unsigned>(rank));
}

struct Best {
    float x;
    int id;
};

// The largest logit and the lowest id that has it; id 0 where all are -inf.
template <typename T, int WIDTH>
__device__ inline Best best_of(const Row<T, WIDTH> &row, unsigned long long *scratch) {
    Best mine{-INFINITY, 0};
    row.each([&](int id, const float(&x)[WIDTH]) {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i)
            if (x[i] > mine.x) mine = {x[i], id + i};
    });
    unsigned long long rank = row_reduce(rank_of(mine.x, mine.id), Max{}, scratch);
    Best best{logit_of(rank), id_of(rank)};
    if (best.x == -INFINITY) best.id = 0;
    return best;
}

// z and weight of what is `distance` above another logit, as a rule the row's best.
struct Temperature {
    float value;
    float reciprocal;  // rounded to nearest
    float rate;        // log2(e) / value

    explicit __device__ Temperature(float value)
        : value(value), reciprocal(1.0f / value), rate(fminf(1.44269504f / value, FLT_MAX)) {}

    // One multiplication and one exponential, where exp(z) has a division more.
    __device__ float weight(float distance) const { return ptx::exp2(distance * rate); }

    // The correctly rounded quotient, by Markstein's correction of a product with the reciprocal: three operations
    // where a division takes about ten. It is left to the division where that overflows, as for x = -inf.
    __device__ float z(float distance) const {
        float guess = distance * reciprocal;
        float z = fmaf(fmaf(-guess, value, distance), reciprocal, guess);
        return fabsf(z) <= FLT_MAX ? z : distance / value;
    }
};

}  // namespace mii
