// Which rows of a ragged batch a thread block serves, found on the device.
#pragma once

#include "launch.cuh"
#include "reduce.cuh"

namespace mii {

// Rows of one block: the sequence, its first token in the packed batch, that token's place in the context.
struct QueryTile {
    int sequence;
    int token;
    int rows;  // 0: the grid is larger than the batch
    int position;
    int context;  // tokens of the sequence
};

// The tile-th tile, counted sequence by sequence, a sequence's last tile first. Every lane of a warp gets it.
__device__ inline QueryTile find_tile(int tile, int tile_rows, const int *cu_seqlens, const int *context_lens,
                                      int sequences) {
    int lane = threadIdx.x % WARP, before = 0;
    for (int first = 0; first < sequences; first += WARP) {
        int sequence = first + lane, start = 0, length = 0, context = 0;
        if (sequence < sequences) {
            start = cu_seqlens[sequence];
            length = cu_seqlens[sequence + 1] - start;
            context = context_lens[sequence];
        }
        int tiles = ceil_div(length, tile_rows), end = tiles;
#pragma unroll
        for (int delta = 1; delta < WARP; delta *= 2) {
            int more = __shfl_up_sync(ALL_LANES, end, delta);
            if (lane >= delta) end += more;
        }
        end += before;
        unsigned past = __ballot_sync(ALL_LANES, tile < end);
        if (past) {
            int owner = __ffs(past) - 1;
            start = __shfl_sync(ALL_LANES, start, owner);
            length = __shfl_sync(ALL_LANES, length, owner);
            context = __shfl_sync(ALL_LANES, context, owner);
            int row = (__shfl_sync(ALL_LANES, end, owner) - 1 - tile) * tile_rows;
            return {first + owner, start + row, min(tile_rows, length - row), context - length + row, context};
        }
        before = __shfl_sync(ALL_LANES, end, WARP - 1);
    }
    return {0, 0, 0, 0, 0};
}

}  // namespace mii
