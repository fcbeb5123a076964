// Mixture of experts around the experts' own products: whom a token goes to, the way there and back.
//
//   gate:      logits [tokens, experts] -> the per_token largest shares of their softmax, and whose they are
//   permute:   x [tokens, n] -> rows [tokens * per_token, n], one for each (token, choice), those of one expert
//              adjacent and in order of tokens: expert e has rows starts[e] to starts[e + 1];
//              positions [tokens, per_token] says which row is whose
//   unpermute: rows -> out [tokens, n], each token's rows weighted and added up in float, in order of choices
#include "dtypes.cuh"
#include "launch.cuh"
#include "reduce.cuh"

namespace mii {

constexpr int GATE_TOKENS = 4;  // of a block, one for each warp
constexpr int MAX_PER_LANE = 16;
constexpr int PERMUTE_THREADS = 1024;
constexpr int ROW_THREADS = 256;

struct GateArgs {
    float *weights;    // [tokens, per_token]
    int64_t *experts;  // [tokens, per_token]
    const void *logits;
    int64_t tokens;
    int num_experts;
    int per_token;
    bool renormalise;
};

// Block: (32, GATE_TOKENS). A lane has the experts lane, lane + 32, …, PER_LANE of them at most.
template <typename T, int PER_LANE>
__global__ void __launch_bounds__(WARP *GATE_TOKENS) gate_kernel(GateArgs args) {
    int64_t token = static_cast<int64_t>(blockIdx.x) * GATE_TOKENS + threadIdx.y;
    if (token >= args.tokens) return;  // whole warps
    int lane = threadIdx.x;
    const T *logits = static_cast<const T *>(args.logits) + token * args.num_experts;

    float x[PER_LANE], largest = -INFINITY, total = 0;
    bool free[PER_LANE];
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        int expert = i * WARP + lane;
        free[i] = expert < args.num_experts;
        x[i] = free[i] ? to_float(logits[expert]) : -INFINITY;
        largest = fmaxf(largest, x[i]);
    }
    largest = warp_reduce(largest, Max{});
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        x[i] = free[i] ? expf(x[i] - largest) : 0.0f;
        total += x[i];
    }
    total = warp_reduce(total, Sum{});

    float chosen = 0;  // the sum of the shares of the chosen
    float *weights = args.weights + token * args.per_token;
    int64_t *experts = args.experts + token * args.per_token;
    for (int choice = 0; choice < args.per_token; ++choice) {
        unsigned long long best = 0;  // larger for a larger share, among equals for a lower expert
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) {
            unsigned long long key = static_cast<unsigned long long>(__float_as_uint(x[i])) << 32 |
                                     (0xffffffffu - static_cast<unsigned>(i * WARP + lane));
            if (free[i] && key > best) best = key;
        }
        best = warp_reduce(best, Max{});
        int expert = static_cast<int>(0xffffffffu - static_cast<unsigned>(best));
        float share = __uint_as_float(static_cast<unsigned>(best >> 32)) / total;
        chosen += share;
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) free[i] = free[i] && i * WARP + lane != expert;
        if (lane == 0) experts[choice] = expert, weights[choice] = share;
    }
    if (args.renormalise && lane == 0)
        for (int choice = 0; choice < args.per_token; ++choice) weights[choice] /= chosen;
}

// One block for each expert, which reads all choices twice: to count those of lower experts, then to number its own.
__global__ void __launch_bounds__(PERMUTE_THREADS)
    positions_kernel(int *positions, int *starts, const int64_t *experts, int choices) {
    __shared__ int scratch[WARP], warp_counts[WARP];
    int expert = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int below = 0, own = 0;
    for (int i = threadIdx.x; i < choices; i += blockDim.x) below += experts[i] < expert, own += experts[i] == expert;
    int next = row_reduce(below, Sum{}, scratch);
    own = row_reduce(own, Sum{}, scratch);
    if (threadIdx.x == 0) {
        starts[expert] = next;
        if (expert == static_cast<int>(gridDim.x) - 1) starts[expert + 1] = next + own;
    }
    if (own == 0) return;
    for (int first = 0; first < choices; first += blockDim.x) {
        int i = first + threadIdx.x;
        bool mine = i < choices && experts[i] == expert;
        unsigned lanes = __ballot_sync(ALL_LANES, mine);
        if (lane == 0) warp_counts[warp] = __popc(lanes);
        __syncthreads();
        int before = next + __popc(lanes & ((1u << lane) - 1));
        for (int w = 0; w < static_cast<int>(blockDim.x) / WARP; ++w) {
            if (w < warp) before += warp_counts[w];
            next += warp_counts[w];
        }
        if (mine) positions[i] = before;
        __syncthreads();
    }
}

// Grid: (choices, vectors of a row / threads).
template <typename T, int WIDTH>
__global__ void __launch_bounds__(ROW_THREADS)
    gather_kernel(T *rows, const T *x, const int *positions, int64_t n, int per_token) {
    int64_t choice = blockIdx.x, column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * WIDTH;
    if (column >= n) return;
    store<WIDTH>(rows + positions[choice] * n + column, load<WIDTH>(x + choice / per_token * n + column));
}

// Grid: (tokens, vectors of a row / threads).
template <typename T, int WIDTH>
__global__ void __launch_bounds__(ROW_THREADS)
    unpermute_kernel(T *out, const T *rows, const float *weights, const int *positions, int64_t n, int per_token) {
    int64_t token = blockIdx.x, column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * WIDTH;
    if (column >= n) return;
    float sums[WIDTH] = {};
    for (int choice = 0; choice < per_token; ++choice) {
        int64_t at = token * per_token + choice;
        Vector<T, WIDTH> said = load<WIDTH>(rows + positions[at] * n + column);
        float weight = weights[at];
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) sums[i] += weight * to_float(said.at[i]);
    }
    Vector<T, WIDTH> result;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) result.at[i] = from_float<T>(sums[i]);
    store<WIDTH>(out + token * n + column, result);
}

template <typename T, int PER_LANE>
static cudaError_t launch_gate(const GateArgs &args, cudaStream_t stream) {
    if (args.num_experts > PER_LANE * WARP) {
        if constexpr (PER_LANE < MAX_PER_LANE) return launch_gate<T, 2 * PER_LANE>(args, stream);
        return cudaErrorInvalidValue;
    }
    unsigned blocks = static_cast<unsigned>(ceil_div(args.tokens, static_cast<int64_t>(GATE_TOKENS)));
    return launch<gate_kernel<T, PER_LANE>>({blocks, dim3(WARP, GATE_TOKENS), stream}, args);
}

// The shape of a launch over rows of n elements.
template <int WIDTH>
static LaunchShape rows_shape(int64_t rows, int64_t n, cudaStream_t stream) {
    auto blocks = static_cast<unsigned>(ceil_div(n / WIDTH, static_cast<int64_t>(ROW_THREADS)));
    return {dim3(static_cast<unsigned>(rows), blocks), ROW_THREADS, stream};
}

}  // namespace mii

cudaError_t mii_moe_gate(float *weights, int64_t *experts, const void *logits, int64_t tokens, int num_experts,
                         int per_token, int renormalise, mii_dtype dtype, cudaStream_t stream) {
    mii::GateArgs args{weights, experts, logits, tokens, num_experts, per_token, renormalise != 0};
    return mii::with_type(dtype, [&](auto tag) {
        return mii::launch_gate<typename decltype(tag)::type, 1>(args, stream);
    });
}

cudaError_t mii_moe_permute(void *rows, int *positions, int *starts, const void *x, const int64_t *experts,
                            int64_t tokens, int64_t n, int per_token, int num_experts, mii_dtype dtype,
                            cudaStream_t stream) {
    int choices = static_cast<int>(tokens * per_token);
    mii::LaunchShape shape{static_cast<unsigned>(num_experts), mii::PERMUTE_THREADS, stream};
    cudaError_t error = mii::launch<mii::positions_kernel>(shape, positions, starts, experts, choices);
    if (error != cudaSuccess) return error;
    return mii::with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        constexpr int width = mii::FULL_WIDTH<T>;
        T *to = static_cast<T *>(rows);
        const T *from = static_cast<const T *>(x);
        if (mii::fits_full_width<T>(n, rows, x))
            return mii::launch<mii::gather_kernel<T, width>>(mii::rows_shape<width>(choices, n, stream), to, from,
                                                             positions, n, per_token);
        return mii::launch<mii::gather_kernel<T, 1>>(mii::rows_shape<1>(choices, n, stream), to, from, positions, n,
                                                     per_token);
    });
}

cudaError_t mii_moe_unpermute(void *out, const void *rows, const float *weights, const int *positions,
                              int64_t tokens, int64_t n, int per_token, mii_dtype dtype, cudaStream_t stream) {
    return mii::with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        constexpr int width = mii::FULL_WIDTH<T>;
        T *to = static_cast<T *>(out);
        const T *from = static_cast<const T *>(rows);
        if (mii::fits_full_width<T>(n, out, rows))
            return mii::launch<mii::unpermute_kernel<T, width>>(mii::rows_shape<width>(tokens, n, stream), to, from,
                                                                weights, positions, n, per_token);
        return mii::launch<mii::unpermute_kernel<T, 1>>(mii::rows_shape<1>(tokens, n, stream), to, from, weights,
                                                        positions, n, per_token);
    });
}
