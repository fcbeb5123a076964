// What happens to logits before a token is drawn, and to the counts after it.
//
//   add_bias:        out [rows, vocab] float = logits, with values [m, b] added at token_ids [m, b] of rows [m]
//   apply_penalties: out likewise, with the penalties of m rows; counts, in_prompt [slots, vocab]
//   count_tokens:    counts[slots[i], token_ids[i]] += 1
//
// The first two start from a copy as float, made by copy_rows; then only the named rows are touched again.
#include "dtypes.cuh"
#include "launch.cuh"

namespace mii {

constexpr int LOGITS_THREADS = 256;

// Grid: (rows, vectors of a row / threads).
template <typename T, int WIDTH>
__global__ void __launch_bounds__(LOGITS_THREADS)
    copy_rows_kernel(float *out, const T *logits, int vocab, int64_t stride) {
    int64_t row = blockIdx.x;
    int column = (blockIdx.y * blockDim.x + threadIdx.x) * WIDTH;
    if (column >= vocab) return;
    Vector<T, WIDTH> x = load<WIDTH>(logits + row * stride + column);
    float *to = out + row * vocab + column;
    constexpr int STORE = WIDTH < 4 ? WIDTH : 4;
#pragma unroll
    for (int i = 0; i < WIDTH; i += STORE) {
        Vector<float, STORE> part;
#pragma unroll
        for (int j = 0; j < STORE; ++j) part.at[j] = to_float(x.at[i + j]);
        store<STORE>(to + i, part);
    }
}

// Grid: (m, biases of a row / threads). Atomic: an id that a row has twice gets both values.
__global__ void __launch_bounds__(LOGITS_THREADS)
    add_bias_kernel(float *out, const int64_t *rows, const int64_t *token_ids, const float *values, int biases,
                    int vocab) {
    int i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= biases) return;
    int64_t at = static_cast<int64_t>(blockIdx.x) * biases + i;
    atomicAdd(out + rows[blockIdx.x] * vocab + token_ids[at], values[at]);
}

struct PenaltyArgs {
    float *out;           // [rows, vocab]
    const int64_t *rows;  // [m], and so are slots and the penalties
    const int64_t *slots;
    const int *counts;           // [slots, vocab]
    const uint8_t *in_prompt;    // [slots, vocab]
    const float *repetition;
    const float *presence;
    const float *frequency;
    int vocab;
};

// Grid: (m, tokens of a row / threads). Rows differ, so no two blocks touch one logit.
__global__ void __launch_bounds__(LOGITS_THREADS) penalties_kernel(PenaltyArgs args) {
    int row = blockIdx.x, token = blockIdx.y * blockDim.x + threadIdx.x;
    if (token >= args.vocab) return;
    int64_t counted = args.slots[row] * args.vocab + token;
    int count = args.counts[counted];
    if (count <= 0 && !args.in_prompt[counted]) return;
    float *logit = args.out + args.rows[row] * args.vocab + token;
    float x = *logit, factor = args.repetition[row];
    x = x > 0 ? x / factor : x * factor;
    // No fused multiply-add: the reference rounds the product.
    float penalty = __fmul_rn(args.frequency[row], static_cast<float>(count));
    *logit = x - (penalty + (count > 0 ? args.presence[row] : 0.0f));
}

__global__ void __launch_bounds__(LOGITS_THREADS)
    count_tokens_kernel(int *counts, const int64_t *slots, const int64_t *token_ids, int64_t n, int64_t vocab) {
    int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) atomicAdd(counts + slots[i] * vocab + token_ids[i], 1);
}

static dim3 grid_of(int64_t rows, int64_t columns) {
    return dim3(static_cast<unsigned>(rows),
                static_cast<unsigned>(ceil_div(columns, static_cast<int64_t>(LOGITS_THREADS))));
}

template <typename T, int WIDTH>
static cudaError_t launch_copy(float *out, const T *logits, int64_t rows, int vocab, int64_t stride,
                               cudaStream_t stream) {
    LaunchShape shape{grid_of(rows, vocab / WIDTH), LOGITS_THREADS, stream};
    return launch<copy_rows_kernel<T, WIDTH>>(shape, out, logits, vocab, stride);
}

static cudaError_t copy_rows(float *out, const void *logits, int64_t rows, int vocab, int64_t stride,
                             mii_dtype dtype, cudaStream_t stream) {
    return with_access(dtype, {out, logits}, vocab, stride, [&](auto access) {
        using T = typename decltype(access)::type;
        const T *from = static_cast<const T *>(logits);
        return launch_copy<T, decltype(access)::width>(out, from, rows, vocab, stride, stream);
    });
}

}  // namespace mii

cudaError_t mii_add_bias(float *out, const void *logits, const int64_t *biased_rows, const int64_t *token_ids,
                         const float *values, int64_t rows, int vocab, int64_t stride, int64_t biased,
                         int64_t biases, mii_dtype dtype, cudaStream_t stream) {
    cudaError_t error = mii::copy_rows(out, logits, rows, vocab, stride, dtype, stream);
    if (error != cudaSuccess) return error;
    mii::LaunchShape shape{mii::grid_of(biased, biases), mii::LOGITS_THREADS, stream};
    return mii::launch<mii::add_bias_kernel>(shape, out, biased_rows, token_ids, values, biases, vocab);
}

cudaError_t mii_apply_penalties(float *out, const void *logits, const int64_t *penalised_rows,
                                const int64_t *slots, const int *counts, const uint8_t *in_prompt,
                                const float *repetition, const float *presence, const float *frequency,
                                int64_t rows, int vocab, int64_t stride, int64_t penalised, mii_dtype dtype,
                                cudaStream_t stream) {
    cudaError_t error = mii::copy_rows(out, logits, rows, vocab, stride, dtype, stream);
    if (error != cudaSuccess) return error;
    mii::PenaltyArgs args{out, penalised_rows, slots, counts, in_prompt, repetition, presence, frequency, vocab};
    mii::LaunchShape shape{mii::grid_of(penalised, vocab), mii::LOGITS_THREADS, stream};
    return mii::launch<mii::penalties_kernel>(shape, args);
}

cudaError_t mii_count_tokens(int *counts, const int64_t *slots, const int64_t *token_ids, int64_t n, int64_t vocab,
                             cudaStream_t stream) {
    unsigned blocks = static_cast<unsigned>(mii::ceil_div(n, static_cast<int64_t>(mii::LOGITS_THREADS)));
    return mii::launch<mii::count_tokens_kernel>({blocks, mii::LOGITS_THREADS, stream}, counts, slots, token_ids, n,
                                                 vocab);
}
