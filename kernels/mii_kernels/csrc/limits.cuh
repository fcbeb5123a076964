// The limits on z that top-k, top-p and min-p mean, without sorting.
//
// The counts of the first pass say in which bin the k-th token is; with the bins' edges they bound the mass below
// each bin, and so say between which bins top-p is reached. Together they make a window of distances: what is better
// survives, what is worse does not, and what is inside, some hundred tokens as a rule, is listed by one more pass and
// looked at exactly (selection.cuh). Where the list has no room (most of the tokens alike; k in the thousands with
// top-p), the limit is found by bisection over the whole row.
#pragma once

#include "selection.cuh"
#include "survey.cuh"

namespace mii {

constexpr double MARGIN = 3e-5;     // more than the relative error of a bin's mass
constexpr double SUM_ERROR = 1e-6;  // and of the row's

struct LimitScratch {  // shared
    SurveyScratch survey;
    SelectionScratch selection;
    double sums[WARP];
};

// Of distances, in bins.
struct Window {
    float first;
    float end;

    __device__ Window meet(Window other) const { return {fminf(first, other.first), fminf(end, other.end)}; }
};

constexpr float EVERYTHING = INFINITY;

// That of a limit in bins first to last; bin BINS is all below. One more: z may be equal where distances are not quite.
__device__ inline Window window_of(int first, int last) {
    return {first > 0 ? static_cast<float>(first) : -EVERYTHING,
            last < BINS ? static_cast<float>(last + 2) : EVERYTHING};
}

struct Totals {
    float best;   // the best logit
    double mass;  // of the row, relative to the best token's weight
    double rest;  // of the tokens that were not counted
};

// What bounds the limits; by all threads of the block alike.
struct Bounds {
    Temperature temperature;
    Bins bins;
    Totals totals;
    LimitScratch &scratch;

    // The best token's distance from the origin: none, or it is better.
    __device__ float lead() const { return (totals.best - bins.origin) * bins.per_logit; }
    __device__ double weight_at(float distance) const {
        return temperature.weight(-(distance + lead()) / bins.per_logit);
    }
    __device__ double most(int bin) const {
        return bin == 0 ? 1.0 : weight_at(static_cast<float>(bin)) * (1 + MARGIN);
    }
    __device__ double least(int bin) const { return weight_at(static_cast<float>(bin + 1)) * (1 - MARGIN); }

    // The bin of the k-th token; BINS if fewer are counted.
    __device__ int kth_bin(int k) const {
        auto count = [&](int bin) { return static_cast<double>(scratch.survey.counts[bin]); };
        auto reached = [&](double running, double) { return running >= k; };
        return block_search(BINS, count, reached, scratch.selection.search).index;
    }

    // The first bin below which there is surely, or perhaps, no more mass than top-p leaves out.
    template <typename Edge>
    __device__ int nucleus_bin(double left_out, Edge edge) const {
        auto mass = [&](int bin) { return scratch.survey.counts[bin] ? scratch.survey.counts[bin] * edge(bin) : 0.0; };
        auto reached = [&](double running, double total) { return total - running <= left_out; };
        return block_search(BINS, mass, reached, scratch.selection.search).index;
    }

    __device__ Window nucleus(float p) const {
        double left_out = totals.mass * (1 - static_cast<double>(p)) - totals.rest, error = totals.mass * SUM_ERROR;
        int first = nucleus_bin(left_out + error, [&](int bin) { return least(bin); });
        int last = nucleus_bin(left_out - error, [&](int bin) { return most(bin); });
        return window_of(first, last);
    }

    __device__ Window at(float z) const {
        float distance = -z * BINS_PER_UNIT - lead();
        return {distance < 1 ? -EVERYTHING : floorf(distance) - 1, fmaxf(floorf(distance), 0.0f) + 2};
    }

    // Of all filters; with k and p all that top-k leaves, because top-p is of its mass.
    __device__ Window window(const Filters &filters) const {
        Window window{EVERYTHING, EVERYTHING};
        if (filters.k > 0) {
            int bin = kth_bin(filters.k);
            if (filters.p < 1) return window_of(0, bin);
            window = window_of(bin, bin);
        }
        if (filters.p < 1) window = nucleus(filters.p);
        return filters.min_z > -INFINITY ? window.meet(at(filters.min_z)) : window;
    }

    // Of the counted tokens that are better than the window.
    __device__ double count_before(float first) const {
        double count = 0;
        for (int i = threadIdx.x; i < BINS && static_cast<float>(i) < first; i += blockDim.x)
            count += scratch.survey.counts[i];
        return row_reduce(count, Sum{}, scratch.sums);
    }
};

// The strictest limit, from the window's list. `above`: the mass of what is better than the window.
__device__ inline float listed_limit(const Bounds &bounds, const Selection &selection, const Filters &filters,
                                     const Window &window, double above) {
    float limit = -INFINITY;
    double mass = bounds.totals.mass;
    auto one = [](float) { return 1.0f; };
    auto weight = [](float weight) { return weight; };
    if (filters.k > 0) limit = selection.limit(bounds.count_before(window.first), filters.k, limit, one);
    if (filters.k > 0 && filters.p < 1) {
        mass = 0;
        selection.each([&](float z, float weight, int) { mass += z >= limit ? weight : 0.0f; });
        mass = above + row_reduce(mass, Sum{}, bounds.scratch.sums);
    }
    if (filters.p < 1) limit = fmaxf(limit, selection.limit(above, filters.p * mass, limit, weight));
    return fmaxf(limit, filters.min_z);
}

// The same from the row itself.
template <typename T, int WIDTH>
struct RowLimits {
    Row<T, WIDTH> row;
    Temperature temperature;
    float best;
    double *scratch;  // shared, [WARP]

    __device__ float limit(const Filters &filters) const {
        float limit = -INFINITY;
        if (filters.k > 0) limit = bisect(filters.k, limit, [](float) { return 1.0f; });
        auto weight = [&](float distance) { return temperature.weight(distance); };
        if (filters.p < 1) limit = bisect(filters.p * sum(limit, weight), limit, weight);
        return fmaxf(limit, filters.min_z);
    }

    // The largest limit from the floor up above which the sum of the values reaches the target.
    template <typename Value>
    __device__ float bisect(double target, float floor, Value value) const {
        unsigned low = 0, high = key_of(floor);
        while (low < high) {
            unsigned middle = low + (high - low) / 2;
            if (sum(-__uint_as_float(middle), value) >= target) high = middle;
            else low = middle + 1;
        }
        return -__uint_as_float(low);
    }

    // value(distance) of the tokens with z >= limit.
    template <typename Value>
    __device__ double sum(float limit, Value value) const {
        double sum = 0;
        row.each([&](int, const float(&x)[WIDTH]) {
            float part = 0;
#pragma unroll
            for (int i = 0; i < WIDTH; ++i)
                if (temperature.z(x[i] - best) >= limit) part += value(x[i] - best);
            sum += part;
        });
        return row_reduce(sum, Sum{}, scratch);
    }
};

}  // namespace mii
