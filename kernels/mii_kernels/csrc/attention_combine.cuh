// The end of a split attention: each block leaves its part of the rows in memory, normalised, and the block that is
// last makes one of the parts. Nobody waits, and the result does not depend on who is last.
//
//   out [rows, D] = sum over s of 2^weights[s] partials[s] / sum over s of 2^weights[s]
//
// A part that saw nothing has weight -inf and partials of 0; a row of only such parts is 0.
#pragma once

#include "attention.cuh"
#include "counter_sets.cuh"

namespace mii {

// How many parts are there, for each block of an attention without splits; 0 before and after each launch. Launches of
// one stream never use them at the same time: each waits for those before it, or for one that did (`beside` of
// attention_decode.cu) and is not of this kind. Those of several streams get different sets in turn; a captured launch
// keeps its own, so that graphs may be replayed on one stream of a device only.
constexpr int PART_COUNTER_SETS = 64;
__device__ int part_counters[PART_COUNTER_SETS][MII_SPLIT_TILES];

static CounterSets<PART_COUNTER_SETS> part_sets;

// Whether this block is the last of those that meet at the counter: then it sees what they all have written. Every
// thread of the block calls it, after its own writing. The counter is left at 0.
__device__ inline bool last_to_arrive(int *counter, int blocks) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        last = ptx::add_acq_rel(counter, 1) == blocks - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    return last;
}

// Four columns of a row: partials [splits, D] from the first of these columns on, weights [splits]. Past L1, which
// knows nothing of other blocks' writing; AT_ONCE parts are under way at a time, and come at the price of one.
template <int D>
__device__ inline Vector<float, 4> combine_parts(const float *partials, const float *weights, int splits) {
    constexpr int AT_ONCE = 8;
    float best = -INFINITY, total = 0;
    Vector<float, 4> sum = {};
    for (int first = 0; first < splits; first += AT_ONCE) {
        float weight[AT_ONCE], before = best;
        float4 part[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            bool valid = first + i < splits;
            int split = valid ? first + i : first;
            weight[i] = valid ? __ldcg(weights + split) : -INFINITY;
            part[i] = __ldcg(reinterpret_cast<const float4 *>(partials + split * D));
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) best = fmaxf(best, weight[i]);
        float base = finite_or_zero(best), shrink = ptx::exp2(before - base);
        total *= shrink;
#pragma unroll
        for (int i = 0; i < 4; ++i) sum.at[i] *= shrink;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            float share = ptx::exp2(weight[i] - base);
            total += share;
            sum.at[0] += share * part[i].x, sum.at[1] += share * part[i].y;
            sum.at[2] += share * part[i].z, sum.at[3] += share * part[i].w;
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sum.at[i] *= reciprocal(total);
    return sum;
}

template <typename T>
__device__ inline void store_rounded(T *out, const Vector<float, 4> &x) {
    Vector<T, 4> rounded_out;
#pragma unroll
    for (int i = 0; i < 4; ++i) rounded_out.at[i] = from_float<T>(x.at[i]);
    store<4>(out, rounded_out);
}

}  // namespace mii
