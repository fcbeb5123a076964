// Causal attention of chunks of tokens over the paged cache, for sm_90a (after FlashAttention-3).
//
//   query, out [tokens, heads, D], sequences packed one after another; the tokens of a sequence are the last ones of
//   its context, all of which is in the cache. D at most 128.
//
// A block serves 128 tokens of one head. One thread of its last warpgroup has the copy engine fetch tiles of 128 keys
// and values into a ring of stages; the other two warpgroups have 64 tokens each and work through the tiles from the
// last to the first. A warpgroup starts the scores of a tile and the weighted sum of the one before it, and has its
// exponentials of the former under way while the tensor cores are at the latter. The two groups take turns at the
// tensor cores, so that one's exponentials hide behind the other's products.
//
// Each stage has two barriers for keys and two for values: `full` (bytes have come) and `empty` (all warps are done).
// Only tiles that the diagonal or the window cuts are masked. Rows of values past the context are cleared in shared
// memory, because a weight of 0 does not undo the NaN that another request may have left there.
//
// Cost: as in attention_prefill.cu; here 989 Tflop/s are there to be had. A tile of 128 x 128 x 128 takes its two
// products 2048 clocks, its exponentials, 16 a clock, 1024.
#include "prefill.cuh"
#include "ptx_wgmma.cuh"
#include "tensor_map.cuh"
#include "warpgroup_tile.cuh"

namespace mii {

template <typename T>
struct WgmmaArgs {
    PrefillArgs<T> prefill;
    CUtensorMap keys, values;  // of the caches as [blocks * kv_heads * KV_BLOCK, D]
};

// What all threads of a block agree on.
struct PrefillTask {
    QueryTile tile;
    int head, kv_head;
    int first, end;  // tiles of keys and values
    int groups;      // of 64 tokens that have any
};

template <typename T>
__device__ inline PrefillTask find_task(const PrefillArgs<T> &args) {
    PrefillTask task;
    task.tile = find_tile(static_cast<int>(blockIdx.y), GROUPS * GROUP_ROWS, args.cu_seqlens, args.cache.context_lens,
                          args.sequences);
    task.head = blockIdx.x;
    task.kv_head = task.head / (args.heads / args.cache.kv_heads);
    task.first = CausalMask{task.tile.position, args.window}.first_seen(0) / TILE_TOKENS;
    task.end = ceil_div(task.tile.position + task.tile.rows, TILE_TOKENS);
    task.groups = ceil_div(task.tile.rows, GROUP_ROWS);
    return task;
}

#ifdef MII_SM_90A

// Fetches the tiles, the last one first. One thread.
template <typename T, int D>
__device__ inline void produce(const WgmmaArgs<T> &args, const PrefillTask &task, const SharedTiles<T, D> &shared) {
    const auto &cache = args.prefill.cache;
    const int *table = cache.tables + task.tile.sequence * cache.table_stride;
    Stage<SharedTiles<T, D>::STAGES> stage;
    for (int tile = task.end - 1; tile >= task.first; --tile, stage.advance()) {
        int blocks = min(TILE_BLOCKS, ceil_div(task.tile.context, KV_BLOCK) - tile * TILE_BLOCKS);
        int rows[TILE_BLOCKS];
        for (int i = 0; i < blocks; ++i)
            rows[i] = (table[tile * TILE_BLOCKS + i] * cache.kv_heads + task.kv_head) * KV_BLOCK;
        auto fetch = [&](T *to, const CUtensorMap &map, uint64_t *full, uint64_t *empty) {
            ptx::mbarrier_wait(empty + stage.index, stage.parity ^ 1);
            ptx::mbarrier_arrive_expect(full + stage.index, blocks * SharedTiles<T, D>::BLOCK_BYTES);
            for (int i = 0; i < blocks; ++i)
                for (int panel = 0; panel < PANELS<D>; ++panel)
                    ptx::copy_box(to + (panel * TILE_TOKENS + i * KV_BLOCK) * ptx::PANEL_COLUMNS, &map,
                                  panel * ptx::PANEL_COLUMNS, rows[i], full + stage.index);
        };
        fetch(shared.keys(stage.index), args.keys, shared.keys_full, shared.keys_empty);
        fetch(shared.values(stage.index), args.values, shared.values_full, shared.values_empty);
    }
}

// The two warpgroups' turns at the tensor cores: each has to be given its turn by the other.
struct Turns {
    int group;
    bool alone;
    __device__ void begin() const {
        if (!alone && group == 1) pass();  // group 0 is first
    }
    __device__ void wait() const {
        if (!alone) ptx::named_sync(TURN_BARRIER + group, 2 * WARPGROUP);
    }
    __device__ void pass() const {
        if (!alone) ptx::named_arrive(TURN_BARRIER + 1 - group, 2 * WARPGROUP);
    }
    __device__ void end() const {
        if (!alone && group == 0) wait();  // for the last turn that group 1 has passed
    }
};

// 64 tokens of one head, by one warpgroup.
template <typename T, int D>
__device__ inline void consume(const WgmmaArgs<T> &args, const PrefillTask &task, const SharedTiles<T, D> &shared,
                               int group) {
    const PrefillArgs<T> &prefill = args.prefill;
    int warp = threadIdx.x % WARPGROUP / WARP, row = group * GROUP_ROWS;
    int64_t first_row = task.tile.token + row;
    CausalMask mask{task.tile.position + row + warp * MMA_ROWS, prefill.window};
    T *queries = shared.queries() + row * ptx::PANEL_COLUMNS;
    load_queries<D>(queries, prefill.query + first_row * prefill.query_stride + task.head * D, prefill.query_stride,
                    task.tile.rows - row);
    ptx::fence_proxy_async();
    ptx::named_sync(GROUP_BARRIER + group, WARPGROUP);

    float scores[TILE_TOKENS / 8][4] = {}, out[D / 8][4] = {}, shrink[2];
    unsigned weights[TILE_TOKENS / 16][4];
    OnlineSoftmax softmax;
    Stage<SharedTiles<T, D>::STAGES> stage, next;
    Turns turns{group, task.groups == 1};
    auto weigh = [&](int tile) {
        int first = tile * TILE_TOKENS;
        if (!mask.all_see(first, TILE_TOKENS)) apply(mask, scores, first);
#pragma unroll
        for (int half = 0; half < 2; ++half) shrink[half] = softmax.weigh(scores, half, prefill.scale);
    };

    ptx::mbarrier_wait(shared.keys_full, 0);
    start_scores<D>(scores, queries, shared.keys(0));
    ptx::wgmma_wait<0>();
    ptx::pin(scores);
    shared.release(shared.keys_empty);
    weigh(task.end - 1);
    round_weights<T>(weights, scores);
    ptx::mbarrier_wait(shared.values_full, 0);
    if (clear_rows<D>(shared.values(0), task.tile.context - (task.end - 1) * TILE_TOKENS)) {
        ptx::fence_proxy_async();
        ptx::named_sync(GROUP_BARRIER + group, WARPGROUP);
    }

    turns.begin();
    for (int tile = task.end - 2; tile >= task.first; --tile) {
        next.advance();
        ptx::mbarrier_wait(shared.keys_full + next.index, next.parity);
        turns.wait();
        start_scores<D>(scores, queries, shared.keys(next.index));
        ptx::mbarrier_wait(shared.values_full + stage.index, stage.parity);
        start_values<D>(out, weights, shared.values(stage.index));
        turns.pass();
        ptx::wgmma_wait<1>();
        ptx::pin(scores);
        weigh(tile);
        shared.release_after(softmax.sum[0] + softmax.sum[1], shared.keys_empty + next.index);
        ptx::wgmma_wait<0>();
        ptx::pin(out);
        ptx::pin(weights);
        shared.release(shared.values_empty + stage.index);
        scale_rows(out, shrink);
        round_weights<T>(weights, scores);
        stage = next;
    }
    turns.end();
    ptx::mbarrier_wait(shared.values_full + stage.index, stage.parity);
    start_values<D>(out, weights, shared.values(stage.index));
    ptx::wgmma_wait<0>();
    ptx::pin(out);

    float factors[2] = {reciprocal(softmax.total(0)), reciprocal(softmax.total(1))};
    scale_rows(out, factors);
    ptx::named_sync(GROUP_BARRIER + group, WARPGROUP);  // all are done with the queries, whose place the output takes
    int first = warp * MMA_ROWS;
    write_rows<D>(prefill.out + ((first_row + first) * prefill.heads + task.head) * D,
                  static_cast<int64_t>(prefill.heads) * D, task.tile.rows - row - first, out,
                  queries + first * ptx::PANEL_COLUMNS);
}

#endif

template <typename T, int D>
__global__ void __launch_bounds__((GROUPS + 1) * WARPGROUP, 1)
    prefill_wgmma_kernel(const __grid_constant__ WgmmaArgs<T> args) {
#ifdef MII_SM_90A
    if (threadIdx.x == 0) ptx::prefetch_map(&args.keys), ptx::prefetch_map(&args.values);
    PrefillTask task = find_task(args.prefill);
    if (task.groups == 0) return;
    SharedTiles<T, D> shared(dynamic_shared());
    if (threadIdx.x == 0) shared.init_barriers(task.groups);
    __syncthreads();
    int group = __shfl_sync(ALL_LANES, static_cast<int>(threadIdx.x) / WARPGROUP, 0);  // so is known to be uniform
    if (group == GROUPS) {
        ptx::give_registers<24>();
        if (threadIdx.x % WARPGROUP == 0) produce(args, task, shared);
    } else {
        ptx::take_registers<240>();
        if (group < task.groups) consume(args, task, shared, group);
    }
#endif
}

}  // namespace mii

cudaError_t mii_attention_prefill_wgmma(void *out, const void *query, const void *k_cache, const void *v_cache,
                                        const int *block_tables, const int *context_lens, const int *cu_seqlens,
                                        int64_t sequences, int64_t tiles, int64_t query_stride, int64_t table_stride,
                                        int heads, int kv_heads, int head_dim, int window, float scale,
                                        mii_dtype dtype, cudaStream_t stream) {
    return mii::with_heads(dtype, head_dim, [&](auto tag, auto dim) {
        using T = typename decltype(tag)::type;
        constexpr int D = decltype(dim)::value;
        if constexpr (D > mii::MAX_WGMMA_COLUMNS) {
            return cudaErrorInvalidValue;
        } else {
            mii::PagedCache<T> cache{static_cast<const T *>(k_cache), static_cast<const T *>(v_cache),
                                     block_tables, context_lens, table_stride, kv_heads};
            mii::PrefillArgs<T> prefill{static_cast<T *>(out), static_cast<const T *>(query), query_stride, cache,
                                        cu_seqlens, static_cast<int>(sequences), heads, window, scale * 1.44269504f};
            mii::WgmmaArgs<T> args{prefill, {}, {}};
            cudaError_t error = mii::cache_map(&args.keys, k_cache, head_dim);
            if (error == cudaSuccess) error = mii::cache_map(&args.values, v_cache, head_dim);
            if (error != cudaSuccess) return error;
            dim3 grid(static_cast<unsigned>(heads), static_cast<unsigned>(tiles));
            return mii::launch<mii::prefill_wgmma_kernel<T, D>>(
                {grid, (mii::GROUPS + 1) * mii::WARPGROUP, stream, mii::SharedTiles<T, D>::BYTES}, args);
        }
    });
}
