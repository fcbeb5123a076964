// Each group's rows times the group's own weight. Groups have any size, and the host knows none:
//
//   out[starts[g] .. starts[g + 1]] [rows of g, n] = x[starts[g] .. starts[g + 1]] [rows of g, k] weight[g] [n, k]^T
//
// The groups are the experts of a mixture, with few rows each. A group's rows are taken in chunks of at most 64; a
// thread block has one chunk and a strip of its group's weight (skinny_gemm.cuh). The grid is (slots, strips): slot s is
// the s-th chunk of all, and the host knows how many there can be at most, so that one token in a model of 128
// experts starts no blocks for the others. Chunks are neighbours in the grid's order: those of one group read a strip
// at the same time, from memory once and then from L2, and the largest group's blocks do not come last.
//
// Cost: 2 n k bytes for each group with rows. One token through 2 experts of Mixtral-8x7B, gate and up (28672 x
// 4096): 470 MB, 140 us at the H100's 3.35 TB/s; from some 20 tokens on it is all 8 of them, 560 us.
//
// The plain kernel serves what tensor cores do not: float32, and rows of any length and alignment.
#include "skinny_gemm.cuh"

namespace mii {

constexpr int PLAIN_WARPS = 8;
constexpr int PLAIN_TOKENS = 8;

template <typename T>
struct GroupedArgs {
    T *out;             // [rows, n]
    const T *x;         // [rows, k]
    const T *weight;    // [groups, n, k]
    const int *starts;  // [groups + 1]
    int groups;
    int n;
    int k;
};

struct Chunk {
    int group;
    int first;  // row
    int rows;   // none: there is no such chunk
};

// Chunk number `slot`, of `size` rows as far as its group has them. Whole warps call it.
__device__ inline Chunk chunk_of(int slot, int size, const int *starts, int groups) {
    int lane = threadIdx.x % WARP;
    for (int group = lane; group - lane < groups; group += WARP) {
        int start = group < groups ? starts[group] : 0, end = group < groups ? starts[group + 1] : 0;
        int chunks = ceil_div(end - start, size), upto = chunks;  // with those of the lanes before
#pragma unroll
        for (int distance = 1; distance < WARP; distance *= 2) {
            int before = __shfl_up_sync(ALL_LANES, upto, distance);
            if (lane >= distance) upto += before;
        }
        unsigned beyond = __ballot_sync(ALL_LANES, slot < upto);
        if (beyond != 0) {
            int source = __ffs(static_cast<int>(beyond)) - 1, first = start + (slot - upto + chunks) * size;
            return {__shfl_sync(ALL_LANES, group, source), __shfl_sync(ALL_LANES, first, source),
                    __shfl_sync(ALL_LANES, min(size, end - first), source)};
        }
        slot -= __shfl_sync(ALL_LANES, upto, WARP - 1);
    }
    return {groups, 0, 0};
}

template <typename T, typename Shape>
__global__ void __launch_bounds__(SKINNY_WARPS *WARP) grouped_gemm_kernel(GroupedArgs<T> args) {
    Chunk chunk = chunk_of(blockIdx.x, Shape::TOKENS, args.starts, args.groups);
    if (chunk.rows == 0) return;
    int64_t n = args.n, k = args.k;
    SkinnyArgs<T> product{args.out + chunk.first * n, args.x + chunk.first * k, args.weight + chunk.group * n * k,
                          nullptr, chunk.rows, args.n, args.k};
    multiply_rows<T, Shape>(product, blockIdx.y * Shape::ROWS);
}

// Of any dtype, size and alignment: each warp has one row of the weight, its lanes are along k.
template <typename T>
__global__ void __launch_bounds__(PLAIN_WARPS *WARP) plain_grouped_gemm_kernel(GroupedArgs<T> args) {
    Chunk chunk = chunk_of(blockIdx.x, PLAIN_TOKENS, args.starts, args.groups);
    int row = blockIdx.y * PLAIN_WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (chunk.rows == 0 || row >= args.n) return;
    int64_t k = args.k;
    const T *weight = args.weight + (static_cast<int64_t>(chunk.group) * args.n + row) * k;
    const T *x = args.x + chunk.first * k;

    float sums[PLAIN_TOKENS] = {};
    for (int at = lane; at < args.k; at += WARP) {
        float factor = to_float(weight[at]);
#pragma unroll
        for (int token = 0; token < PLAIN_TOKENS; ++token)
            if (token < chunk.rows) sums[token] += factor * to_float(x[token * k + at]);
    }
#pragma unroll
    for (int token = 0; token < PLAIN_TOKENS; ++token) {
        float sum = warp_reduce(sums[token], Sum{});
        if (lane == token && token < chunk.rows)
            args.out[static_cast<int64_t>(chunk.first + token) * args.n + row] = from_float<T>(sum);
    }
}

}  // namespace mii

cudaError_t mii_grouped_gemm(void *out, const void *x, const void *weight, const int *starts, int groups, int slots,
                             int n, int k, int tokens, int rows, mii_dtype dtype, cudaStream_t stream) {
    if (dtype == MII_FLOAT32 || k % mii::SLAB != 0) return cudaErrorInvalidValue;
    auto run = [&](auto tag) {
        using T = typename decltype(tag)::type;
        mii::GroupedArgs<T> args{static_cast<T *>(out), static_cast<const T *>(x), static_cast<const T *>(weight),
                                 starts, groups, n, k};
        return mii::with_skinny_shape(tokens, rows, [&](auto shape) {
            using Shape = decltype(shape);
            dim3 blocks(static_cast<unsigned>(slots), static_cast<unsigned>(mii::ceil_div(n, Shape::ROWS)));
            mii::LaunchShape grid{blocks, mii::SKINNY_WARPS * mii::WARP, stream, Shape::BYTES};
            return mii::launch<mii::grouped_gemm_kernel<T, Shape>>(grid, args);
        });
    };
    return dtype == MII_BFLOAT16 ? run(mii::TypeTag<mii::bfloat16>{}) : run(mii::TypeTag<mii::float16>{});
}

cudaError_t mii_plain_grouped_gemm(void *out, const void *x, const void *weight, const int *starts, int groups,
                                   int slots, int n, int k, mii_dtype dtype, cudaStream_t stream) {
    return mii::with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        mii::GroupedArgs<T> args{static_cast<T *>(out), static_cast<const T *>(x), static_cast<const T *>(weight),
                                 starts, groups, n, k};
        dim3 blocks(static_cast<unsigned>(slots), static_cast<unsigned>(mii::ceil_div(n, mii::PLAIN_WARPS)));
        mii::LaunchShape grid{blocks, mii::PLAIN_WARPS * mii::WARP, stream};
        return mii::launch<mii::plain_grouped_gemm_kernel<T>>(grid, args);
    });
}
