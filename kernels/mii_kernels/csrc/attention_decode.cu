// Attention of one token a sequence over the paged cache (FlashDecoding: the context is split over blocks).
//
//   query, out [decodes, heads, D]; group = heads / kv_heads query heads share one KV head
//   out[s, h] = softmax(scale query[s, h] keys[s, h / group]^T) values[s, h / group]
//
// A block serves one sequence, one KV head, up to 16 heads of its group and one split of the context. The heads are
// the 16 rows of the tensor core's product, so each key and value is read once for all of them; rows that a small group
// leaves empty cost nothing that matters, because the products are far from being the bound.
//
// Each warp owns 16 tokens of every tile: it copies their keys and their values itself, a ring of such halves ahead,
// keeps its own maximum and sum, and meets the other warps only once, at the end. One split writes the output; of
// several each leaves its normalised sum and the logarithm of its weight, and the one that is last weighs them
// (attention_combine.cuh).
//
// A sequence's own tiles are divided over the splits here, not on the host: a launch captured in a CUDA graph fits any
// context, and an empty one gives zeros.
//
// Cost: 2 context kv_heads D elements read a sequence, 4 context heads D flops. 64 sequences of 2600 tokens, 8 KV heads
// of 128 in 16 bits: 681 MB, so 203 us at the H100's 3.35 TB/s; 11 Gflop with the padding of groups of 4 to 16 rows,
// some 3 % of that time.
//
// What has to be under way for that (Little's law): 3.35 TB/s times about 1 us until bytes come from memory that is
// busy are 3.3 MB, 25 KiB on each of 132 multiprocessors. Four blocks of D = 128 with three halves of 16 KiB each have
// 128 to 192 KiB there. Four rather than larger ones because their number decides how the work ends: 64 sequences and
// 8 KV heads are 512 blocks, which 528 places take at once; with 396 the last 116 blocks would run almost alone.
#include "attention.cuh"
#include "attention_combine.cuh"

namespace mii {

template <typename T>
struct DecodeArgs {
    T *out;           // [decodes, heads, D]
    float *partials;  // [decodes, heads, splits, D], of several splits
    float *weights;   // [decodes, heads, splits]: log2 of the sum of exponentials
    const T *query;   // [decodes, heads, D], sequences `query_stride` apart
    int64_t query_stride;
    PagedCache<T> cache;
    int heads;
    int window;    // tokens that are seen, 0: all
    float scale;   // of scores, times log2(e)
    bool beside;   // runs while the launch before it does, of which it needs nothing
    int counters;  // of part_counters, of several splits
};

template <int D>
struct DecodeTile {
    static constexpr int WARPS = D > 128 ? 2 : 4;
    static constexpr int THREADS = WARPS * WARP;
    static constexpr int TOKENS = WARPS * MMA_ROWS;
    static constexpr int HALF = TOKENS * PITCH<D>;  // elements of K or V
    static constexpr int RESIDENT = 4;              // blocks of a multiprocessor of an H100, which has 228 KiB,
    static constexpr int HALVES = (228 / RESIDENT - 1) * 1024 / (HALF * 2);  // 1 of them not ours in each block
    static constexpr int OUT_PITCH = D + 8;                                  // of a warp's sums: floats
    static constexpr size_t BYTES = HALVES * HALF * 2;
    static_assert(HALVES >= 3, "while one half is in use, two are under way");
    static_assert((OUT_PITCH + 2) * MMA_ROWS * WARPS * sizeof(float) <= BYTES, "the sums take the tiles' place");
    static_assert(KV_BLOCK % TOKENS == 0, "a tile lies in one block");
};

// The tiles of this split, of those that hold visible tokens.
__device__ inline Range split_tiles(Range visible, int tokens, int split, int splits) {
    if (visible.begin >= visible.end) return {0, 0};
    int64_t first = visible.begin / tokens, count = ceil_div(visible.end, tokens) - first;
    return {static_cast<int>(first + count * split / splits), static_cast<int>(first + count * (split + 1) / splits)};
}

// Scores [16, 16] of one warp's 16 keys as they lie in shared memory; `position` is that of the first.
template <int D, typename T>
__device__ inline void score(float (&scores)[2][4], const unsigned (&query)[D / 16][4], const T *keys, int position,
                             Range visible) {
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        unsigned b[4];
        load_keys<D>(b, keys, 16 * k);
        multiply<T>(scores[0], scores[1], query[k], b);
    }
    if (visible.covers(position, MMA_ROWS)) return;
    int first = position + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (!visible.contains(first + 8 * n + i % 2)) scores[n][i] = -INFINITY;
}

// Each warp's sums [16, D], maxima and totals [16], where the tiles were.
template <int D>
__device__ inline void share_sums(float *sums, float *maxima, float *totals, const float (&out)[D / 8][4],
                                  const OnlineSoftmax &softmax) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = warp * MMA_ROWS + lane / 4 + 8 * half;
        float total = softmax.total(half);
        if (lane % 4 == 0) maxima[row] = softmax.max[half], totals[row] = total;
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
            store<2>(sums + row * DecodeTile<D>::OUT_PITCH + 8 * n + lane % 4 * 2,
                     Vector<float, 2>{{out[n][2 * half], out[n][2 * half + 1]}});
    }
}

// Four columns of one row over all warps, normalised; `weight`: log2 of the row's sum of exponentials.
template <int D>
__device__ inline Vector<float, 4> merge_sums(float &weight, const float *sums, const float *maxima,
                                              const float *totals, int row, int column, float scale) {
    constexpr int WARPS = DecodeTile<D>::WARPS;
    float best = maxima[row];
#pragma unroll
    for (int warp = 1; warp < WARPS; ++warp) best = fmaxf(best, maxima[warp * MMA_ROWS + row]);
    float base = finite_or_zero(best), total = 0;
    Vector<float, 4> out = {};
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) {
        int at = warp * MMA_ROWS + row;
        float share = ptx::exp2((maxima[at] - base) * scale);
        total += share * totals[at];
        auto more = load<4>(sums + at * DecodeTile<D>::OUT_PITCH + column);
#pragma unroll
        for (int i = 0; i < 4; ++i) out.at[i] += share * more.at[i];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) out.at[i] *= reciprocal(total);
    weight = base * scale + log2f(total);
    return out;
}

// The block that begins when all others have begun.
__device__ inline bool is_last_block() {
    return blockIdx.x == gridDim.x - 1 && blockIdx.y == gridDim.y - 1 && blockIdx.z == gridDim.z - 1;
}

template <typename T, int D>
__global__ void __launch_bounds__(DecodeTile<D>::THREADS, DecodeTile<D>::RESIDENT) decode_kernel(DecodeArgs<T> args) {
    if (!args.beside) ptx::begin_overlapped();
    using Tile = DecodeTile<D>;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int group = args.heads / args.cache.kv_heads, row_tiles = ceil_div(group, MMA_ROWS);
    int kv_head = blockIdx.x / row_tiles, first_row = blockIdx.x % row_tiles * MMA_ROWS;
    int rows = min(MMA_ROWS, group - first_row), first_head = kv_head * group + first_row;
    int64_t sequence = blockIdx.z;
    int split = blockIdx.y, splits = gridDim.y;

    int context = args.cache.context_lens[sequence];
    Range visible = {args.window ? max(0, context - args.window) : 0, context};
    Range tiles = split_tiles(visible, Tile::TOKENS, split, splits);
    BlockTable table(args.cache.tables + sequence * args.cache.table_stride, ceil_div(context, KV_BLOCK));

    T *shared = reinterpret_cast<T *>(dynamic_shared());
    int halves = 2 * (tiles.end - tiles.begin);  // keys of the first tile, its values, keys of the second, ...
    auto place = [&](int half) {
        return shared + (half % Tile::HALVES * Tile::TOKENS + warp * MMA_ROWS) * PITCH<D>;
    };
    auto position_of = [&](int half) { return (tiles.begin + half / 2) * Tile::TOKENS + warp * MMA_ROWS; };
    auto fetch = [&](int half) {
        if (half < halves) {
            const T *from = half % 2 ? args.cache.values : args.cache.keys;
            int position = position_of(half);
            from += tile_offset<D>(args.cache, table, kv_head, position);
            copy_rows<D, MMA_ROWS, WARP>(place(half), from, lane, position, visible);
        }
        ptx::cp_async_commit();
    };
    auto await = [] {
        ptx::cp_async_wait<Tile::HALVES - 1>();
        __syncwarp();
    };
#pragma unroll
    for (int half = 0; half < Tile::HALVES; ++half) fetch(half);

    unsigned query[D / 16][4];
    load_rows<D>(query, args.query + sequence * args.query_stride + first_head * D, D, rows);
    float out[D / 8][4] = {};
    OnlineSoftmax softmax;
    for (int half = 0; half < halves; half += 2) {
        float scores[2][4] = {};
        await();
        score<D>(scores, query, place(half), position_of(half), visible);
        __syncwarp();  // before the half's place is filled again
        fetch(half + Tile::HALVES);
        softmax.update(scores, out, args.scale);
        await();
        add_values<D>(out, scores[0], scores[1], place(half + 1));
        __syncwarp();
        fetch(half + 1 + Tile::HALVES);
    }
    ptx::cp_async_wait<0>();
    __syncthreads();

    float *sums = reinterpret_cast<float *>(shared);
    float *maxima = sums + Tile::TOKENS * Tile::OUT_PITCH, *totals = maxima + Tile::TOKENS;
    share_sums<D>(sums, maxima, totals, out, softmax);
    __syncthreads();
    for (int unit = threadIdx.x; unit < rows * (D / 4); unit += Tile::THREADS) {
        int row = unit / (D / 4), column = unit % (D / 4) * 4;
        float weight;
        auto merged = merge_sums<D>(weight, sums, maxima, totals, row, column, args.scale);
        int64_t head = sequence * args.heads + first_head + row;
        if (splits == 1) {
            store_rounded(args.out + head * D + column, merged);
        } else {
            store<4>(args.partials + (head * splits + split) * D + column, merged);
            if (column == 0) args.weights[head * splits + split] = weight;
        }
    }
    // What comes after this launch waits for it alone, and so for all before it.
    if (args.beside && is_last_block()) ptx::wait_for_earlier_grids();
    if (splits == 1) return;
    if (!last_to_arrive(&part_counters[args.counters][sequence * gridDim.x + blockIdx.x], splits)) return;
    for (int unit = threadIdx.x; unit < rows * (D / 4); unit += Tile::THREADS) {
        int64_t head = sequence * args.heads + first_head + unit / (D / 4);
        int column = unit % (D / 4) * 4;
        const float *partials = args.partials + head * splits * D + column, *weights = args.weights + head * splits;
        store_rounded(args.out + head * D + column, combine_parts<D>(partials, weights, splits));
    }
}

template <typename T, int D>
static cudaError_t launch_decode(DecodeArgs<T> args, int64_t decodes, int splits, cudaStream_t stream) {
    unsigned heads = args.cache.kv_heads * ceil_div(args.heads / args.cache.kv_heads, MMA_ROWS);
    dim3 grid(heads, static_cast<unsigned>(splits), static_cast<unsigned>(decodes));
    if (splits > 1) {
        if (decodes * heads > MII_SPLIT_TILES) return cudaErrorInvalidValue;
        args.counters = part_sets.next();
    }
    return launch<decode_kernel<T, D>>(overlapped({grid, DecodeTile<D>::THREADS, stream, DecodeTile<D>::BYTES}), args);
}

}  // namespace mii

cudaError_t mii_attention_decode(void *out, float *partials, float *weights, const void *query,
                                 const void *k_cache, const void *v_cache, const int *block_tables,
                                 const int *context_lens, int64_t decodes, int64_t query_stride,
                                 int64_t table_stride, int heads, int kv_heads, int head_dim, int splits, int window,
                                 int beside, float scale, mii_dtype dtype, cudaStream_t stream) {
    if (splits < 1) return cudaErrorInvalidValue;
    return mii::with_heads(dtype, head_dim, [&](auto tag, auto dim) {
        using T = typename decltype(tag)::type;
        mii::PagedCache<T> cache{static_cast<const T *>(k_cache), static_cast<const T *>(v_cache),
                                 block_tables, context_lens, table_stride, kv_heads};
        mii::DecodeArgs<T> args{static_cast<T *>(out), partials, weights, static_cast<const T *>(query),
                                query_stride, cache, heads, window, scale * 1.44269504f, beside != 0, 0};
        return mii::launch_decode<T, decltype(dim)::value>(args, decodes, splits, stream);
    });
}
