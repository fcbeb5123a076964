// Causal attention of chunks of tokens over the paged cache, for sm_90a (after FlashAttention-3).
//
//   query, out [tokens, heads, D], sequences packed one after another; the tokens of a sequence are the last ones of
//   its context, all of which is in the cache. D at most 128.
//
// A block of a multiprocessor serves 128 tokens of one head, then others (prefill_tasks.cuh). One thread of its last
// warpgroup has the copy engine fetch tiles of 128 keys and values into a ring of stages; the other two warpgroups have
// 64 tokens each and work through the tiles from the last to the first. A warpgroup starts the scores of a tile and the
// weighted sum of the one before it, and is at the exponentials of the former while the tensor cores are at the latter.
// The two groups take turns at the tensor cores, so that one's exponentials hide behind the other's products.
//
// Each stage has two barriers for keys and two for values: `full` (bytes have come) and `empty` (all warps are done).
// Only tiles that the diagonal or the window cuts are masked. Rows of values past the context are cleared in shared
// memory, because a weight of 0 does not undo the NaN that another request may have left there.
//
// Cost: as in attention_prefill.cu; here 989 Tflop/s are there to be had. A tile of 128 x 128 x 128 takes its two
// products 2048 clocks, its exponentials, 16 a clock, 1024.
#include <algorithm>

#include "prefill_fetch.cuh"
#include "tensor_map.cuh"

namespace mii {

#ifdef MII_SM_90A

// The two warpgroups' turns at the tensor cores, which each gives to the other. Of tasks for one group there are none.
struct Turns {
    int group;
    __device__ void begin() const {
        if (group == 1) pass();  // group 0 is first
    }
    __device__ void wait() const { ptx::named_sync(TURN_BARRIER + group, 2 * WARPGROUP); }
    __device__ void pass() const { ptx::named_arrive(TURN_BARRIER + 1 - group, 2 * WARPGROUP); }
};

// A warpgroup's queries of a task: asked for while the one before it is not done, and then put in their place.
template <typename T, int D>
__device__ inline void ask_for_queries(QueryChunks<T, D> &queries, const PrefillArgs<T> &args, const PrefillTask &task,
                                       int group) {
    int row = group * GROUP_ROWS;
    queries.load(args.query + (task.tile.token + row) * args.query_stride + task.head * D, args.query_stride,
                 task.tile.rows - row);
}
template <typename T, int D>
__device__ inline void place_queries(T *to, const QueryChunks<T, D> &queries, int group) {
    ptx::named_sync(GROUP_BARRIER + group, WARPGROUP);  // all have written what they had of the last task
    queries.store(to);
    ptx::fence_proxy_async();
    ptx::named_sync(GROUP_BARRIER + group, WARPGROUP);
}

// Writes what a warpgroup has found, by way of the place of its queries.
template <int D, typename T>
__device__ inline void write_out(T *queries, const PrefillArgs<T> &args, const PrefillTask &task, int group,
                                 const float (&out)[D / 8][4]) {
    ptx::named_sync(GROUP_BARRIER + group, WARPGROUP);  // all are done with the queries
    int first = threadIdx.x % WARPGROUP / WARP * MMA_ROWS, row = group * GROUP_ROWS + first;
    int64_t pitch = static_cast<int64_t>(args.heads) * D;
    write_rows<D>(args.out + (task.tile.token + row) * pitch + task.head * D, pitch, task.tile.rows - row, out,
                  queries + first * ptx::PANEL_COLUMNS);
}

// A task's 64 tokens of one warpgroup. look_ahead() is called before the last product is waited for.
template <typename T, int D, typename LookAhead>
__device__ inline void attend(const PrefillArgs<T> &args, const PrefillTask &task, const SharedTiles<T, D> &shared,
                              int group, TilePosition &at, LookAhead look_ahead) {
    int warp = threadIdx.x % WARPGROUP / WARP, row = group * GROUP_ROWS;
    CausalMask mask{task.tile.position + row + warp * MMA_ROWS, args.window};
    Turns turns{group};
    T *queries = shared.queries() + row * ptx::PANEL_COLUMNS;
    float scores[TILE_TOKENS / 8][4] = {}, out[D / 8][4] = {}, shrink[2];
    unsigned weights[TILE_TOKENS / 16][4];
    OnlineSoftmax softmax;
    auto weigh = [&](int tile) {
        int first = tile * TILE_TOKENS;
        if (!mask.all_see(first, TILE_TOKENS)) apply(mask, scores, first);
#pragma unroll
        for (int half = 0; half < 2; ++half) shrink[half] = softmax.weigh(scores, half, args.scale);
    };

    ptx::mbarrier_wait(shared.keys_full + at.index, at.parity);
    start_scores<D>(scores, queries, shared.keys(at.index));
    ptx::wgmma_wait<0>();
    ptx::pin(scores);
    shared.release(shared.keys_empty + at.index);
    weigh(task.end - 1);
    round_weights<T>(weights, scores);
    ptx::mbarrier_wait(shared.values_full + at.index, at.parity);
    if (clear_rows<D>(shared.values(at.index), task.tile.context - (task.end - 1) * TILE_TOKENS)) {
        ptx::fence_proxy_async();
        ptx::named_sync(GROUP_BARRIER + group, WARPGROUP);
    }

    for (int tile = task.end - 2; tile >= task.first; --tile) {
        TilePosition next = at;
        next.advance();
        ptx::mbarrier_wait(shared.keys_full + next.index, next.parity);
        if (task.groups == GROUPS) turns.wait();
        start_scores<D>(scores, queries, shared.keys(next.index));
        ptx::mbarrier_wait(shared.values_full + at.index, at.parity);
        start_values<D>(out, weights, shared.values(at.index));
        if (task.groups == GROUPS) turns.pass();
        ptx::wgmma_wait<1>();
        ptx::pin(scores);
        weigh(tile);
        shared.release_after(softmax.sum[0] + softmax.sum[1], shared.keys_empty + next.index);
        ptx::wgmma_wait<0>();
        ptx::pin(out);
        ptx::pin(weights);
        shared.release(shared.values_empty + at.index);
        scale_rows(out, shrink);
        round_weights<T>(weights, scores);
        at = next;
    }
    ptx::mbarrier_wait(shared.values_full + at.index, at.parity);
    start_values<D>(out, weights, shared.values(at.index));
    look_ahead();
    ptx::wgmma_wait<0>();
    ptx::pin(out);
    shared.release(shared.values_empty + at.index);
    at.advance();

    float factors[2] = {reciprocal(softmax.total(0)), reciprocal(softmax.total(1))};
    scale_rows(out, factors);
    write_out<D>(queries, args, task, group, out);
}

// A task's tiles, by a warpgroup that has none of its queries.
template <typename T, int D>
__device__ inline void pass_by(const PrefillTask &task, const SharedTiles<T, D> &shared, TilePosition &at) {
    for (int tile = task.end - 1; tile >= task.first; --tile, at.advance()) {
        ptx::mbarrier_wait(shared.keys_full + at.index, at.parity);
        shared.release(shared.keys_empty + at.index);
        ptx::mbarrier_wait(shared.values_full + at.index, at.parity);
        shared.release(shared.values_empty + at.index);
    }
}

template <typename T, int D>
__device__ inline void consume(const PrefillArgs<T> &args, const SharedTiles<T, D> &shared, TaskRing &tasks,
                               int group) {
    TilePosition at;
    RingPosition<TaskRing::SLOTS> slot;
    QueryChunks<T, D> queries;
    PrefillTask task, following;
    auto look_ahead = [&] {
        following = tasks.get(slot);
        slot.advance();
        if (group < following.groups) ask_for_queries(queries, args, following, group);
    };
    Turns{group}.begin();
    for (look_ahead(); following.groups > 0;) {
        task = following;
        if (group < task.groups) {
            place_queries(shared.queries() + group * GROUP_ROWS * ptx::PANEL_COLUMNS, queries, group);
            attend(args, task, shared, group, at, look_ahead);
        } else {
            pass_by(task, shared, at);
            look_ahead();
        }
    }
}

#endif

template <typename T, int D>
__global__ void __launch_bounds__((GROUPS + 1) * WARPGROUP, 1)
    prefill_wgmma_kernel(const __grid_constant__ WgmmaArgs<T> args) {
#ifdef MII_SM_90A
    if (args.accompanied) ptx::let_next_grid_begin();
    if (threadIdx.x == 0) ptx::prefetch_map(&args.keys), ptx::prefetch_map(&args.values);
    SharedTiles<T, D> shared(dynamic_shared());
    TaskRing &tasks = *reinterpret_cast<TaskRing *>(shared.end());
    if (threadIdx.x == 0) {
        shared.init_barriers();
        tasks.init_barriers();
        ptx::mbarrier_fence();
    }
    __syncthreads();
    int group = __shfl_sync(ALL_LANES, static_cast<int>(threadIdx.x) / WARPGROUP, 0);  // so is known to be uniform
    if (group == GROUPS) {
        ptx::give_registers<40>();
        if (threadIdx.x % WARPGROUP < WARP) produce(args, shared, tasks);
    } else {
        ptx::take_registers<232>();
        consume(args.prefill, shared, tasks, group);
    }
#endif
}

inline cudaError_t multiprocessors(int *count) {
    int device;
    cudaError_t error = cudaGetDevice(&device);
    return error == cudaSuccess ? cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device) : error;
}

}  // namespace mii

cudaError_t mii_attention_prefill_wgmma(void *out, const void *query, const void *k_cache, const void *v_cache,
                                        const int *block_tables, const int *context_lens, const int *cu_seqlens,
                                        int64_t sequences, int64_t tiles, int64_t query_stride, int64_t table_stride,
                                        int heads, int kv_heads, int head_dim, int window, int max_blocks,
                                        float scale, mii_dtype dtype, cudaStream_t stream) {
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
            int items = static_cast<int>(tiles) * heads, blocks = max_blocks;
            mii::WgmmaArgs<T> args{prefill, {}, {}, items, mii::item_sets.next(), max_blocks > 0};
            cudaError_t error = mii::cache_map(&args.keys, k_cache, head_dim);
            if (error == cudaSuccess) error = mii::cache_map(&args.values, v_cache, head_dim);
            if (error == cudaSuccess && blocks == 0) error = mii::multiprocessors(&blocks);
            if (error != cudaSuccess) return error;
            return mii::launch<mii::prefill_wgmma_kernel<T, D>>(
                {static_cast<unsigned>(std::min(blocks, items)), (mii::GROUPS + 1) * mii::WARPGROUP, stream,
                 mii::SharedTiles<T, D>::BYTES + sizeof(mii::TaskRing)}, args);
        }
    });
}
