// out [tokens, n] = x [tokens, k] weight [n, k]^T + bias [n], for at most 64 tokens: every weight is read once, at the
// memory's speed, and the tokens ride along.
//
// The weights are the A operand of mma.m16n8k16, 16 of their rows at a time, the tokens the B operand, 8 at a time. A
// product sums over k in any order, so lane t of a quad takes elements 8 t to 8 t + 7 of each 32 ("slab"): one 16-byte
// access of a weight row feeds two products, and x is loaded in the same order.
//
// A block has 8 warps. They share its 16 TILES ROW_WARPS rows of the weight: ROW_WARPS of them side by side, the
// others along k, each with every 8 / ROW_WARPS-th stretch of SLABS slabs. Shared memory is only a queue: each lane
// copies its own 16 bytes of the next stretches and reads them back itself, so that STAGES stretches are under way
// without a register or a barrier. The warps' sums meet at the end, halving until one is left.
//
// Cost: 2 n k bytes, and 2 tokens n k flops. 28672 x 4096: 235 MB, 70 us at the H100's 3.35 TB/s; with 64 tokens 15
// Gflop, 15 us at its 989 Tflop/s. x is read once a block, from L2: 2 tokens k bytes for every 16 TILES ROW_WARPS rows,
// which is why more tokens have larger blocks.
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

template <typename T, typename Shape>
__global__ void __launch_bounds__(SKINNY_WARPS *WARP) skinny_gemm_kernel(SkinnyArgs<T> args) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int row_warp = warp % Shape::ROW_WARPS, k_warp = warp / Shape::ROW_WARPS;
    int first_row = blockIdx.x * Shape::ROWS;
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

template <typename T, int TOKEN_TILES, int TILES, int ROW_WARPS>
static cudaError_t launch_skinny(const SkinnyArgs<T> &args, cudaStream_t stream) {
    using Shape = SkinnyShape<TOKEN_TILES, TILES, ROW_WARPS>;
    unsigned blocks = static_cast<unsigned>(ceil_div(args.n, Shape::ROWS));
    return launch<skinny_gemm_kernel<T, Shape>>({blocks, SKINNY_WARPS * WARP, stream, Shape::BYTES}, args);
}

template <typename T, int TOKEN_TILES>
static cudaError_t skinny_gemm(const SkinnyArgs<T> &args, int rows, cudaStream_t stream) {
    if (rows == 16) return launch_skinny<T, TOKEN_TILES, 1, 1>(args, stream);
    if (rows == 32) return launch_skinny<T, TOKEN_TILES, 2, 1>(args, stream);
    if constexpr (TOKEN_TILES > 2)
        if (rows == 128) return launch_skinny<T, TOKEN_TILES, 4, 2>(args, stream);
    return cudaErrorInvalidValue;
}

template <typename T>
static cudaError_t skinny_gemm(const SkinnyArgs<T> &args, int rows, cudaStream_t stream) {
    if (args.tokens == 0) return cudaSuccess;
    if (args.tokens <= 8) return skinny_gemm<T, 1>(args, rows, stream);
    if (args.tokens <= 16) return skinny_gemm<T, 2>(args, rows, stream);
    if (args.tokens <= 32) return skinny_gemm<T, 4>(args, rows, stream);
    if (args.tokens <= 64) return skinny_gemm<T, 8>(args, rows, stream);
    return cudaErrorInvalidValue;
}

}  // namespace mii

cudaError_t mii_skinny_gemm(void *out, const void *x, const void *weight, const void *bias, int tokens, int n, int k,
                            int rows, mii_dtype dtype, cudaStream_t stream) {
    if (dtype == MII_FLOAT32 || k % mii::SLAB != 0) return cudaErrorInvalidValue;
    auto run = [&](auto tag) {
        using T = typename decltype(tag)::type;
        mii::SkinnyArgs<T> args{static_cast<T *>(out),          static_cast<const T *>(x),
                                static_cast<const T *>(weight), static_cast<const T *>(bias),
                                tokens, n, k};
        return mii::skinny_gemm<T>(args, rows, stream);
    };
    return dtype == MII_BFLOAT16 ? run(mii::TypeTag<mii::bfloat16>{}) : run(mii::TypeTag<mii::float16>{});
}
