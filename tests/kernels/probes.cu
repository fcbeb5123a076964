// Small kernels that show what the emulator does, and on a GPU that the hardware does the same.
#include "launch.cuh"
#include "ptx.cuh"
#include "reduce.cuh"

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
