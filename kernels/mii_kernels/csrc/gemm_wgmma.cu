// Products of many tokens on sm_90a:
//
//   gated: out [tokens, n] = f(x gate^T) * (x up^T),  x [tokens, k], weight [2 n, k] = gate, then up
//   plain: out [tokens, n] = x weight^T,              weight [n, k]
//   added: out [tokens, n] += x weight^T, rounded before and after
//
// A block has a tile of the result after another (gemm_ring.cuh). One thread of its last warpgroup has the copy engine
// fetch tokens and weights, as far ahead as the ring is long; each of the other two warpgroups multiplies 64 tokens by
// 256 rows of the weight. Gated, these are 128 of the gate's and the same 128 of the other half's, so that a thread has
// both numbers of each element of the result, and the wide intermediate is neither written nor read.
//
// Cost: a step is 128 x 256 x 64 products in 1024 clocks at best, in which a block receives 48 KiB, and a cluster asks
// L2 for 64 KiB. What gating saves is 3 n numbers a token written and read: at 8192 tokens and n 14336, 0.7 GB. The copy
// engine has L2 add what it writes, so a sum costs no more here, and whoever needs it reads one matrix instead of two.
#include <algorithm>
#include <type_traits>

#include "activation.cuh"
#include "gemm_ring.cuh"
#include "tensor_map.cuh"

namespace mii {

#ifdef MII_SM_90A

using GemmSums = float[GemmTile::ROWS / 8][4];

// A warpgroup's sums of a tile. A stage is given back once the step behind it has started.
template <typename T>
__device__ inline void multiply_tile(GemmSums &sums, const GemmRing &ring, GemmStage &at, int steps, int group) {
    int before = at.index;
    for (int step = 0; step < steps; ++step, at.advance()) {
        ptx::mbarrier_wait(ring.full + at.index, at.parity);
        unsigned tokens = ptx::shared_address(ring.tokens(at.index)) + group * GemmTile::GROUP_BYTES;
        uint64_t a = ptx::matrix_descriptor(tokens);
        uint64_t b = ptx::matrix_descriptor(ptx::shared_address(ring.weight(at.index)));
        ptx::pin(sums);
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < GemmTile::STEP / 16; ++k)
            ptx::wgmma<T>(sums, ptx::behind(a, 32 * k), ptx::behind(b, 32 * k), step > 0 || k > 0);
        ptx::wgmma_commit();
        ptx::wgmma_wait<1>();
        if (step > 0) ring.release(before);
        before = at.index;
    }
    ptx::wgmma_wait<0>();
    ptx::pin(sums);
    ring.release(before);
}

// Writes 64 tokens by 128 columns by way of shared memory. value(n, i): of this thread's accumulators.
template <typename T, typename Value>
__device__ inline void write_columns(const GemmArgs &args, int token, int column, T *staged, int group, Value value) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x % GemmTile::GROUP_THREADS / WARP;
    bool leads = threadIdx.x % GemmTile::GROUP_THREADS == 0;
    if (leads) ptx::store_wait();  // what was written before has been read
    ptx::named_sync(1 + group, GemmTile::GROUP_THREADS);
#pragma unroll
    for (int n = 0; n < GemmTile::HALF / 8; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int row = warp * 16 + half * 8 + lane / 4;
            // `swizzled` of warpgroup_tile.cuh, written out: by way of it two of four kernels spill registers.
            T *chunk = staged + (n / 8 * GemmTile::GROUP_TOKENS + row) * ptx::PANEL_COLUMNS + (n % 8 ^ row % 8) * 8;
            store<2>(chunk + lane % 4 * 2,
                     Vector<T, 2>{{from_float<T>(value(n, 2 * half)), from_float<T>(value(n, 2 * half + 1))}});
        }
    ptx::fence_proxy_async();
    ptx::named_sync(1 + group, GemmTile::GROUP_THREADS);
    if (!leads) return;
    for (int panel = 0; panel < GemmTile::OUT_PANELS; ++panel) {
        const T *from = staged + panel * GemmTile::GROUP_TOKENS * ptx::PANEL_COLUMNS;
        int first = column + panel * ptx::PANEL_COLUMNS;
        if (args.adds)
            ptx::add_box(&args.out, first, token, from);
        else
            ptx::store_box(&args.out, first, token, from);
    }
    ptx::store_commit();
}

template <typename T, mii_activation KIND>
__device__ inline void write_gated(const GemmArgs &args, int token, int column, T *staged, int group,
                                   const GemmSums &sums) {
    write_columns<T>(args, token, column, staged, group, [&](int n, int i) {
        return activation(sums[n][i], KIND) * sums[n + GemmTile::HALF / 8][i];
    });
}

template <typename T, bool GATED>
__device__ inline void write_tile(const GemmArgs &args, int token, int column, T *staged, int group,
                                  const GemmSums &sums) {
    if constexpr (!GATED) {
#pragma unroll
        for (int half = 0; half < 2; ++half)
            write_columns<T>(args, token, column + half * GemmTile::HALF, staged, group,
                             [&](int n, int i) { return sums[half * (GemmTile::HALF / 8) + n][i]; });
    } else {
        switch (args.activation) {
            case MII_SILU: return write_gated<T, MII_SILU>(args, token, column, staged, group, sums);
            case MII_GELU: return write_gated<T, MII_GELU>(args, token, column, staged, group, sums);
            case MII_GELU_TANH: return write_gated<T, MII_GELU_TANH>(args, token, column, staged, group, sums);
            case MII_RELU: return write_gated<T, MII_RELU>(args, token, column, staged, group, sums);
        }
    }
}

template <typename T, bool GATED>
__device__ inline void multiply(const GemmArgs &args, const GemmRing &ring, int rank, int group) {
    TileOrder order{args.tall, args.wide};
    T *staged = reinterpret_cast<T *>(ring.out(group));
    GemmStage at;
    for (int index = blockIdx.x / GemmTile::CLUSTER; index < order.count(); index += gridDim.x / GemmTile::CLUSTER) {
        int2 tile = order.at(index);
        int token = (tile.x * GemmTile::CLUSTER + rank) * GemmTile::TOKENS + group * GemmTile::GROUP_TOKENS;
        GemmSums sums;
        multiply_tile<T>(sums, ring, at, args.steps, group);
        write_tile<T, GATED>(args, token, tile.y * args.columns, staged, group, sums);
    }
    if (threadIdx.x % GemmTile::GROUP_THREADS == 0) ptx::store_wait();
}

#endif

template <typename T, bool GATED>
__global__ void __launch_bounds__(GemmTile::THREADS, 1) gemm_wgmma_kernel(const __grid_constant__ GemmArgs args) {
#ifdef MII_SM_90A
    GemmRing ring(dynamic_shared());
    int rank = ptx::cluster_rank();
    if (threadIdx.x == 0) {
        ptx::prefetch_map(&args.x), ptx::prefetch_map(&args.weight), ptx::prefetch_map(&args.out);
        ring.init_barriers();
        ptx::mbarrier_fence();
    }
    ptx::cluster_sync();  // the neighbour's copies and arrivals come here
    ptx::begin_overlapped();
    int group = __shfl_sync(ALL_LANES, static_cast<int>(threadIdx.x) / GemmTile::GROUP_THREADS, 0);  // so is uniform
    if (group == GemmTile::GROUPS) {
        ptx::give_registers<40>();
        if (threadIdx.x % GemmTile::GROUP_THREADS == 0) fetch(args, ring, rank);
    } else {
        ptx::take_registers<232>();
        multiply<T, GATED>(args, ring, rank, group);
    }
    ptx::cluster_sync();  // nobody is gone while its neighbour's arrivals are on their way
#endif
}

template <typename T>
constexpr CUtensorMapDataType ELEMENTS =
    std::is_same_v<T, bfloat16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;

struct GemmOperands {
    const void *x, *weight;
    void *out;
    int tokens, n, k;
};

template <typename T, bool GATED>
static cudaError_t launch_gemm(GemmArgs args, const GemmOperands &of, int blocks, cudaStream_t stream) {
    args.columns = GATED ? GemmTile::HALF : GemmTile::ROWS;
    args.second = GATED ? of.n : GemmTile::HALF;
    args.steps = ceil_div(of.k, GemmTile::STEP);
    args.tall = ceil_div(of.tokens, GemmTile::CLUSTER * GemmTile::TOKENS), args.wide = ceil_div(of.n, args.columns);
    int clusters = std::min(blocks / GemmTile::CLUSTER, args.tall * args.wide);
    if (clusters < 1) return cudaErrorInvalidValue;
    uint64_t tokens = of.tokens, rows = GATED ? uint64_t{2} * of.n : of.n;
    cudaError_t error = matrix_map(&args.x, {of.x, tokens, of.k, GemmTile::TOKENS});
    if (error == cudaSuccess) error = matrix_map(&args.weight, {of.weight, rows, of.k, GemmTile::HALF});
    BoxedMatrix out{of.out, tokens, of.n, GemmTile::GROUP_TOKENS};
    if (args.adds) out.type = ELEMENTS<T>;
    if (error == cudaSuccess) error = matrix_map(&args.out, out);
    if (error != cudaSuccess) return error;
    LaunchShape shape{static_cast<unsigned>(clusters * GemmTile::CLUSTER), GemmTile::THREADS, stream,
                      GemmTile::SHARED_BYTES, true, GemmTile::CLUSTER};
    return launch<gemm_wgmma_kernel<T, GATED>>(shape, args);
}

template <bool GATED>
static cudaError_t gemm(const GemmArgs &args, const GemmOperands &of, int blocks, mii_dtype dtype,
                        cudaStream_t stream) {
    if (of.tokens < 1 || of.n < 1 || of.k < 1) return cudaErrorInvalidValue;
    switch (dtype) {
        case MII_BFLOAT16: return launch_gemm<bfloat16, GATED>(args, of, blocks, stream);
        case MII_FLOAT16: return launch_gemm<float16, GATED>(args, of, blocks, stream);
        default: return cudaErrorInvalidValue;
    }
}

}  // namespace mii

cudaError_t mii_gated_gemm(void *out, const void *x, const void *weight, int tokens, int n, int k, int blocks,
                           mii_activation activation, mii_dtype dtype, cudaStream_t stream) {
    mii::GemmArgs args{};
    args.activation = activation;
    return mii::gemm<true>(args, {x, weight, out, tokens, n, k}, blocks, dtype, stream);
}

cudaError_t mii_gemm(void *out, const void *x, const void *weight, int tokens, int n, int k, int blocks, int adds,
                     mii_dtype dtype, cudaStream_t stream) {
    mii::GemmArgs args{};
    args.adds = adds;
    return mii::gemm<false>(args, {x, weight, out, tokens, n, k}, blocks, dtype, stream);
}
