// The warp of a block that takes items and has their keys and values fetched (sm_90a).
#pragma once

#include "prefill_tasks.cuh"

namespace mii {

template <typename T>
struct WgmmaArgs {
    PrefillArgs<T> prefill;
    CUtensorMap keys, values;  // of the caches as [blocks * kv_heads * KV_BLOCK, D]
    int items;                 // tiles of queries times heads
    int counter;               // of item_counters
    bool accompanied;          // by the launch behind this one, which begins when all blocks have
};

#ifdef MII_SM_90A

// Fetches a task's tiles, the last one first. One thread.
template <typename T, int D>
__device__ inline void fetch_tiles(const WgmmaArgs<T> &args, const PrefillTask &task, const SharedTiles<T, D> &shared,
                                   TilePosition &at) {
    const auto &cache = args.prefill.cache;
    const int *table = cache.tables + task.tile.sequence * cache.table_stride;
    for (int tile = task.end - 1; tile >= task.first; --tile, at.advance()) {
        int blocks = min(TILE_BLOCKS, ceil_div(task.tile.context, KV_BLOCK) - tile * TILE_BLOCKS);
        int rows[TILE_BLOCKS];
        for (int i = 0; i < blocks; ++i)
            rows[i] = (table[tile * TILE_BLOCKS + i] * cache.kv_heads + task.kv_head) * KV_BLOCK;
        auto fetch = [&](T *to, const CUtensorMap &map, uint64_t *full, uint64_t *empty) {
            ptx::mbarrier_wait(empty + at.index, at.parity ^ 1);
            ptx::mbarrier_arrive_expect(full + at.index, blocks * SharedTiles<T, D>::BLOCK_BYTES);
            for (int i = 0; i < blocks; ++i)
                for (int panel = 0; panel < PANELS<D>; ++panel)
                    ptx::copy_box(to + (panel * TILE_TOKENS + i * KV_BLOCK) * ptx::PANEL_COLUMNS, &map,
                                  panel * ptx::PANEL_COLUMNS, rows[i], full + at.index);
        };
        fetch(shared.keys(at.index), args.keys, shared.keys_full, shared.keys_empty);
        fetch(shared.values(at.index), args.values, shared.values_full, shared.values_empty);
    }
}

// Takes items, tells the warpgroups of them and fetches their tiles. One warp.
template <typename T, int D>
__device__ inline void produce(const WgmmaArgs<T> &args, const SharedTiles<T, D> &shared, TaskRing &tasks) {
    bool leads = threadIdx.x % WARP == 0;
    TilePosition at;
    RingPosition<TaskRing::SLOTS> slot;
    int item = blockIdx.x;
    while (item < args.items) {
        PrefillTask task = find_task(args.prefill, item);
        if (task.groups > 0) {
            if (leads) {
                tasks.put(slot, task);
                fetch_tiles(args, task, shared, at);
            }
            slot.advance();
        }
        item = __shfl_sync(ALL_LANES, leads ? take_item(args.counter, args.items) : 0, 0);
    }
    if (leads) tasks.put(slot, PrefillTask{});
}

#endif

}  // namespace mii
