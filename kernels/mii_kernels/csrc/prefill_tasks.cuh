// The tiles of queries that thread blocks serve, one after another, until there are none left (sm_90a).
//
// Items are numbered tile by tile, the heads of a tile one after another. A block starts with its own number and takes
// further ones from a counter that all blocks share: who is done first takes the next, as with blocks of one item each,
// but what the next item needs is fetched before the one before it is done.
#pragma once

#include "counter_sets.cuh"
#include "prefill.cuh"
#include "warpgroup_tile.cuh"

namespace mii {

// An item as a block's warps have to know it.
struct PrefillTask {
    QueryTile tile;
    int head, kv_head;
    int first, end;  // tiles of keys and values
    int groups;      // warpgroups that have any queries; 0: there is nothing more to do
};

// By a whole warp. An item that the batch does not have gets no groups.
template <typename T>
__device__ inline PrefillTask find_task(const PrefillArgs<T> &args, int item) {
    PrefillTask task;
    task.tile = find_tile(item / args.heads, GROUPS * GROUP_ROWS, args.cu_seqlens, args.cache.context_lens,
                          args.sequences);
    task.head = item % args.heads;
    task.kv_head = task.head / (args.heads / args.cache.kv_heads);
    task.first = CausalMask{task.tile.position, args.window}.first_seen(0) / TILE_TOKENS;
    task.end = ceil_div(task.tile.position + task.tile.rows, TILE_TOKENS);
    task.groups = ceil_div(task.tile.rows, GROUP_ROWS);
    return task;
}

// What blocks have taken; 0 before and after each launch. Launches that run at the same time need one each: the host
// gives them out in turn, and a captured launch keeps its own.
constexpr int COUNTERS = 256;
__device__ int item_counters[COUNTERS];
static CounterSets<COUNTERS> item_sets;

// One thread. A block takes until it is told of an item that there is not: all of them together as often as there are
// items, where blocks are no more than these. The last one leaves the counter as it was.
__device__ inline int take_item(int counter, int items) {
    int taken = atomicAdd(item_counters + counter, 1);
    if (taken == items - 1) item_counters[counter] = 0;
    return taken + static_cast<int>(gridDim.x);
}

// From one warp to those of all groups, through shared memory.
struct TaskRing {
    static constexpr int SLOTS = 2;
    static constexpr int WORDS = sizeof(PrefillTask) / sizeof(int);

    int words[SLOTS][WORDS];
    uint64_t full[SLOTS], empty[SLOTS];

    __device__ void init_barriers() {
        for (int i = 0; i < SLOTS; ++i) {
            ptx::mbarrier_init(full + i, 1);
            ptx::mbarrier_init(empty + i, GROUPS * WARPGROUP / WARP);
        }
    }
    // One thread.
    __device__ void put(const RingPosition<SLOTS> &slot, const PrefillTask &task) {
        ptx::mbarrier_wait(empty + slot.index, slot.parity ^ 1);
        int all[WORDS];
        memcpy(all, &task, sizeof task);
#pragma unroll
        for (int i = 0; i < WORDS; ++i) words[slot.index][i] = all[i];
        ptx::mbarrier_arrive(full + slot.index);
    }
    // A whole warp. Its first lane reads and, once all lanes have seen `full`, says so. What comes by a shuffle is known
    // to be the same for all lanes, and may be kept in uniform registers.
    __device__ PrefillTask get(const RingPosition<SLOTS> &slot) {
        ptx::mbarrier_wait(full + slot.index, slot.parity);
        bool reads = threadIdx.x % WARP == 0;
        int all[WORDS];
#pragma unroll
        for (int i = 0; i < WORDS; ++i) all[i] = __shfl_sync(ALL_LANES, reads ? words[slot.index][i] : 0, 0);
        __syncwarp();
        if (reads) ptx::mbarrier_arrive(empty + slot.index);
        PrefillTask task;
        memcpy(&task, all, sizeof task);
        return task;
    }
};

}  // namespace mii
