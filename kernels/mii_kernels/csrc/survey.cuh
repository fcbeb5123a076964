// The first pass over a row: the mass of each tile, and how many tokens there are at which distance from the best.
//
// Nothing is known of the row before. So each tile is weighed relative to its own peak; and distances are taken from
// the best token of the warps' first tiles, which is at most a little below the best of all. Tokens so far down that
// no filter's limit can be there are not counted: counting is what costs most.
#pragma once

#include "tile.cuh"

namespace mii {

constexpr int BINS = 8192;
constexpr float BINS_PER_UNIT = 256;  // of z

struct Filters {
    int k;        // 0: off, as are p = 1 and min_z = -inf
    float p;
    float min_z;  // ln(min_p)

    __device__ bool any() const { return k > 0 || p < 1 || min_z > -INFINITY; }
};

// Distances from `origin`, in bins: bin b has [b, b + 1), the first also all that is better.
struct Bins {
    float origin;
    float per_logit;
    float cut;  // at most BINS; what is further is not counted

    __device__ float distance(float x) const { return (origin - x) * per_logit; }
    static __device__ int index(float distance) {
        return __float_as_uint(__fadd_rd(fmaxf(distance, 0.0f), 0x1p23f)) & (BINS - 1);  // no slow conversion
    }
};

struct Mass {
    float peak;  // finite
    float all;   // relative to the peak's weight
    float rest;  // of this, what is not counted
};

struct SurveyScratch {  // shared
    unsigned counts[BINS];
    Mass first[WARP];         // of the warps' first tiles
    float group_peaks[WARP];  // the least of the peaks of 4 groups of a warp's lanes,
    float lane_peaks[WARP];   // and of its 32 lanes
};

template <typename T, int WIDTH>
struct Survey {
    Row<T, WIDTH> row;
    Temperature temperature;

    // masses: shared, of each tile. On return they, and the counts, are complete.
    __device__ void plain(Mass *masses) const {
        TileRange mine(Tile<T, WIDTH>::count(row.vocab));
        for (int index = mine.begin; index < mine.end; ++index) {
            Tile<T, WIDTH> tile(row, index);
            Mass mass = weigh<false>(tile, peak_of(tile.lane_peak()), Bins{}, nullptr);
            if (threadIdx.x % WARP == 0) masses[index] = mass;
        }
        __syncthreads();
    }

    __device__ Bins counting(const Filters &filters, Mass *masses, SurveyScratch &scratch) const {
        for (int i = threadIdx.x; i < BINS; i += blockDim.x) scratch.counts[i] = 0;
        TileRange mine(Tile<T, WIDTH>::count(row.vocab));
        Bins bins;
        {
            Tile<T, WIDTH> tile(row, mine.begin);
            bins = first_bins(tile, filters, scratch);
            count(tile, mine.begin, bins, masses, scratch.counts);
        }
        for (int index = mine.begin + 1; index < mine.end; ++index)
            count(Tile<T, WIDTH>(row, index), index, bins, masses, scratch.counts);
        __syncthreads();
        return bins;
    }

    // -inf only, or a peak that is inf: some finite number, so that distances are numbers.
    static __device__ float peak_of(float lane_peak) {
        return fmaxf(warp_reduce(lane_peak, Max{}), -FLT_MAX);
    }

    __device__ void count(const Tile<T, WIDTH> &tile, int index, const Bins &bins, Mass *masses,
                          unsigned *counts) const {
        Mass mass = weigh<true>(tile, peak_of(tile.lane_peak()), bins, counts);
        if (threadIdx.x % WARP == 0) masses[index] = mass;
    }

    template <bool COUNT>
    __device__ Mass weigh(const Tile<T, WIDTH> &tile, float peak, const Bins &bins, unsigned *counts) const {
        float all = 0, rest = 0;
        tile.each([&](int, float x) {
            float weight = temperature.weight(x - peak);
            all += weight;
            if constexpr (COUNT) {
                float distance = bins.distance(x);
                if (distance < bins.cut) atomicAdd(&counts[Bins::index(distance)], 1u);
                else rest += weight;
            }
        });
        all = warp_reduce(all, Sum{});
        if (!(all <= FLT_MAX)) return weigh_cleaned(tile, peak, bins);
        return {peak, all, COUNT ? warp_reduce(rest, Sum{}) : 0};
    }

    // Of a tile with NaN or inf; they are rare, and looked for by what comes of them.
    __device__ Mass weigh_cleaned(const Tile<T, WIDTH> &tile, float peak, const Bins &bins) const {
        float all = 0, rest = 0;
        tile.each([&](int, float x) {
            x = cleaned(x);
            float weight = temperature.weight(x - peak);
            all += weight;
            if (!(bins.distance(x) < bins.cut)) rest += weight;
        });
        return {peak, warp_reduce(all, Sum{}), warp_reduce(rest, Sum{})};
    }

    // From the first tiles of all warps.
    __device__ Bins first_bins(const Tile<T, WIDTH> &tile, const Filters &filters, SurveyScratch &scratch) const {
        float lane_peak = tile.lane_peak(), group_peak = lane_peak;
        Mass mass = weigh<false>(tile, peak_of(lane_peak), Bins{}, nullptr);
#pragma unroll
        for (int bit = 1; bit < WARP / 4; bit *= 2)
            group_peak = fmaxf(group_peak, __shfl_xor_sync(ALL_LANES, group_peak, bit));
        group_peak = warp_reduce(group_peak, Min{}), lane_peak = warp_reduce(lane_peak, Min{});
        int warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
        if (threadIdx.x % WARP == 0) {
            scratch.first[warp] = mass;
            scratch.group_peaks[warp] = group_peak, scratch.lane_peaks[warp] = lane_peak;
        }
        __syncthreads();  // also: the counts are zero

        float origin = -FLT_MAX, known = 0, kth = INFINITY;
        const float *peaks = filters.k <= 4 * warps ? scratch.group_peaks : scratch.lane_peaks;
        for (int w = 0; w < warps; ++w) origin = fmaxf(origin, scratch.first[w].peak), kth = fminf(kth, peaks[w]);
        for (int w = 0; w < warps; ++w)
            known += scratch.first[w].all * temperature.weight(scratch.first[w].peak - origin);
        if (filters.k > WARP * warps) kth = -INFINITY;
        Bins bins{origin, fminf(BINS_PER_UNIT / temperature.value, FLT_MAX), 0};
        bins.cut = fminf(cut_of(filters, known, bins.distance(kth)), static_cast<float>(BINS));
        return bins;
    }

    // known: of the row's mass, at least that, relative to the origin. kth: no limit of top-k is further.
    __device__ float cut_of(const Filters &filters, float known, float kth) const {
        float least = BINS_PER_UNIT * -filters.min_z + 1;
        if (filters.k > 0) return filters.p < 1 ? kth + 1 : fminf(kth + 1, least);
        if (filters.p >= 1) return -INFINITY;  // ln(min_p) is known without counts
        // Even a whole vocabulary below this is less than what top-p leaves out, by half.
        float mass = 0.5f * (1 - filters.p) * known;
        return fminf(BINS_PER_UNIT * (logf(static_cast<float>(row.vocab)) - logf(mass)) + 1, least);
    }
};

}  // namespace mii
