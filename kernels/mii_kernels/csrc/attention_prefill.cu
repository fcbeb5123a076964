// Causal attention of chunks of tokens over the paged cache (FlashAttention-2, on the warps' own tensor-core product).
//
//   query, out [tokens, heads, D], sequences packed one after another; the tokens of a sequence are the last ones of
//   its context, all of which is in the cache.
//
// A block serves ROWS tokens of one head, each warp 16 of them, which see every tile of keys and values that the block
// copies, one tile ahead. There is one barrier a tile: between two of them some warps may be at their exponentials
// while others keep the tensor cores busy. Only tiles that the diagonal or the window cuts are masked, warp by warp.
//
// The heads lie next to each other in the grid, so that those of one KV head find its tiles in L2. A sequence's last
// tokens see the most and are started first. Which sequence a tile is of, each warp finds in cu_seqlens: nothing is
// computed on the host but the number of tiles.
//
// Cost: 4 D flops for each head, token and position seen, half of context^2 positions for a whole prompt; traffic is
// small beside it. 32 heads of 128, 8192 tokens: 550 Gflop, 0.56 ms at the H100's 989 Tflop/s, which only its wgmma
// instruction reaches. Each product of 16 x 16 x 16 here needs an ldmatrix of 512 bytes, and shared memory gives 128 a
// clock: at most 475 Tflop/s at 1.755 GHz.
#include "prefill.cuh"

namespace mii {

template <int D>
struct PrefillTile {
    static constexpr bool QUERY_IN_REGISTERS = D <= 128;
    static constexpr int WARPS = D <= 128 ? 8 : 4;
    static constexpr int THREADS = WARPS * WARP;
    static constexpr int ROWS = WARPS * MMA_ROWS;       // of queries
    static constexpr int TOKENS = D <= 128 ? 64 : 32;   // of keys and values
    static constexpr int HALF = TOKENS * PITCH<D>;      // elements of one tile of K or V
    static constexpr int QUERY = QUERY_IN_REGISTERS ? 0 : ROWS * PITCH<D>;
    static constexpr size_t BYTES = (4 * HALF + QUERY) * 2;  // at most the 99 KiB that every 8.x has
    static_assert(KV_BLOCK % TOKENS == 0, "a tile lies in one block");
};

// A warp's query rows as A operands: in registers, or read again for each product from shared memory.
template <typename T, int D, bool IN_REGISTERS>
struct QueryRows {
    unsigned a[D / 16][4];
    __device__ void load(const T *rows_at, int64_t pitch, int rows, T *) { load_rows<D>(a, rows_at, pitch, rows); }
    __device__ void operand(unsigned (&out)[4], int k) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[i] = a[k][i];
    }
};
template <typename T, int D>
struct QueryRows<T, D, false> {
    const T *at;
    __device__ void load(const T *rows_at, int64_t pitch, int rows, T *shared) {
        int lane = threadIdx.x % WARP;
        for (int row = 0; row < MMA_ROWS; ++row)
            for (int column = 2 * lane; column < D; column += 2 * WARP) {
                Vector<T, 2> pair = {};
                if (row < rows) pair = mii::load<2>(rows_at + row * pitch + column);
                store<2>(shared + row * PITCH<D> + column, pair);
            }
        __syncwarp();
        at = shared + lane % 16 * PITCH<D> + lane / 16 * 8;
    }
    __device__ void operand(unsigned (&out)[4], int k) const { ptx::ldmatrix_x4(out, at + 16 * k); }
};

template <typename T, int D, int TOKENS, typename Query>
__device__ inline void multiply_keys(float (&scores)[TOKENS / 8][4], const Query &query, const T *keys) {
#pragma unroll
    for (int n = 0; n < TOKENS / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[n][i] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        unsigned a[4], b[4];
        query.operand(a, k);
#pragma unroll
        for (int n = 0; n < TOKENS / 16; ++n) {
            load_keys<D>(b, keys + 16 * n * PITCH<D>, 16 * k);
            multiply<T>(scores[2 * n], scores[2 * n + 1], a, b);
        }
    }
}

// One warp's rows of `out`, rows `pitch` apart.
template <int D, typename T>
__device__ inline void write_rows(T *rows_at, int64_t pitch, int rows, const float (&out)[D / 8][4],
                                  const OnlineSoftmax &softmax) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = lane / 4 + 8 * half;
        float factor = reciprocal(softmax.total(half));
        if (row >= rows) continue;
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
            store<2>(rows_at + row * pitch + 8 * n + lane % 4 * 2,
                     Vector<T, 2>{{from_float<T>(out[n][2 * half] * factor),
                                   from_float<T>(out[n][2 * half + 1] * factor)}});
    }
}

template <typename T, int D>
__global__ void __launch_bounds__(PrefillTile<D>::THREADS) prefill_kernel(PrefillArgs<T> args) {
    using Tile = PrefillTile<D>;
    int warp = threadIdx.x / WARP, head = blockIdx.x;
    QueryTile it = find_tile(static_cast<int>(blockIdx.y), Tile::ROWS, args.cu_seqlens, args.cache.context_lens,
                             args.sequences);
    if (it.rows == 0) return;
    int kv_head = head / (args.heads / args.cache.kv_heads);
    CausalMask mask{it.position + warp * MMA_ROWS, args.window};
    Range visible = {CausalMask{it.position, args.window}.first_seen(0), it.position + it.rows};
    int first_tile = visible.begin / Tile::TOKENS, end_tile = ceil_div(visible.end, Tile::TOKENS);
    BlockTable table(args.cache.tables + it.sequence * args.cache.table_stride, ceil_div(it.context, KV_BLOCK));

    T *shared = reinterpret_cast<T *>(dynamic_shared());  // two tiles of keys and values, then queries
    auto keys_of = [&](int tile) { return shared + tile % 2 * 2 * Tile::HALF; };
    auto copy = [&](int tile) {
        if (tile < end_tile) {
            int first = tile * Tile::TOKENS;
            int64_t from = tile_offset<D>(args.cache, table, kv_head, first);
            copy_rows<D, Tile::TOKENS, Tile::THREADS>(keys_of(tile), args.cache.keys + from, threadIdx.x, first,
                                                      visible);
            copy_rows<D, Tile::TOKENS, Tile::THREADS>(keys_of(tile) + Tile::HALF, args.cache.values + from,
                                                      threadIdx.x, first, visible);
        }
        ptx::cp_async_commit();
    };
    copy(first_tile);

    int64_t first_row = it.token + warp * MMA_ROWS;
    int rows = max(0, min(MMA_ROWS, it.rows - warp * MMA_ROWS));
    QueryRows<T, D, Tile::QUERY_IN_REGISTERS> query;
    query.load(args.query + first_row * args.query_stride + head * D, args.query_stride, rows,
               shared + 4 * Tile::HALF + warp * MMA_ROWS * PITCH<D>);
    float out[D / 8][4] = {};
    OnlineSoftmax softmax;

    for (int tile = first_tile; tile < end_tile; ++tile) {
        int first = tile * Tile::TOKENS;
        const T *keys = keys_of(tile), *values = keys + Tile::HALF;
        ptx::cp_async_wait<0>();
        __syncthreads();  // this tile is there, and all are done with the one before, whose place the next takes
        copy(tile + 1);
        if (rows == 0 || mask.none_sees(first, Tile::TOKENS)) continue;
        float scores[Tile::TOKENS / 8][4];
        multiply_keys<T, D, Tile::TOKENS>(scores, query, keys);
        if (!mask.all_see(first, Tile::TOKENS)) apply(mask, scores, first);
        softmax.update(scores, out, args.scale);
#pragma unroll
        for (int n = 0; n < Tile::TOKENS / 16; ++n)
            add_values<D>(out, scores[2 * n], scores[2 * n + 1], values + 16 * n * PITCH<D>);
    }
    write_rows<D>(args.out + (first_row * args.heads + head) * D, static_cast<int64_t>(args.heads) * D, rows, out,
                  softmax);
}

}  // namespace mii

cudaError_t mii_attention_prefill(void *out, const void *query, const void *k_cache, const void *v_cache,
                                  const int *block_tables, const int *context_lens, const int *cu_seqlens,
                                  int64_t sequences, int64_t tiles, int64_t query_stride, int64_t table_stride,
                                  int heads, int kv_heads, int head_dim, int window, float scale, mii_dtype dtype,
                                  cudaStream_t stream) {
    return mii::with_heads(dtype, head_dim, [&](auto tag, auto dim) {
        using T = typename decltype(tag)::type;
        using Tile = mii::PrefillTile<decltype(dim)::value>;
        mii::PagedCache<T> cache{static_cast<const T *>(k_cache), static_cast<const T *>(v_cache),
                                 block_tables, context_lens, table_stride, kv_heads};
        mii::PrefillArgs<T> args{static_cast<T *>(out), static_cast<const T *>(query), query_stride, cache,
                                 cu_seqlens, static_cast<int>(sequences), heads, window, scale * 1.44269504f};
        dim3 grid(static_cast<unsigned>(heads), static_cast<unsigned>(tiles));
        return mii::launch<mii::prefill_kernel<T, decltype(dim)::value>>(
            {grid, Tile::THREADS, stream, Tile::BYTES}, args);
    });
}
