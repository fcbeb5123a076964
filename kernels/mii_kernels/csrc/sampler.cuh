// What survives the filters, as a sum of weights for each tile of a row.
#pragma once

#include "limits.cuh"

namespace mii {

constexpr size_t MAX_SHARED_BYTES = 227 * 1024;
constexpr int SAMPLE_THREADS = 512;

struct SampleScratch {  // shared
    double sums[WARP];
    float peaks[WARP];
    unsigned long long best[WARP];
    SearchScratch search;
};

struct Survived {
    float best;   // the best logit
    float limit;  // of z
};

struct TileScratch {  // shared; of each tile
    double *sums;  // of the weights that survive
    Fixed *late;   // of those in the list, until they are added
    Mass *masses;  // of the first pass

    static constexpr size_t BYTES = sizeof(double) + sizeof(Fixed) + sizeof(Mass);

    __device__ TileScratch(void *shared, int tiles)
        : sums(static_cast<double *>(shared)),
          late(reinterpret_cast<Fixed *>(sums + tiles)),
          masses(reinterpret_cast<Mass *>(late + tiles)) {}
};

template <typename T, int WIDTH>
struct Sampler {
    Row<T, WIDTH> row;
    Temperature temperature;
    SampleScratch &scratch;
    TileScratch of_tile;

    __device__ int tiles() const { return Tile<T, WIDTH>::count(row.vocab); }

    template <bool FILTERED>
    __device__ Survived survive(const Filters &filters, LimitScratch *limits) const {
        Survey<T, WIDTH> survey{row, temperature};
        if constexpr (FILTERED) {
            if (filters.any()) {
                Bins bins = survey.counting(filters, of_tile.masses, limits->survey);
                Totals totals = normalise();
                return {totals.best, filter(bins, totals, filters, *limits)};
            }
        }
        survey.plain(of_tile.masses);
        return {normalise().best, -INFINITY};
    }

    // Makes sums of the tiles' masses, relative to the best token's weight.
    __device__ Totals normalise() const {
        float best = -FLT_MAX;
        for (int i = threadIdx.x; i < tiles(); i += blockDim.x) best = fmaxf(best, of_tile.masses[i].peak);
        best = row_reduce(best, Max{}, scratch.peaks);
        double mass = 0, rest = 0;
        for (int i = threadIdx.x; i < tiles(); i += blockDim.x) {
            double factor = ::exp2(static_cast<double>(of_tile.masses[i].peak - best) * temperature.rate);
            if (factor < 0x1p-100) factor = 0;  // as single weights are
            of_tile.sums[i] = of_tile.masses[i].all * factor;
            mass += of_tile.sums[i], rest += of_tile.masses[i].rest * factor;
        }
        __syncthreads();  // the sums are complete
        mass = row_reduce(mass, Sum{}, scratch.sums);
        return {best, mass, row_reduce(rest, Sum{}, scratch.sums)};
    }

    // The limit that the filters mean. Leaves in `sums` what survives it.
    __device__ float filter(const Bins &bins, const Totals &totals, const Filters &filters,
                            LimitScratch &limits) const {
        Bounds bounds{temperature, bins, totals, limits};
        Selection selection{temperature, totals.best, limits.selection};
        Window window = bounds.window(filters);
        double above = collect(bins, window, totals.best, limits.selection);
        if (limits.selection.listed > LIST) return filter_row(filters, totals.best);
        float limit = listed_limit(bounds, selection, filters, window, above);
        selection.each([&](float z, float weight, int id) {
            if (z >= limit) of_tile.late[id / Tile<T, WIDTH>::TOKENS].add(weight);
        });
        __syncthreads();
        for (int i = threadIdx.x; i < tiles(); i += blockDim.x) of_tile.sums[i] += of_tile.late[i].value();
        __syncthreads();
        return limit;
    }

    // Sums what is better than the window, which it returns, and lists what is in it.
    __device__ double collect(const Bins &bins, const Window &window, float best, SelectionScratch &list) const {
        if (threadIdx.x == 0) list.listed = 0;
        for (int i = threadIdx.x; i < tiles(); i += blockDim.x) of_tile.late[i] = {};
        __syncthreads();
        return sum_tiles([&](const Tile<T, WIDTH> &tile) {
            float part = 0;
            unsigned inside = 0;
            tile.each([&](int place, float x) {  // NaN is nowhere
                float distance = bins.distance(x), weight = temperature.weight(fminf(x - best, 0.0f));
                if (distance < window.first) part += weight;
                else if (distance < window.end) inside |= 1u << place;
            });
            if (inside) append(tile, inside, list);
            return part;
        });
    }

    // inside: a bit for each place of the tile.
    __device__ void append(const Tile<T, WIDTH> &tile, unsigned inside, SelectionScratch &list) const {
        int at = atomicAdd(&list.listed, __popc(inside));
        for (; inside && at < LIST; inside &= inside - 1) {
            int id = tile.id(__ffs(static_cast<int>(inside)) - 1);
            list.list[at++] = {cleaned(to_float(row.logits[id])), id};
        }
    }

    __device__ float filter_row(const Filters &filters, float best) const {
        float limit = RowLimits<T, WIDTH>{row, temperature, best, scratch.sums}.limit(filters);
        sum_tiles([&](const Tile<T, WIDTH> &tile) {
            float part = 0;
            tile.each([&](int, float x) {
                float distance = cleaned(x) - best;
                if (temperature.z(distance) >= limit) part += temperature.weight(distance);
            });
            return part;
        });
        return limit;
    }

    // Leaves part(tile) of each tile, over its lanes, in `sums`; returns that of the row.
    template <typename Part>
    __device__ double sum_tiles(Part part) const {
        TileRange mine(tiles());
        double all = 0;
        for (int index = mine.begin; index < mine.end; ++index) {
            double sum = warp_reduce(part(Tile<T, WIDTH>(row, index)), Sum{});
            if (threadIdx.x % WARP == 0) of_tile.sums[index] = sum, all += sum;
        }
        __syncthreads();  // the sums are complete, and the list
        return row_reduce(all, Sum{}, scratch.sums);
    }
};

// A block for each row, with shared memory for its tiles and, where they are asked for, for limits.
template <typename T, int WIDTH>
LaunchShape tile_launch(int64_t rows, int vocab, bool limits, cudaStream_t stream) {
    int tiles = Tile<T, WIDTH>::count(vocab);
    size_t bytes = tiles * TileScratch::BYTES + (limits ? sizeof(LimitScratch) : 0);
    return {static_cast<unsigned>(rows), static_cast<unsigned>(min(SAMPLE_THREADS, tiles * WARP)), stream, bytes};
}

}  // namespace mii
