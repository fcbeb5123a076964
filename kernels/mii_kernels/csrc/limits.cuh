// The limits on z that top-k and top-p mean, without sorting.
//
// One pass over the row counts its tokens by z in BINS bins of 1/256, the last one for all below -32. Counts say in
// which bin the k-th token is; with the bins' edges they bound the mass above each bin, and so say between which
// two bins the mass reaches top-p. One more pass adds up exactly what is above this bracket and collects what is
// in it, some hundred tokens as a rule; a bisection over the bits of z then finds the limit among these. Where they
// are too many for the list (ties, or a limit below -32), the bisection reads the row instead.
#pragma once

#include "scores.cuh"
#include "search.cuh"

namespace mii {

constexpr int BINS = 8192;
constexpr float BINS_PER_UNIT = 256;
constexpr int LIST = 8192;
constexpr double MARGIN = 1e-5;  // more than the relative error of a weight

struct LimitScratch {  // shared
    unsigned counts[BINS];
    float list[LIST];
    int listed;
    unsigned keys[WARP];
    double sums[WARP];
    SearchScratch search;
};

__device__ inline int bin_of(float z) {
    return static_cast<int>(fminf(fabsf(z) * BINS_PER_UNIT, static_cast<float>(BINS - 1)));
}

// The largest and the smallest weight that a token of the bin can have.
__device__ inline double most_in(int bin) { return weight_of(-bin / BINS_PER_UNIT); }
__device__ inline double least_in(int bin) {
    return bin == BINS - 1 ? 0.0 : static_cast<double>(weight_of(-(bin + 1) / BINS_PER_UNIT));
}

struct Bracket {
    int first;
    int last;
};

template <typename T, int WIDTH>
struct Limits {
    Row<T, WIDTH> row;
    Scale scale;
    LimitScratch &scratch;

    // Counts the tokens of each bin; returns the mass of the row.
    __device__ double count() const {
        for (int i = threadIdx.x; i < BINS; i += blockDim.x) scratch.counts[i] = 0;
        __syncthreads();
        double mass = 0;
        row.each([&](int, const float(&x)[WIDTH]) {
            float part = 0;
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) {
                float z = scale(x[i]);
                part += weight_of(z);
                atomicAdd(&scratch.counts[bin_of(z)], 1u);
            }
            mass += part;
        });
        __syncthreads();  // the counts are complete
        return row_reduce(mass, Sum{}, scratch.sums);
    }

    // The k-th largest z. 0 < k <= vocab.
    __device__ float top_k(int k) const {
        auto count = [&](int bin) { return static_cast<double>(scratch.counts[bin]); };
        auto reached = [&](double running, double) { return running >= k; };
        int bin = block_search(BINS, count, reached, scratch.search).index;
        return find({bin, bin}, -INFINITY, k, [](float) { return 1.0f; });
    }

    // The largest limit that leaves at least `target` of the mass of the tokens with z >= floor.
    __device__ float top_p(double target, float floor) const {
        int floor_bin = bin_of(floor);  // only some of its tokens are at or above the floor
        auto most = [&](int bin) { return bin > floor_bin ? 0.0 : scratch.counts[bin] * most_in(bin); };
        auto least = [&](int bin) { return bin >= floor_bin ? 0.0 : scratch.counts[bin] * least_in(bin); };
        auto perhaps = [&](double running, double) { return running >= target * (1 - MARGIN); };
        auto surely = [&](double running, double) { return running >= target * (1 + MARGIN); };
        int first = block_search(BINS, most, perhaps, scratch.search).index;
        int last = block_search(BINS, least, surely, scratch.search).index;
        auto weight = [](float z) { return weight_of(z); };
        return find({min(first, floor_bin), min(last, floor_bin)}, floor, target, weight);
    }

    // The mass of the tokens with z >= floor.
    __device__ double mass(float floor) const {
        double mass = 0;
        row.each([&](int, const float(&x)[WIDTH]) {
            float part = 0;
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) {
                float z = scale(x[i]);
                if (z >= floor) part += weight_of(z);
            }
            mass += part;
        });
        return row_reduce(mass, Sum{}, scratch.sums);
    }

    // The largest limit, among the z of the bracket that are >= floor, for which the weights of the tokens at or
    // above it reach the target.
    template <typename Weight>
    __device__ float find(Bracket bracket, float floor, double target, Weight weight) const {
        __syncthreads();  // nobody reads the last list any more
        if (threadIdx.x == 0) scratch.listed = 0;
        __syncthreads();
        double above = 0;
        unsigned low = 0xffffffffu, high = 0;
        row.each([&](int, const float(&x)[WIDTH]) {
            float part = 0;
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) {
                float z = scale(x[i]);
                int bin = bin_of(z);
                if (bin > bracket.last || z < floor) continue;
                if (bin < bracket.first) {
                    part += weight(z);
                    continue;
                }
                low = min(low, key_of(z)), high = max(high, key_of(z));
                int at = atomicAdd(&scratch.listed, 1);
                if (at < LIST) scratch.list[at] = z;
            }
            above += part;
        });
        __syncthreads();  // the list is complete
        above = row_reduce(above, Sum{}, scratch.sums);
        low = row_reduce(low, Min{}, scratch.keys);
        high = row_reduce(high, Max{}, scratch.keys);
        auto reaches = [&](unsigned key) { return above + sum_to(key, bracket, floor, weight) >= target; };
        while (low < high) {
            unsigned middle = low + (high - low) / 2;
            if (reaches(middle)) high = middle;
            else low = middle + 1;
        }
        return -__uint_as_float(low);
    }

    // The weights of the bracket's tokens with keys up to `key`. Those of a list come in any order, but are so
    // much alike that their sum is exact in double.
    template <typename Weight>
    __device__ double sum_to(unsigned key, Bracket bracket, float floor, Weight weight) const {
        double sum = 0;
        if (scratch.listed <= LIST) {
            for (int i = threadIdx.x; i < scratch.listed; i += blockDim.x) {
                float z = scratch.list[i];
                if (key_of(z) <= key) sum += weight(z);
            }
        } else {
            row.each([&](int, const float(&x)[WIDTH]) {
#pragma unroll
                for (int i = 0; i < WIDTH; ++i) {
                    float z = scale(x[i]);
                    int bin = bin_of(z);
                    bool inside = bin >= bracket.first && bin <= bracket.last && z >= floor;
                    if (inside && key_of(z) <= key) sum += weight(z);
                }
            });
        }
        return row_reduce(sum, Sum{}, scratch.sums);
    }
};

}  // namespace mii
