// The limit on z among a few thousand listed tokens, by their float's bits: a radix search in shared memory.
#pragma once

#include "scores.cuh"
#include "search.cuh"

namespace mii {

constexpr int LIST = 8191;
constexpr int DIGIT_BITS = 9;
constexpr int DIGITS = 1 << DIGIT_BITS;

// A sum of at most LIST weights up to 1, to 2^-38, the same whatever the order. In halves, because adding 64 bits
// atomically takes several times as long.
struct Fixed {
    static constexpr int HALF = 19;
    unsigned low;
    unsigned high;

    __device__ void add(float weight) {
        auto bits = static_cast<unsigned long long>(weight * 0x1p38f);
        atomicAdd(&low, static_cast<unsigned>(bits) & ((1u << HALF) - 1));
        atomicAdd(&high, static_cast<unsigned>(bits >> HALF));
    }
    __device__ double value() const { return high * 0x1p-19 + low * 0x1p-38; }
};

struct Listed {
    float x;
    int id;
};

struct SelectionScratch {  // shared
    int listed;            // may be more than the list has room for
    Listed list[LIST];
    Fixed digits[DIGITS];
    unsigned keys[WARP];
    SearchScratch search;
};

struct Selection {
    Temperature temperature;
    float best;
    SelectionScratch &scratch;

    // f(z, weight, id) for each listed token of a thread.
    template <typename F>
    __device__ void each(F f) const {
        for (int i = threadIdx.x; i < scratch.listed; i += blockDim.x) {
            float distance = scratch.list[i].x - best;
            f(temperature.z(distance), temperature.weight(distance), scratch.list[i].id);
        }
    }

    // The largest limit for which `above`, and the values of the listed tokens between it and the floor, reach the
    // target; the least z of the list if that is too little, -inf if the list is empty. value(weight) in [0, 1].
    template <typename Value>
    __device__ float limit(double above, double target, float floor, Value value) const {
        unsigned low = 0xffffffffu, high = 0;
        each([&](float z, float, int) {
            if (z >= floor) low = min(low, key_of(z)), high = max(high, key_of(z));
        });
        low = row_reduce(low, Min{}, scratch.keys), high = row_reduce(high, Max{}, scratch.keys);
        if (low > high) return -INFINITY;
        while (low < high) {
            int shift = max(0, 32 - __clz(static_cast<int>(high - low)) - DIGIT_BITS);
            count_digits(low, high, shift, value);
            auto sum = [&](int digit) { return scratch.digits[digit].value(); };
            auto reached = [&](double running, double) { return above + running >= target; };
            Place place = block_search(DIGITS, sum, reached, scratch.search);
            if (place.index == DIGITS) return -__uint_as_float(high);
            above += place.before;
            low += static_cast<unsigned>(place.index) << shift;
            high = min(high, low + (1u << shift) - 1);
        }
        return -__uint_as_float(low);
    }

    // The values of the tokens with keys in [low, high], by (key - low) >> shift.
    template <typename Value>
    __device__ void count_digits(unsigned low, unsigned high, int shift, Value value) const {
        for (int i = threadIdx.x; i < DIGITS; i += blockDim.x) scratch.digits[i] = {};
        __syncthreads();
        each([&](float z, float weight, int) {
            unsigned key = key_of(z);
            if (key >= low && key <= high) scratch.digits[(key - low) >> shift].add(value(weight));
        });
        __syncthreads();
    }
};

}  // namespace mii
