// What the attention kernels share: the paged cache, its tiles in shared memory, and the online softmax.
//
// Products are those of mma.m16n8k16. Lane l holds, of a 16 x 8 accumulator, columns 2 (l % 4) and the next of rows
// l / 4 (elements 0, 1) and l / 4 + 8 (elements 2, 3); two neighbouring accumulators, rounded, are just the A operand
// of the next product, so the probabilities never leave the registers.
//
// Rows in shared memory are D + 8 elements apart: an odd number of 16-byte chunks for every D that is a multiple of 16,
// so the eight rows of an ldmatrix lie in different banks.
#pragma once

#include <cstring>

#include "dtypes.cuh"
#include "launch.cuh"
#include "ptx.cuh"
#include "reduce.cuh"

namespace mii {

constexpr int KV_BLOCK = 64;  // tokens of a cache block
constexpr int MMA_ROWS = 16;
constexpr int CHUNK = 8;  // elements of 16 bytes

template <int D>
constexpr int PITCH = D + CHUNK;

template <typename T>
struct PagedCache {
    const T *keys, *values;   // [blocks, kv_heads, KV_BLOCK, D]
    const int *tables;        // [sequences, table_stride]
    const int *context_lens;  // [sequences]
    int64_t table_stride;
    int kv_heads;
};

// Positions begin <= p < end.
struct Range {
    int begin, end;
    __device__ bool contains(int position) const { return begin <= position && position < end; }
    __device__ bool covers(int first, int count) const { return begin <= first && first + count <= end; }
};

// Block numbers of one sequence, for a warp whose lanes hold the next 32 of them.
class BlockTable {
  public:
    __device__ BlockTable(const int *table, int blocks) : table_(table), blocks_(blocks) {}

    // The number of block i; the whole warp asks for the same one, and never for an earlier one than before.
    __device__ int at(int i) {
        if (i >= first_ + WARP) {
            int mine = i + static_cast<int>(threadIdx.x % WARP);
            first_ = i;
            entry_ = mine < blocks_ ? table_[mine] : 0;
        }
        return __shfl_sync(ALL_LANES, entry_, i - first_);
    }

  private:
    const int *table_;
    int blocks_;
    int first_ = -WARP;
    int entry_ = 0;
};

// Where the tile of a KV head that starts at this token begins in keys and in values.
template <int D, typename T>
__device__ inline int64_t tile_offset(const PagedCache<T> &cache, BlockTable &table, int kv_head, int token) {
    int64_t block = table.at(token / KV_BLOCK);
    return ((block * cache.kv_heads + kv_head) * KV_BLOCK + token % KV_BLOCK) * D;
}

// Starts the copy of ROWS rows that lie one after another; those of positions outside `visible` become zeros, because
// a weight of 0 does not undo the NaN that another request may have left there.
template <int D, int ROWS, int THREADS, typename T>
__device__ inline void copy_rows(T *shared, const T *global, int thread, int position, Range visible) {
    constexpr int CHUNKS = D / CHUNK;
#pragma unroll
    for (int i = 0; i < ceil_div(ROWS * CHUNKS, THREADS); ++i) {
        int chunk = thread + i * THREADS;
        int row = chunk / CHUNKS, column = chunk % CHUNKS * CHUNK;
        if (ROWS * CHUNKS % THREADS != 0 && row >= ROWS) break;
        ptx::cp_async_16(shared + row * PITCH<D> + column, global + chunk * CHUNK,
                         visible.contains(position + row));
    }
}

template <typename T>
__device__ inline unsigned bits_of(const Vector<T, 2> &pair) {
    unsigned bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

__device__ inline unsigned round_pair(float low, float high, TypeTag<bfloat16>) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return bits_of(Vector<bfloat16, 2>{{pair.x, pair.y}});
}
__device__ inline unsigned round_pair(float low, float high, TypeTag<float16>) {
    __half2 pair = __floats2half2_rn(low, high);
    return bits_of(Vector<float16, 2>{{pair.x, pair.y}});
}

// The A operands of up to 16 rows of D elements, `pitch` apart; what is past `rows` is zero.
template <int D, typename T>
__device__ inline void load_rows(unsigned (&a)[D / 16][4], const T *rows_at, int64_t pitch, int rows) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = lane / 4 + 8 * half;
        const T *at = rows_at + row * pitch + lane % 4 * 2;
#pragma unroll
        for (int k = 0; k < D / 16; ++k)
#pragma unroll
            for (int side = 0; side < 2; ++side)
                a[k][half + 2 * side] = row < rows ? bits_of(load<2>(at + 16 * k + 8 * side)) : 0u;
    }
}

// d [16, 16] += a [16, 16] b, where b are the four matrices that ldmatrix gave.
template <typename T>
__device__ inline void multiply(float (&d0)[4], float (&d1)[4], const unsigned (&a)[4], const unsigned (&b)[4]) {
    unsigned left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
    ptx::mma_m16n8k16<T>(d0, a, left);
    ptx::mma_m16n8k16<T>(d1, a, right);
}

// The B operand of 16 keys (rows of `tile`) and 16 of their columns.
template <int D, typename T>
__device__ inline void load_keys(unsigned (&b)[4], const T *tile, int column) {
    int lane = threadIdx.x % WARP;
    ptx::ldmatrix_x4(b, tile + (lane / 16 * 8 + lane % 8) * PITCH<D> + column + lane / 8 % 2 * 8);
}

// The A operand of two neighbouring accumulators, rounded.
template <typename T>
__device__ inline void round_weights(unsigned (&a)[4], const float (&w0)[4], const float (&w1)[4]) {
    TypeTag<T> tag;
    a[0] = round_pair(w0[0], w0[1], tag), a[1] = round_pair(w0[2], w0[3], tag);
    a[2] = round_pair(w1[0], w1[1], tag), a[3] = round_pair(w1[2], w1[3], tag);
}

// out [16, D] += round(weights [16, 16]) values [16, D]; `weights` are the accumulators of two products.
template <int D, typename T>
__device__ inline void add_values(float (&out)[D / 8][4], const float (&w0)[4], const float (&w1)[4],
                                  const T *tile) {
    int lane = threadIdx.x % WARP;
    unsigned a[4];
    round_weights<T>(a, w0, w1);
    const T *row = tile + lane % 16 * PITCH<D> + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
        unsigned b[4];
        ptx::ldmatrix_x4_trans(b, row + 16 * n);
        multiply<T>(out[2 * n], out[2 * n + 1], a, b);
    }
}

__device__ inline float finite_or_zero(float max) { return max == -INFINITY ? 0.0f : max; }

// Softmax of scores that come tile by tile, in base 2: of a lane's two rows, the largest score so far and this lane's
// share of the sum of 2^((score - max) * scale). Rows that have seen nothing but -inf have sum 0.
struct OnlineSoftmax {
    float max[2] = {-INFINITY, -INFINITY};
    float sum[2] = {0, 0};

    // Turns a row's scores into weights. Returns what earlier weights have to be multiplied by.
    template <int N>
    __device__ float weigh(float (&scores)[N][4], int row, float scale) {
        float best = max[row];
#pragma unroll
        for (int n = 0; n < N; ++n) best = fmaxf(best, fmaxf(scores[n][2 * row], scores[n][2 * row + 1]));
        best = fmaxf(best, __shfl_xor_sync(ALL_LANES, best, 1));
        best = fmaxf(best, __shfl_xor_sync(ALL_LANES, best, 2));
        float base = finite_or_zero(best) * scale;
        float shrink = ptx::exp2(max[row] * scale - base);
        max[row] = best;
        sum[row] *= shrink;
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 2 * row; i < 2 * row + 2; ++i) {
                scores[n][i] = ptx::exp2(scores[n][i] * scale - base);
                sum[row] += scores[n][i];
            }
        return shrink;
    }

    // Turns scores into weights, and `out`, the weighted sum so far, to the new maximum.
    template <int N, int M>
    __device__ void update(float (&scores)[N][4], float (&out)[M][4], float scale) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            float shrink = weigh(scores, row, scale);
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int i = 2 * row; i < 2 * row + 2; ++i) out[m][i] *= shrink;
        }
    }

    // The sum over all lanes of the row.
    __device__ float total(int row) const {
        float x = sum[row] + __shfl_xor_sync(ALL_LANES, sum[row], 1);
        return x + __shfl_xor_sync(ALL_LANES, x, 2);
    }
};

// 1 / total, and 0 for rows that saw nothing.
__device__ inline float reciprocal(float total) { return total == 0 ? 0.0f : 1.0f / total; }

template <int N>
struct Constant {
    static constexpr int value = N;
};

// Host: calls f(TypeTag<T>{}, Constant<D>{}) for the element types and head dimensions that attention has.
template <typename F>
cudaError_t with_heads(mii_dtype dtype, int head_dim, F f) {
    auto with_dim = [&](auto tag) {
        switch (head_dim) {
            case 64: return f(tag, Constant<64>{});
            case 80: return f(tag, Constant<80>{});
            case 96: return f(tag, Constant<96>{});
            case 128: return f(tag, Constant<128>{});
            case 256: return f(tag, Constant<256>{});
        }
        return cudaErrorInvalidValue;
    };
    if (dtype == MII_BFLOAT16) return with_dim(TypeTag<bfloat16>{});
    if (dtype == MII_FLOAT16) return with_dim(TypeTag<float16>{});
    return cudaErrorInvalidValue;
}

}  // namespace mii
