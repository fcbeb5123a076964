// The tokens and weights of gemm_wgmma.cu on their way through shared memory (sm_90a).
//
// The result is cut into tiles of 256 tokens, one for each cluster of two blocks, and each block has 128 of them. Both
// blocks multiply with the same 256 rows of the weight: each fetches half of these for both, so that L2 is asked for
// each byte once a cluster. A step is 64 elements of k; each has a stage of the ring, a panel of 128 tokens and two of
// 128 rows of the weight.
#pragma once

#include "launch.cuh"
#include "ptx_wgmma.cuh"
#include "reduce.cuh"
#include "ring.cuh"

namespace mii {

struct GemmTile {
    static constexpr int CLUSTER = 2;          // blocks
    static constexpr int GROUPS = 2;           // warpgroups of a block that multiply, with GROUP_TOKENS each
    static constexpr int GROUP_TOKENS = 64, TOKENS = GROUPS * GROUP_TOKENS;
    static constexpr int HALF = 128, ROWS = 2 * HALF;  // of the weight
    static constexpr int STEP = ptx::PANEL_COLUMNS;
    static constexpr int GROUP_THREADS = 4 * WARP, THREADS = (GROUPS + 1) * GROUP_THREADS;
    static constexpr int GROUP_BYTES = GROUP_TOKENS * ptx::PANEL_PITCH, TOKENS_BYTES = GROUPS * GROUP_BYTES;
    static constexpr int HALF_BYTES = HALF * ptx::PANEL_PITCH;
    static constexpr int STAGE_BYTES = TOKENS_BYTES + 2 * HALF_BYTES;
    static constexpr int STAGES = 4;
    // The columns of the result that a warpgroup writes at once, and the panels that they make.
    static constexpr int OUT_PANELS = HALF / ptx::PANEL_COLUMNS;
    static constexpr int OUT_BYTES = OUT_PANELS * GROUP_BYTES;
    static constexpr int ALIGNMENT = 1024;
    static constexpr size_t SHARED_BYTES =
        ALIGNMENT + STAGES * STAGE_BYTES + GROUPS * OUT_BYTES + 2 * STAGES * sizeof(uint64_t);
};

struct GemmArgs {
    CUtensorMap x, weight;  // [tokens, k] and [rows, k] in boxes of 128 rows
    CUtensorMap out;        // [tokens, n] in boxes of 64 rows
    int steps;              // of k
    int tall, wide;         // the tiles of the result: of tokens, of columns
    int columns;            // of the result that a tile has
    int second;             // the weight's row with which a tile's second half begins, if its first begins with row 0
    mii_activation activation;
    bool adds;  // to what `out` has
};

// Tiles in an order in which those of one time share tokens and weights in L2: down a band of the result, then the
// columns behind it.
struct TileOrder {
    static constexpr int MOST = 8;  // tiles down a band
    int tall, wide;
    int height;  // of a band; only the last one may have less

    __device__ TileOrder(int tall, int wide) : tall(tall), wide(wide), height(ceil_div(tall, ceil_div(tall, MOST))) {}
    __device__ int count() const { return tall * wide; }
    __device__ int2 at(int index) const {
        int first = index / (height * wide) * height, tiles = min(height, tall - first);
        int within = index - first * wide;
        return make_int2(first + within % tiles, within / tiles);
    }
};

#ifdef MII_SM_90A

using GemmStage = RingPosition<GemmTile::STAGES>;

// Stages, then what the warpgroups write, then the barriers `full` (bytes have come) and `empty` (all warps of the
// cluster are done with this block's stage and its neighbour's, which the same copies fill).
struct GemmRing {
    unsigned char *bytes;
    uint64_t *full, *empty;

    __device__ explicit GemmRing(unsigned char *shared) {
        constexpr unsigned ALIGNMENT = GemmTile::ALIGNMENT;
        bytes = shared + (ALIGNMENT - ptx::shared_address(shared) % ALIGNMENT) % ALIGNMENT;
        full = reinterpret_cast<uint64_t *>(out(GemmTile::GROUPS));
        empty = full + GemmTile::STAGES;
    }
    __device__ unsigned char *tokens(int stage) const { return bytes + stage * GemmTile::STAGE_BYTES; }
    __device__ unsigned char *weight(int stage) const { return tokens(stage) + GemmTile::TOKENS_BYTES; }
    __device__ unsigned char *out(int group) const { return tokens(GemmTile::STAGES) + group * GemmTile::OUT_BYTES; }

    __device__ void init_barriers() const {
        for (int i = 0; i < GemmTile::STAGES; ++i) {
            ptx::mbarrier_init(full + i, 1);
            ptx::mbarrier_init(empty + i, GemmTile::CLUSTER * GemmTile::GROUPS * GemmTile::GROUP_THREADS / WARP);
        }
    }
    // This warp is done with a stage.
    __device__ void release(int stage) const {
        int lane = threadIdx.x % WARP;
        if (lane < GemmTile::CLUSTER) ptx::mbarrier_arrive_at(empty + stage, lane);
    }
};

// Fetches all that a block multiplies, and half of its weights for its neighbour too. One thread.
__device__ inline void fetch(const GemmArgs &args, const GemmRing &ring, int rank) {
    constexpr unsigned BOTH = (1u << GemmTile::CLUSTER) - 1;
    TileOrder order{args.tall, args.wide};
    GemmStage stage;
    for (int index = blockIdx.x / GemmTile::CLUSTER; index < order.count(); index += gridDim.x / GemmTile::CLUSTER) {
        int2 tile = order.at(index);
        int token = (tile.x * GemmTile::CLUSTER + rank) * GemmTile::TOKENS;
        int row = tile.y * args.columns + rank * args.second;
        for (int step = 0; step < args.steps; ++step, stage.advance()) {
            uint64_t *full = ring.full + stage.index;
            ptx::mbarrier_wait(ring.empty + stage.index, stage.parity ^ 1);
            ptx::mbarrier_arrive_expect(full, GemmTile::STAGE_BYTES);
            ptx::copy_box(ring.tokens(stage.index), &args.x, step * GemmTile::STEP, token, full);
            ptx::copy_box(ring.weight(stage.index) + rank * GemmTile::HALF_BYTES, &args.weight, step * GemmTile::STEP,
                          row, full, BOTH);
        }
    }
}

#endif

}  // namespace mii
