// Small kernels that show what the emulator does, and on a GPU that the hardware does the same.
#include "attention.cuh"
#include "launch.cuh"
#include "ptx_wgmma.cuh"
#include "reduce.cuh"
#include "tensor_map.cuh"

using mii::bfloat16;

// c [16, 8] = a [16, 16] b [16, 8], all row-major, by one warp: b's matrices are transposed while being loaded.
__global__ void product(float *c, const bfloat16 *a, const bfloat16 *b, bool waits) {
    __shared__ __align__(16) bfloat16 a_tile[16 * 16], b_tile[16 * 8];
    int lane = threadIdx.x;
    mii::ptx::cp_async_16(a_tile + 8 * lane, a + 8 * lane);
    mii::ptx::cp_async_commit();
    mii::ptx::cp_async_16(b_tile + 8 * (lane % 16), b + 8 * (lane % 16), lane < 16 || waits);
    mii::ptx::cp_async_commit();
    if (waits) mii::ptx::cp_async_wait<0>();
    __syncthreads();
    unsigned af[4], bf[4];
    mii::ptx::ldmatrix_x4(af, a_tile + lane % 16 * 16 + lane / 16 * 8);
    mii::ptx::ldmatrix_x4_trans(bf, b_tile + lane % 16 * 8);
    unsigned halves[2] = {bf[0], bf[1]};
    float d[4] = {};
    mii::ptx::mma_m16n8k16<bfloat16>(d, af, halves);
    for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

MII_API cudaError_t probe_product(float *c, const void *a, const void *b, int waits, cudaStream_t stream) {
    return mii::launch<product>({1, 32, stream}, c, static_cast<const bfloat16 *>(a),
                                static_cast<const bfloat16 *>(b), waits != 0);
}

struct Maps {
    CUtensorMap a, b;
};

// c [64, 128] by a warpgroup: a b^T from shared memory, a [64, 64] and b [128, 64]; or, with a in registers, a b of
// b [64, 128].
__global__ void warpgroup_product(float *c, const bfloat16 *a, const __grid_constant__ Maps maps, bool in_registers,
                                  bool waits) {
#ifdef MII_SM_90A
    namespace ptx = mii::ptx;
    constexpr int BOX = 64 * ptx::PANEL_PITCH;
    unsigned char *shared = mii::dynamic_shared();
    shared += (1024 - ptx::shared_address(shared) % 1024) % 1024;
    auto *full = reinterpret_cast<uint64_t *>(shared + 3 * BOX);
    if (threadIdx.x == 0) ptx::mbarrier_init(full, 1), ptx::mbarrier_fence();
    __syncthreads();
    if (threadIdx.x == 0) {
        ptx::mbarrier_arrive_expect(full, 3 * BOX);
        ptx::copy_box(shared, &maps.a, 0, 0, full);
        ptx::copy_box(shared + BOX, &maps.b, 0, 0, full);
        ptx::copy_box(shared + 2 * BOX, &maps.b, in_registers ? 64 : 0, in_registers ? 0 : 64, full);
    }
    if (waits) ptx::mbarrier_wait(full, 0);
    int warp = threadIdx.x / mii::WARP, lane = threadIdx.x % mii::WARP;
    unsigned rows[4][4];
    mii::load_rows<64>(rows, a + 16 * warp * 64, 64, 16);
    float d[16][4] = {};
    uint64_t left = ptx::matrix_descriptor(ptx::shared_address(shared));
    uint64_t right = ptx::matrix_descriptor(ptx::shared_address(shared + BOX), BOX);
    ptx::pin(d), ptx::pin(rows);
    ptx::wgmma_fence();
    if (in_registers) {
#pragma unroll
        for (int k = 0; k < 4; ++k) ptx::wgmma<bfloat16>(d, rows[k], ptx::behind(right, 16 * k * ptx::PANEL_PITCH));
    } else {
#pragma unroll
        for (int k = 0; k < 4; ++k)
            ptx::wgmma<bfloat16>(d, ptx::behind(left, 32 * k), ptx::behind(right, 32 * k), k > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::pin(d);
    for (int n = 0; n < 16; ++n)
        for (int i = 0; i < 4; ++i)
            c[(16 * warp + lane / 4 + i / 2 * 8) * 128 + 8 * n + lane % 4 * 2 + i % 2] = d[n][i];
#endif
}

MII_API cudaError_t probe_warpgroup_product(float *c, const void *a, const void *b, int in_registers, int waits,
                                            cudaStream_t stream) {
    Maps maps;
    cudaError_t error = mii::cache_map(&maps.a, a, 64);
    if (error == cudaSuccess) error = mii::cache_map(&maps.b, b, in_registers ? 128 : 64);
    if (error != cudaSuccess) return error;
    return mii::launch<warpgroup_product>({1, 128, stream, 26 * 1024}, c, static_cast<const bfloat16 *>(a), maps,
                                          in_registers != 0, waits != 0);
}

// One group takes `turns` turns with the other; out [2 turns] tells whose each was, and is a race without them.
__global__ void take_turns(int *out, int turns, bool named) {
#ifdef MII_SM_90A
    int *count = reinterpret_cast<int *>(mii::dynamic_shared());
    int group = threadIdx.x / 64;
    if (threadIdx.x == 0) *count = 0;
    __syncthreads();
    if (named && group == 1) mii::ptx::named_arrive(1, 128);
    for (int i = 0; i < turns; ++i) {
        if (named) mii::ptx::named_sync(1 + group, 128);
        else __syncwarp();
        if (threadIdx.x % 64 == 0) out[(*count)++] = group;
        if (named && (group == 0 || i + 1 < turns)) mii::ptx::named_arrive(2 - group, 128);
    }
#endif
}

MII_API cudaError_t probe_take_turns(int *out, int turns, int named, cudaStream_t stream) {
    return mii::launch<take_turns>({1, 128, stream, 16}, out, turns, named != 0);
}

// out [6, 32]: what each warp function gives each lane.
__global__ void warp_functions(int *out) {
    int lane = threadIdx.x;
    out[lane] = __shfl_sync(mii::ALL_LANES, lane * lane, lane + 5);
    out[32 + lane] = __shfl_xor_sync(mii::ALL_LANES, lane, 9, 8);
    out[64 + lane] = __shfl_up_sync(mii::ALL_LANES, lane, 3, 16);
    out[96 + lane] = __shfl_down_sync(mii::ALL_LANES, lane, 3);
    out[128 + lane] = static_cast<int>(__ballot_sync(mii::ALL_LANES, lane % 3 == 0));
    int half = lane < 16 ? 1 : 2;
    out[160 + lane] = lane < 16 ? __any_sync(0xffffu, lane == 3) + half : __all_sync(0xffff0000u, lane > 16) + half;
}

MII_API cudaError_t probe_warp_functions(int *out, cudaStream_t stream) {
    return mii::launch<warp_functions>({1, 32, stream}, out);
}

// out [blocks]: sums over a block through shared memory; without its barrier, a race.
__global__ void block_sums(int *out, bool barrier) {
    int *shared = reinterpret_cast<int *>(mii::dynamic_shared());
    shared[threadIdx.x] = threadIdx.x + blockIdx.x;
    if (barrier) __syncthreads();
    int sum = 0;
    for (unsigned i = 0; i < blockDim.x; ++i) sum += shared[i];
    atomicAdd(out + blockIdx.x, sum);
}

MII_API cudaError_t probe_block_sums(int *out, int blocks, int threads, int shared, int barrier, cudaStream_t stream) {
    mii::LaunchShape shape{static_cast<unsigned>(blocks), static_cast<unsigned>(threads), stream,
                           static_cast<size_t>(shared)};
    return mii::launch<block_sums>(shape, out, barrier != 0);
}

// Never ends on a GPU either.
__global__ void stuck(bool at_barrier) {
    if (at_barrier) {
        if (threadIdx.x < 40) __syncthreads();
        else __shfl_sync(mii::ALL_LANES, 0, 0);
    } else if (threadIdx.x != 7) {
        __syncwarp();
    }
}

MII_API cudaError_t probe_stuck(int at_barrier, cudaStream_t stream) {
    return mii::launch<stuck>({2, 64, stream}, at_barrier != 0);
}

MII_API const char *probe_error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
