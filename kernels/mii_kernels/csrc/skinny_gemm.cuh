// A strip of weight rows times at most 64 tokens: every weight is read once, at the memory's speed, and the tokens ride
// along. What skinny_gemm.cu and grouped_gemm.cu share.
//
// The weights are the A operand of mma.m16n8k16, 16 of their rows at a time, the tokens the B operand, 8 at a time. A
// product sums over k in any order, so lane t of a quad takes elements 8 t to 8 t + 7 of each 32 ("slab"): one 16-byte
// access of a weight row feeds two products, and x is loaded in the same order.
//
// A block has 8 warps. They share its 16 TILES ROW_WARPS rows of the weight: ROW_WARPS of them side by side, the
// others along k, each with every 8 / ROW_WARPS-th stretch of SLABS slabs. Shared memory is only a queue: each lane
// copies its own 16 bytes of the next stretches and reads them back itself, so that STAGES stretches are under way
// without a register or a barrier. The warps' sums meet at the end, halving until one is left.
#pragma once

#include "dtypes.cuh"
#include "launch.cuh"
#include "ptx.cuh"
#include "reduce.cuh"

namespace mii {

constexpr int SKINNY_WARPS = 8;
constexpr int SLAB = 32;       // elements of k, of two products
constexpr int TILE_ROWS = 16;  // of the weight, in a product
constexpr int TILE_TOKENS = 8;

template <typename T>
struct SkinnyArgs {
    T *out;           // [tokens, n]
    const T *x;       // [tokens, k]
    const T *weight;  // [n, k]
    const T *bias;    // [n], or null
    int tokens;
    int n;
    int k;
};

template <int TOKEN_TILES_, int TILES_, int ROW_WARPS_>
struct SkinnyShape {
    static constexpr int TOKEN_TILES = TOKEN_TILES_, TILES = TILES_, ROW_WARPS = ROW_WARPS_;
    static constexpr int SLABS = 4 / TILES, STAGES = 3;  // 96 KiB of a block are under way
    static constexpr int STRETCH = SLABS * TILES * 2 * WARP;  // 16-byte accesses of a warp
    static constexpr int K_WARPS = SKINNY_WARPS / ROW_WARPS;
    static constexpr int ROWS = TILE_ROWS * TILES * ROW_WARPS;  // of a block
    static constexpr int SUMS = TILES * TOKEN_TILES * 4;        // of a lane
    static constexpr int TOKENS = TOKEN_TILES * TILE_TOKENS;
    static constexpr int OUT_PITCH = ROWS + 4;
    static constexpr int EXCHANGE = K_WARPS / 2 * ROW_WARPS * SUMS * WARP, RESULT = TOKENS * OUT_PITCH;
    static constexpr size_t BYTES = STAGES * STRETCH * SKINNY_WARPS * 16;
    static_assert(EXCHANGE * sizeof(float) <= BYTES && RESULT * sizeof(float) <= BYTES, "sums take the queue's place");
};

// Starts the copy of one stretch of a lane's weights: of each slab and tile the 8 elements of rows lane / 4 and
// lane / 4 + 8. `weight`: this lane's part of its first row. Slabs past the last and rows past the end become zeros.
template <typename Shape, typename T>
__device__ inline void copy_stretch(uint4 *queue, const T *weight, int slab, int slabs, int rows, int64_t k) {
#pragma unroll
    for (int i = 0; i < Shape::SLABS * Shape::TILES * 2; ++i) {
        int s = i / 2 / Shape::TILES, row = i / 2 % Shape::TILES * TILE_ROWS + i % 2 * 8;
        bool valid = slab + s < slabs && row < rows;
        ptx::cp_async_16(queue + i * WARP, weight + row * k + (slab + s) * SLAB, valid);
    }
    ptx::cp_async_commit();
}

// The B operands of one stretch: of each slab and 8 tokens this lane's 8 elements; `x` as `weight` above.
template <typename Shape, typename T>
__device__ inline void load_tokens(uint4 (&b)[Shape::SLABS][Shape::TOKEN_TILES], const T *x, int slab, int slabs,
                                   int tokens, int64_t k) {
#pragma unroll
    for (int s = 0; s < Shape::SLABS; ++s)
#pragma unroll
        for (int tile = 0; tile < Shape::TOKEN_TILES; ++tile) {
            b[s][tile] = make_uint4(0, 0, 0, 0);
            if (slab + s < slabs && tile * TILE_TOKENS < tokens)
                b[s][tile] = __ldg(reinterpret_cast<const uint4 *>(x + tile * TILE_TOKENS * k + (slab + s) * SLAB));
        }
}

template <typename T, typename Shape>
__device__ inline void multiply_stretch(float (&sums)[Shape::TILES][Shape::TOKEN_TILES][4], const uint4 *queue,
                                        const uint4 (&b)[Shape::SLABS][Shape::TOKEN_TILES]) {
#pragma unroll
    for (int s = 0; s < Shape::SLABS; ++s)
#pragma unroll
        for (int row = 0; row < Shape::TILES; ++row) {
            uint4 upper = queue[(s * Shape::TILES + row) * 2 * WARP];
            uint4 lower = queue[((s * Shape::TILES + row) * 2 + 1) * WARP];
            unsigned first[4] = {upper.x, lower.x, upper.y, lower.y}, second[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
            for (int tile = 0; tile < Shape::TOKEN_TILES; ++tile) {
                unsigned left[2] = {b[s][tile].x, b[s][tile].y}, right[2] = {b[s][tile].z, b[s][tile].w};
                ptx::mma_m16n8k16<T>(sums[row][tile], first, left);
                ptx::mma_m16n8k16<T>(sums[row][tile], second, right);
            }
        }
}

// Adds the sums of the warps along k; those of the first of them are complete.
template <typename Shape>
__device__ inline void reduce_sums(float (&sums)[Shape::TILES][Shape::TOKEN_TILES][4], float *shared, int row_warp,
                                   int k_warp) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = Shape::K_WARPS / 2; half > 0; half /= 2) {
        float *slot = shared + (k_warp % half * Shape::ROW_WARPS + row_warp) * Shape::SUMS * WARP + lane;
        bool gives = half <= k_warp && k_warp < 2 * half, takes = k_warp < half;
#pragma unroll
        for (int pass = 0; pass < 2; ++pass) {
#pragma unroll
            for (int i = 0; i < Shape::SUMS; ++i) {
                float &sum = sums[i / 4 / Shape::TOKEN_TILES][i / 4 % Shape::TOKEN_TILES][i % 4];
                if (pass == 0 && gives) slot[i * WARP] = sum;
                if (pass == 1 && takes) sum += slot[i * WARP];
            }
            __syncthreads();
        }
    }
}

// What a block does: all tokens times Shape::ROWS rows of the weight, from `first_row` on.
template <typename T, typename Shape>
__device__ inline void multiply_rows(const SkinnyArgs<T> &args, int first_row) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int row_warp = warp % Shape::ROW_WARPS, k_warp = warp / Shape::ROW_WARPS;
    int row = first_row + row_warp * Shape::TILES * TILE_ROWS + lane / 4;
    int rows = args.n - row, tokens = args.tokens - lane / 4;  // from this lane's first ones on
    const T *weight = args.weight + static_cast<int64_t>(row) * args.k + lane % 4 * 8;
    const T *x = args.x + static_cast<int64_t>(lane / 4) * args.k + lane % 4 * 8;
    int slabs = args.k / SLAB, step = Shape::K_WARPS * Shape::SLABS;

    uint4 *queue = reinterpret_cast<uint4 *>(dynamic_shared()) + warp * Shape::STAGES * Shape::STRETCH + lane;
    float sums[Shape::TILES][Shape::TOKEN_TILES][4] = {};
    int slab = k_warp * Shape::SLABS;
#pragma unroll
    for (int stage = 0; stage < Shape::STAGES; ++stage)
        copy_stretch<Shape>(queue + stage * Shape::STRETCH, weight, slab + stage * step, slabs, rows, args.k);
    for (int stage = 0; slab < slabs; slab += step) {
        uint4 b[Shape::SLABS][Shape::TOKEN_TILES];
        load_tokens<Shape>(b, x, slab, slabs, tokens, args.k);
        ptx::cp_async_wait<Shape::STAGES - 1>();
        multiply_stretch<T, Shape>(sums, queue + stage * Shape::STRETCH, b);
        copy_stretch<Shape>(queue + stage * Shape::STRETCH, weight, slab + Shape::STAGES * step, slabs, rows, args.k);
        stage = stage + 1 == Shape::STAGES ? 0 : stage + 1;
    }
    ptx::cp_async_wait<0>();
    __syncthreads();

    float *shared = reinterpret_cast<float *>(dynamic_shared());
    reduce_sums<Shape>(sums, shared, row_warp, k_warp);
    if (k_warp == 0) {
#pragma unroll
        for (int i = 0; i < Shape::SUMS; ++i) {
            int tile = i / 4 / Shape::TOKEN_TILES, token_tile = i / 4 % Shape::TOKEN_TILES, c = i % 4;
            int token = token_tile * TILE_TOKENS + lane % 4 * 2 + c % 2;
            int at = (row_warp * Shape::TILES + tile) * TILE_ROWS + lane / 4 + c / 2 * 8;
            shared[token * Shape::OUT_PITCH + at] = sums[tile][token_tile][c];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < args.tokens * Shape::ROWS; i += SKINNY_WARPS * WARP) {
        int token = i / Shape::ROWS, at = i % Shape::ROWS, column = first_row + at;
        if (column >= args.n) continue;
        float sum = shared[token * Shape::OUT_PITCH + at] + (args.bias ? to_float(args.bias[column]) : 0.0f);
        args.out[static_cast<int64_t>(token) * args.n + column] = from_float<T>(sum);
    }
}

// Host: calls f(SkinnyShape{}) with the shape for so many tokens at once and so many rows of the weight a block.
template <int TOKEN_TILES, typename F>
cudaError_t with_rows(int rows, F f) {
    if (rows == 16) return f(SkinnyShape<TOKEN_TILES, 1, 1>{});
    if (rows == 32) return f(SkinnyShape<TOKEN_TILES, 2, 1>{});
    if constexpr (TOKEN_TILES > 2)
        if (rows == 128) return f(SkinnyShape<TOKEN_TILES, 4, 2>{});
    return cudaErrorInvalidValue;
}

template <typename F>
cudaError_t with_skinny_shape(int tokens, int rows, F f) {
    if (tokens <= 8) return with_rows<1>(rows, f);
    if (tokens <= 16) return with_rows<2>(rows, f);
    if (tokens <= 32) return with_rows<4>(rows, f);
    if (tokens <= 64) return with_rows<8>(rows, f);
    return cudaErrorInvalidValue;
}

}  // namespace mii
