// Inverse transform sampling over a row: the token at which the running sum of weights, in order of ids, exceeds a share
// of their sum.
#pragma once

#include "search.cuh"
#include "tile.cuh"

namespace mii {

template <typename T, int WIDTH>
struct Draw {
    using RowTile = Tile<T, WIDTH>;
    Row<T, WIDTH> row;
    Temperature temperature;
    float best;
    float limit;  // on z; tokens below it have no weight

    // sums: shared, the weights of each tile. -1 if they are all 0. u in [0, 1).
    __device__ int token(double u, const double *sums, SearchScratch &scratch) const {
        auto sum = [&](int i) { return sums[i]; };
        auto exceeded = [&](double running, double total) { return running > u * total; };
        int tiles = RowTile::count(row.vocab);
        Place tile = block_search(tiles, sum, exceeded, scratch);
        return tile.index < tiles ? in_tile(tile.index, u * tile.total - tile.before) : -1;
    }

    // Every warp does the same, for the sake of simplicity.
    __device__ int in_tile(int index, double wanted) const {
        RowTile tile(row, index);
        double sums[RowTile::VECTORS] = {}, whole = 0;
        tile.each([&](int place, float x) { sums[place / WIDTH] += weight(x); });
#pragma unroll
        for (double &sum : sums) sum = warp_reduce(sum, Sum{}), whole += sum;
        wanted = fmin(wanted, whole * (1 - 0x1p-50));  // rounding must not lead past the end
        double before = 0, running = 0;
        int step = -1;
#pragma unroll
        for (int v = 0; v < RowTile::VECTORS; ++v) {
            if (step < 0 && running + sums[v] > wanted) step = v, before = running;
            running += sums[v];
        }
        return in_step(tile.first + max(step, 0) * RowTile::STEP, wanted - before);
    }

    // first: id of the lane's first token.
    __device__ int in_step(int first, double wanted) const {
        double weights[WIDTH], own = 0;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            weights[i] = first + i < row.vocab ? weight(to_float(row.logits[first + i])) : 0.0f;
            own += weights[i];
        }
        double inclusive = warp_scan(own), whole = __shfl_sync(ALL_LANES, inclusive, WARP - 1);
        wanted = fmin(wanted, whole * (1 - 0x1p-50));
        unsigned reached = __ballot_sync(ALL_LANES, inclusive > wanted);
        int winner = __ffs(static_cast<int>(reached)) - 1, token = first;
        double previous = __shfl_up_sync(ALL_LANES, inclusive, 1), running = threadIdx.x % WARP == 0 ? 0 : previous;
        bool found = false;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            running += weights[i];
            if (!found && weights[i] > 0) token = first + i, found = running > wanted;
        }
        return __shfl_sync(ALL_LANES, token, winner);
    }

    __device__ float weight(float x) const {
        float distance = cleaned(x) - best;
        return limit == -INFINITY || temperature.z(distance) >= limit ? temperature.weight(distance) : 0.0f;
    }
};

}  // namespace mii
