// Tiles of queries, keys and values in shared memory, as warpgroups multiply them (see ptx_wgmma.cuh), and their
// barriers.
#pragma once

#include "attention.cuh"
#include "ptx_wgmma.cuh"
#include "ring.cuh"

namespace mii {

constexpr int WARPGROUP = 4 * WARP;
constexpr int GROUPS = 2;  // warpgroups that multiply
constexpr int GROUP_ROWS = 64;
constexpr int TILE_TOKENS = 128;  // of keys and values
constexpr int TILE_BLOCKS = TILE_TOKENS / KV_BLOCK;
constexpr int MAX_WGMMA_COLUMNS = 128;  // more do not fit into the registers

enum NamedBarrier { GROUP_BARRIER = 1, TURN_BARRIER = GROUP_BARRIER + GROUPS };

template <int D>
constexpr int PANELS = ceil_div(D, ptx::PANEL_COLUMNS);

// Where chunk `column / 8` of a row of a panel lies, in elements.
__device__ inline int swizzled(int row, int column) {
    return row * ptx::PANEL_COLUMNS + (column / CHUNK ^ row % 8) * CHUNK + column % CHUNK;
}

constexpr int STAGES = 3;  // of the ring of tiles
using TilePosition = RingPosition<STAGES>;

// queries [PANELS, 128, 64], then STAGES times keys and values [PANELS, 128, 64], then the barriers.
template <typename T, int D>
struct SharedTiles {
    static constexpr int QUERIES = PANELS<D> * GROUPS * GROUP_ROWS * ptx::PANEL_COLUMNS;  // elements
    static constexpr int TILE = PANELS<D> * TILE_TOKENS * ptx::PANEL_COLUMNS;
    static constexpr int BLOCK_BYTES = PANELS<D> * KV_BLOCK * ptx::PANEL_COLUMNS * 2;  // of a tile
    static constexpr int ALIGNMENT = 1024;
    static constexpr size_t BYTES = ALIGNMENT + (QUERIES + STAGES * 2 * TILE) * 2 + 4 * STAGES * sizeof(uint64_t);

    T *tiles;
    uint64_t *keys_full, *keys_empty, *values_full, *values_empty;  // [STAGES]

    __device__ explicit SharedTiles(unsigned char *bytes) {
        bytes += (ALIGNMENT - ptx::shared_address(bytes) % ALIGNMENT) % ALIGNMENT;
        tiles = reinterpret_cast<T *>(bytes);
        keys_full = reinterpret_cast<uint64_t *>(tiles + QUERIES + STAGES * 2 * TILE);
        keys_empty = keys_full + STAGES, values_full = keys_empty + STAGES, values_empty = values_full + STAGES;
    }
    __device__ T *queries() const { return tiles; }
    __device__ T *keys(int stage) const { return tiles + QUERIES + 2 * stage * TILE; }
    __device__ T *values(int stage) const { return keys(stage) + TILE; }

    __device__ uint64_t *end() const { return values_empty + STAGES; }

    __device__ void init_barriers() const {
        for (int i = 0; i < STAGES; ++i) {
            ptx::mbarrier_init(keys_full + i, 1);
            ptx::mbarrier_init(values_full + i, 1);
            ptx::mbarrier_init(keys_empty + i, GROUPS * WARPGROUP / WARP);
            ptx::mbarrier_init(values_empty + i, GROUPS * WARPGROUP / WARP);
        }
    }

    // This warp is done with what the barrier guards.
    __device__ void release(uint64_t *empty) const {
        if (threadIdx.x % WARP == 0) ptx::mbarrier_arrive(empty);
    }

    // The same, once x is computed, which is not negative. Left to itself the assembler puts what x needs behind the
    // next wait for products, for which it is no order that the source has one; no instruction passes a release.
    __device__ void release_after(float x, uint64_t *empty) const {
        if (threadIdx.x % WARP == 0 && !(x < 0)) ptx::mbarrier_arrive(empty);
    }
};

// A warpgroup's queries [64, D] on their way to shared memory; rows that there are not become zeros.
template <typename T, int D>
struct QueryChunks {
    static constexpr int CHUNKS = D / CHUNK;
    static constexpr int COUNT = GROUP_ROWS * CHUNKS / WARPGROUP;
    Vector<T, CHUNK> at[COUNT];

    __device__ static int index(int i) { return threadIdx.x % WARPGROUP + i * WARPGROUP; }
    __device__ void load(const T *from, int64_t pitch, int rows) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            int row = index(i) / CHUNKS, column = index(i) % CHUNKS * CHUNK;
            at[i] = row < rows ? mii::load<CHUNK>(from + row * pitch + column) : Vector<T, CHUNK>{};
        }
    }
    __device__ void store(T *to) const {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            int row = index(i) / CHUNKS, column = index(i) % CHUNKS * CHUNK;
            T *panel = to + column / ptx::PANEL_COLUMNS * GROUPS * GROUP_ROWS * ptx::PANEL_COLUMNS;
            mii::store<CHUNK>(panel + swizzled(row, column % ptx::PANEL_COLUMNS), at[i]);
        }
    }
};

// Clears the rows of a tile from `rows` on, by a warpgroup; whether there were any.
template <int D, typename T>
__device__ inline bool clear_rows(T *tile, int rows) {
    constexpr int CHUNKS = ptx::PANEL_COLUMNS / CHUNK;
    for (int panel = 0; panel < PANELS<D>; ++panel)
        for (int i = rows * CHUNKS + threadIdx.x % WARPGROUP; i < TILE_TOKENS * CHUNKS; i += WARPGROUP)
            store<CHUNK>(tile + panel * TILE_TOKENS * ptx::PANEL_COLUMNS + i * CHUNK, Vector<T, CHUNK>{});
    return rows < TILE_TOKENS;
}

// scores [64, 128] = queries keys^T, under way until waited for.
template <int D, typename T>
__device__ inline void start_scores(float (&scores)[TILE_TOKENS / 8][4], const T *queries, const T *keys) {
    uint64_t a = ptx::matrix_descriptor(ptx::shared_address(queries));
    uint64_t b = ptx::matrix_descriptor(ptx::shared_address(keys));
    ptx::pin(scores);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        int panel = k / 4, bytes = k % 4 * 32;
        ptx::wgmma<T>(scores, ptx::behind(a, panel * GROUPS * GROUP_ROWS * ptx::PANEL_PITCH + bytes),
                      ptx::behind(b, panel * TILE_TOKENS * ptx::PANEL_PITCH + bytes), k > 0);
    }
    ptx::wgmma_commit();
}

// out [64, D] += weights [64, 128] values, under way until waited for.
template <int D, typename T>
__device__ inline void start_values(float (&out)[D / 8][4], unsigned (&weights)[TILE_TOKENS / 16][4], const T *values) {
    uint64_t b = ptx::matrix_descriptor(ptx::shared_address(values), TILE_TOKENS * ptx::PANEL_PITCH);
    ptx::pin(out);
    ptx::pin(weights);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < TILE_TOKENS / 16; ++k)
        ptx::wgmma<T>(out, weights[k], ptx::behind(b, k * 16 * ptx::PANEL_PITCH));
    ptx::wgmma_commit();
}

template <typename T, int N>
__device__ inline void round_weights(unsigned (&weights)[N / 2][4], const float (&scores)[N][4]) {
#pragma unroll
    for (int n = 0; n < N / 2; ++n) round_weights<T>(weights[n], scores[2 * n], scores[2 * n + 1]);
}

// A lane's two rows of accumulators, each times its factor.
template <int M>
__device__ inline void scale_rows(float (&out)[M][4], const float (&factor)[2]) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) out[m][i] *= factor[i / 2];
}

// One warp's rows of `out`, rows `pitch` apart, through its 16 rows of the queries' tile, so that accesses are wide.
template <int D, typename T>
__device__ inline void write_rows(T *rows_at, int64_t pitch, int rows, const float (&out)[D / 8][4], T *staged) {
    constexpr int CHUNKS = D / CHUNK, PANEL = GROUPS * GROUP_ROWS * ptx::PANEL_COLUMNS;
    int lane = threadIdx.x % WARP;
    auto place = [&](int row, int column) {
        return staged + column / ptx::PANEL_COLUMNS * PANEL + swizzled(row, column % ptx::PANEL_COLUMNS);
    };
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            store<2>(place(lane / 4 + 8 * half, 8 * n + lane % 4 * 2),
                     Vector<T, 2>{{from_float<T>(out[n][2 * half]), from_float<T>(out[n][2 * half + 1])}});
    __syncwarp();
#pragma unroll
    for (int i = 0; i < MMA_ROWS * CHUNKS / WARP; ++i) {
        int row = (lane + i * WARP) / CHUNKS, column = (lane + i * WARP) % CHUNKS * CHUNK;
        if (row < rows) store_global<CHUNK>(rows_at + row * pitch + column, load<CHUNK>(place(row, column)));
    }
}

}  // namespace mii
