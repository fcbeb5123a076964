// The weights and tokens of skinny_wgmma.cu on their way through shared memory (sm_90a).
//
// A piece is a tile of the weight's rows times a part of k; a block has pieces one after another, and a piece has steps
// of STEP elements of k. Each step has a stage of the ring: panels of 64 columns of the weight, then of the tokens.
#pragma once

#include "ptx_wgmma.cuh"
#include "reduce.cuh"

namespace mii {

// How many tokens a product has, and how many warpgroups share the rows of a tile.
template <int TOKENS_, int GROUPS_>
struct SkinnyTile {
    static constexpr int TOKENS = TOKENS_, GROUPS = GROUPS_;
    static constexpr int PANELS = GROUPS == 1 ? 2 : 1, STEP = PANELS * ptx::PANEL_COLUMNS;
    static constexpr int GROUP_THREADS = 4 * WARP, GROUP_ROWS = 64;  // of a product, not all of which the tile may have
    static constexpr int THREADS = GROUPS * GROUP_THREADS + WARP;    // and a warp that fetches
    static constexpr int SUMS = TOKENS / 8;
    static constexpr int MAX_STAGES = 32, ALIGNMENT = 1024;

    static __host__ __device__ int stage_bytes(int rows) { return PANELS * (rows + TOKENS) * ptx::PANEL_PITCH; }
    // Of a block. Products with rows that the tile does not have read, and ignore, what is behind the last stage.
    static size_t shared_bytes(int rows, int stages) {
        int barriers = (2 * MAX_STAGES + GROUPS) * sizeof(uint64_t);
        int excess = (GROUP_ROWS - rows / GROUPS - PANELS * TOKENS) * ptx::PANEL_PITCH;
        return ALIGNMENT + stages * stage_bytes(rows) + (barriers > excess ? barriers : excess);
    }
};

template <typename T>
struct SkinnyWgmmaArgs {
    CUtensorMap weight, x;  // [n, k] in boxes of `rows` rows, [tokens, k] in boxes of TOKENS rows
    T *out;                 // [tokens, n]
    const T *bias;          // [n], or null
    float4 *partials;       // [pieces, SUMS, GROUPS * GROUP_THREADS], or null
    int tokens, n, k;
    int rows, splits, pieces;
    int stages;
    int counters;  // of split_counters
};

struct Piece {
    int tile, split;
    int first, end;  // steps of k
};

template <typename Shape, typename T>
__device__ inline Piece find_piece(const SkinnyWgmmaArgs<T> &args, int index) {
    int steps = ceil_div(args.k, Shape::STEP), split = index % args.splits;
    return {index / args.splits, split, split * steps / args.splits, (split + 1) * steps / args.splits};
}

// The pieces of this block: the first, or the one behind the last.
template <typename T>
__device__ inline int first_piece(const SkinnyWgmmaArgs<T> &args, int block) {
    return args.pieces * block / static_cast<int>(gridDim.x);
}

// One step after another of a block's pieces.
template <typename Shape, typename T>
struct StepCursor {
    const SkinnyWgmmaArgs<T> &args;
    int index, last;
    Piece piece;

    __device__ explicit StepCursor(const SkinnyWgmmaArgs<T> &args)
        : args(args), index(first_piece(args, blockIdx.x)), last(first_piece(args, blockIdx.x + 1)),
          piece(find_piece<Shape>(args, index)) {}
    __device__ bool valid() const { return index < last; }
    __device__ void advance() {
        if (++piece.first == piece.end) piece = find_piece<Shape>(args, ++index);
    }
    __device__ int column() const { return piece.first * Shape::STEP; }
};

#ifdef MII_SM_90A

// A place in the ring; the parity is that of the phase of its barriers.
struct Stage {
    int index = 0;
    unsigned parity = 0;
    __device__ void advance(int stages) {
        if (++index == stages) index = 0, parity ^= 1;
    }
};

// Stages, then the barriers `full` (bytes have come) and `empty` (all warps are done), then a word for each group.
template <typename Shape>
struct SkinnyRing {
    unsigned char *bytes;
    uint64_t *full, *empty;
    int *words;
    int rows;

    __device__ SkinnyRing(unsigned char *shared, int rows, int stages) : rows(rows) {
        bytes = shared + (Shape::ALIGNMENT - ptx::shared_address(shared) % Shape::ALIGNMENT) % Shape::ALIGNMENT;
        full = reinterpret_cast<uint64_t *>(bytes + stages * Shape::stage_bytes(rows));
        empty = full + Shape::MAX_STAGES;
        words = reinterpret_cast<int *>(empty + Shape::MAX_STAGES);
    }
    __device__ void init_barriers(int stages) const {
        for (int i = 0; i < stages; ++i) {
            ptx::mbarrier_init(full + i, 1);
            ptx::mbarrier_init(empty + i, Shape::GROUPS * Shape::GROUP_THREADS / WARP);
        }
    }
    __device__ unsigned char *weight(int stage) const { return bytes + stage * Shape::stage_bytes(rows); }
    __device__ unsigned char *tokens(int stage) const {
        return weight(stage) + Shape::PANELS * rows * ptx::PANEL_PITCH;
    }
    // This warp is done with a stage.
    __device__ void release(int stage) const {
        if (threadIdx.x % WARP == 0) ptx::mbarrier_arrive(empty + stage);
    }
};

template <typename Shape, typename T>
__device__ inline void fetch_weight(const SkinnyRing<Shape> &ring, int stage, const StepCursor<Shape, T> &at) {
    ptx::mbarrier_arrive_expect(ring.full + stage, Shape::stage_bytes(ring.rows));
    for (int panel = 0; panel < Shape::PANELS; ++panel)
        ptx::copy_box(ring.weight(stage) + panel * ring.rows * ptx::PANEL_PITCH, &at.args.weight,
                      at.column() + panel * ptx::PANEL_COLUMNS, at.piece.tile * ring.rows, ring.full + stage);
}

template <typename Shape, typename T>
__device__ inline void fetch_tokens(const SkinnyRing<Shape> &ring, int stage, const StepCursor<Shape, T> &at) {
    for (int panel = 0; panel < Shape::PANELS; ++panel)
        ptx::copy_box(ring.tokens(stage) + panel * Shape::TOKENS * ptx::PANEL_PITCH, &at.args.x,
                      at.column() + panel * ptx::PANEL_COLUMNS, 0, ring.full + stage);
}

// Fetches all that a block multiplies. Weights are there before this launch, so that the ring is filled with them while
// earlier kernels may still be at the tokens. One thread.
template <typename Shape, typename T>
__device__ inline void fetch(const SkinnyWgmmaArgs<T> &args, const SkinnyRing<Shape> &ring) {
    StepCursor<Shape, T> ahead(args), at(args);
    int filled = 0;
    for (; filled < args.stages && ahead.valid(); ++filled, ahead.advance()) fetch_weight(ring, filled, ahead);
    ptx::wait_for_earlier_grids();
    Stage stage;
    for (int step = 0; at.valid(); ++step, at.advance(), stage.advance(args.stages)) {
        if (step >= filled) {
            ptx::mbarrier_wait(ring.empty + stage.index, stage.parity ^ 1);
            fetch_weight(ring, stage.index, at);
        }
        fetch_tokens(ring, stage.index, at);
    }
}

#endif

}  // namespace mii
