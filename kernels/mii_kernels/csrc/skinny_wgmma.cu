// out [tokens, n] = x [tokens, k] weight [n, k]^T + bias [n], for at most 64 tokens, on sm_90a: as skinny_gemm.cu, with
// Hopper's own copies and products.
//
// The weights are the A operand, 64 of their rows at a time, the tokens the B operand. One thread of a block has the
// copy engine fetch both into a ring of stages (skinny_ring.cuh), as far ahead as the ring is long; one or two
// warpgroups multiply, far faster than memory delivers. Tiles have fewer rows than a product where that is what makes
// all multiprocessors equally busy: the products' other rows are of whatever lies behind the tile, and are dropped.
//
// Where there are more multiprocessors than tiles, a tile is split along k. Each of its blocks leaves its sums in
// `partials`, and the one that is last adds them up, in the order of k: nobody waits, and results do not depend on who
// is last.
//
// A launch may overlap the kernel before it: weights are on their way while that one ends.
//
// Cost: as in skinny_gemm.cu. x is read once a tile, from L2. A product of 64 rows and 16 k takes some 32 clocks, in
// which 3 TB/s are 420 bytes for a multiprocessor of 132, a fifth of its 2 KiB.
#include <limits.h>

#include <algorithm>

#include "counter_sets.cuh"
#include "dtypes.cuh"
#include "launch.cuh"
#include "skinny_ring.cuh"
#include "tensor_map.cuh"

namespace mii {

// How many pieces of a tile are done, for each warpgroup; 0 before and after each launch. Sets are given out in turn, as
// those of attention_combine.cuh are, and for the same reason.
constexpr int COUNTER_SETS = 128, MAX_SPLIT_GROUPS = 256;
__device__ int split_counters[COUNTER_SETS][MAX_SPLIT_GROUPS];
static CounterSets<COUNTER_SETS> split_sets;

#ifdef MII_SM_90A

// sums [64 rows, TOKENS] += or = one step's weights times its tokens, under way until waited for.
template <typename T, typename Shape>
__device__ inline void start_step(float (&sums)[Shape::SUMS][4], const SkinnyRing<Shape> &ring, int stage, int group,
                                  bool accumulate) {
    int panel_bytes = ring.rows * ptx::PANEL_PITCH;
    unsigned rows = ptx::shared_address(ring.weight(stage)) + group * (panel_bytes / Shape::GROUPS);
    uint64_t a = ptx::matrix_descriptor(rows);
    uint64_t b = ptx::matrix_descriptor(ptx::shared_address(ring.tokens(stage)));
    ptx::pin(sums);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < Shape::STEP / 16; ++k) {
        int panel = k / 4, bytes = k % 4 * 32;
        ptx::wgmma<T>(sums, ptx::behind(a, panel * panel_bytes + bytes),
                      ptx::behind(b, panel * Shape::TOKENS * ptx::PANEL_PITCH + bytes), accumulate || k > 0);
    }
    ptx::wgmma_commit();
}

// A warpgroup's sums of a piece. A stage is given back once the step behind it has started.
template <typename T, typename Shape>
__device__ inline void multiply_piece(float (&sums)[Shape::SUMS][4], const SkinnyRing<Shape> &ring, Stage &at,
                                      int stages, const Piece &piece, int group) {
    int before = at.index;
    for (int step = piece.first; step < piece.end; ++step, at.advance(stages)) {
        ptx::mbarrier_wait(ring.full + at.index, at.parity);
        start_step<T>(sums, ring, at.index, group, step > piece.first);
        ptx::wgmma_wait<1>();
        if (step > piece.first) ring.release(before);
        before = at.index;
    }
    ptx::wgmma_wait<0>();
    ptx::pin(sums);
    ring.release(before);
}

// A warpgroup's own barrier, with a number that is known where there is only one, so that no others are taken up.
template <typename Shape>
__device__ inline void group_sync(int group) {
    ptx::named_sync(Shape::GROUPS == 1 ? 1 : 1 + group, Shape::GROUP_THREADS);
}

// Leaves a warpgroup's sums; whether it is the last one of its tile, and then with those of all pieces.
template <typename Shape, typename T>
__device__ inline bool meet(float (&sums)[Shape::SUMS][4], const SkinnyWgmmaArgs<T> &args, const Piece &piece,
                            int group, int *word) {
    constexpr int PITCH = Shape::GROUPS * Shape::GROUP_THREADS;
    float4 *tile = args.partials + static_cast<int64_t>(piece.tile) * args.splits * Shape::SUMS * PITCH + threadIdx.x;
#pragma unroll
    for (int n = 0; n < Shape::SUMS; ++n)
        tile[(piece.split * Shape::SUMS + n) * PITCH] = make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
    group_sync<Shape>(group);
    if (threadIdx.x % Shape::GROUP_THREADS == 0) {
        int &counter = split_counters[args.counters][piece.tile * Shape::GROUPS + group];
        *word = ptx::add_acq_rel(&counter, 1) == args.splits - 1;
        if (*word) counter = 0;
    }
    group_sync<Shape>(group);
    if (!*word) return false;
#pragma unroll
    for (int n = 0; n < Shape::SUMS; ++n) {
        float4 total = __ldcg(tile + n * PITCH);
        for (int split = 1; split < args.splits; ++split) {
            float4 part = __ldcg(tile + (split * Shape::SUMS + n) * PITCH);
            total = {total.x + part.x, total.y + part.y, total.z + part.z, total.w + part.w};
        }
        sums[n][0] = total.x, sums[n][1] = total.y, sums[n][2] = total.z, sums[n][3] = total.w;
    }
    return true;
}

// Writes a warpgroup's rows of the weight: columns of out.
template <typename Shape, typename T>
__device__ inline void write_sums(const float (&sums)[Shape::SUMS][4], const SkinnyWgmmaArgs<T> &args, int tile,
                                  int group) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP % 4, group_rows = args.rows / Shape::GROUPS;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = warp * 16 + half * 8 + lane / 4, column = tile * args.rows + group * group_rows + row;
        if (row >= group_rows || column >= args.n) continue;
        float bias = args.bias ? to_float(args.bias[column]) : 0.0f;
#pragma unroll
        for (int n = 0; n < Shape::SUMS; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                int64_t token = 8 * n + lane % 4 * 2 + i;
                if (token < args.tokens)
                    args.out[token * args.n + column] = from_float<T>(sums[n][2 * half + i] + bias);
            }
    }
}

template <typename Shape, typename T>
__device__ inline void multiply(const SkinnyWgmmaArgs<T> &args, const SkinnyRing<Shape> &ring, int group) {
    Stage at;
    int last = first_piece(args, blockIdx.x + 1);
    for (int index = first_piece(args, blockIdx.x); index < last; ++index) {
        Piece piece = find_piece<Shape>(args, index);
        float sums[Shape::SUMS][4] = {};
        multiply_piece<T>(sums, ring, at, args.stages, piece, group);
        if (args.splits == 1 || meet<Shape>(sums, args, piece, group, ring.words + group))
            write_sums<Shape>(sums, args, piece.tile, group);
    }
}

#endif

template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::THREADS) skinny_wgmma_kernel(const __grid_constant__ SkinnyWgmmaArgs<T> args) {
#ifdef MII_SM_90A
    SkinnyRing<Shape> ring(dynamic_shared(), args.rows, args.stages);
    if (threadIdx.x == 0) {
        ptx::prefetch_map(&args.weight), ptx::prefetch_map(&args.x);
        ring.init_barriers(args.stages);
        ptx::mbarrier_fence();
    }
    __syncthreads();
    ptx::let_next_grid_begin();
    int group = __shfl_sync(ALL_LANES, static_cast<int>(threadIdx.x) / Shape::GROUP_THREADS, 0);  // known to be uniform
    if (group == Shape::GROUPS) {
        if (threadIdx.x % WARP == 0) fetch<Shape>(args, ring);
    } else {
        ptx::wait_for_earlier_grids();
        multiply<Shape>(args, ring, group);
    }
#endif
}

struct SkinnyLaunch {
    const void *x, *weight;
    int blocks, ring_bytes;
    bool overlaps;
    cudaStream_t stream;
};

template <typename T, int TOKENS, int GROUPS>
static cudaError_t launch_skinny_wgmma(SkinnyWgmmaArgs<T> args, const SkinnyLaunch &how) {
    using Shape = SkinnyTile<TOKENS, GROUPS>;
    int tiles = ceil_div(args.n, args.rows);
    args.pieces = tiles * args.splits;
    args.stages = std::min(how.ring_bytes / Shape::stage_bytes(args.rows), Shape::MAX_STAGES);
    bool tiled = args.rows % (8 * GROUPS) == 0 && how.blocks >= 1 && how.blocks <= args.pieces && args.stages >= 2 &&
                 static_cast<int64_t>(args.pieces) * how.blocks < INT_MAX;  // what first_piece multiplies
    bool split = args.splits == 1 || (args.splits >= 1 && args.splits <= ceil_div(args.k, Shape::STEP) &&
                                      args.partials && tiles * GROUPS <= MAX_SPLIT_GROUPS);
    if (!tiled || !split) return cudaErrorInvalidValue;
    args.counters = args.splits == 1 ? 0 : split_sets.next();
    cudaError_t error = matrix_map(&args.weight, {how.weight, static_cast<uint64_t>(args.n), args.k, args.rows});
    if (error == cudaSuccess)
        error = matrix_map(&args.x, {how.x, static_cast<uint64_t>(args.tokens), args.k, TOKENS});
    if (error != cudaSuccess) return error;
    LaunchShape shape{static_cast<unsigned>(how.blocks), Shape::THREADS, how.stream,
                      Shape::shared_bytes(args.rows, args.stages), how.overlaps};
    return launch<skinny_wgmma_kernel<T, Shape>>(shape, args);
}

template <typename T>
static cudaError_t skinny_wgmma(const SkinnyWgmmaArgs<T> &args, const SkinnyLaunch &how) {
    bool few = args.rows <= 64;
    if (args.tokens < 1 || args.tokens > 64 || args.rows < 8 || args.rows > 128) return cudaErrorInvalidValue;
    if (args.tokens <= 8 && few) return launch_skinny_wgmma<T, 8, 1>(args, how);
    if (args.tokens <= 16 && few) return launch_skinny_wgmma<T, 16, 1>(args, how);
    if (args.tokens <= 32 && few) return launch_skinny_wgmma<T, 32, 1>(args, how);
    if (args.tokens <= 32) return cudaErrorInvalidValue;
    return few ? launch_skinny_wgmma<T, 64, 1>(args, how) : launch_skinny_wgmma<T, 64, 2>(args, how);
}

}  // namespace mii

cudaError_t mii_skinny_wgmma(void *out, float *partials, const void *x, const void *weight, const void *bias,
                             int tokens, int n, int k, int rows, int splits, int blocks, int ring_bytes, int overlaps,
                             mii_dtype dtype, cudaStream_t stream) {
    if (dtype == MII_FLOAT32 || n < 1 || k < 1 || splits < 1) return cudaErrorInvalidValue;
    mii::SkinnyLaunch how{x, weight, blocks, ring_bytes, overlaps != 0, stream};
    auto run = [&](auto tag) {
        using T = typename decltype(tag)::type;
        mii::SkinnyWgmmaArgs<T> args{};
        args.out = static_cast<T *>(out), args.bias = static_cast<const T *>(bias);
        args.partials = reinterpret_cast<float4 *>(partials);
        args.tokens = tokens, args.n = n, args.k = k, args.rows = rows, args.splits = splits;
        return mii::skinny_wgmma<T>(args, how);
    };
    return dtype == MII_BFLOAT16 ? run(mii::TypeTag<mii::bfloat16>{}) : run(mii::TypeTag<mii::float16>{});
}
