// One token for each row of logits [rows, vocab]: greedy, or drawn as reference/sampling.py defines it.
//
// One block of threads per row. A greedy row is read once; a sampled one twice (the best logit; sums of weights in
// order of ids, one for each CHUNK of tokens), and two or three times more where there is top-k or top-p
// (limits.cuh). A row is some hundred KB, so that all but the first read come from L2. Sums are taken in a fixed
// order: a row's token depends on nothing but the row.
#include "limits.cuh"
#include "philox.cuh"

namespace mii {

constexpr int SAMPLE_THREADS = 512;
constexpr size_t MAX_SHARED_BYTES = 227 * 1024;

template <typename T>
struct SampleArgs {
    int64_t *out;  // [rows]
    const T *logits;
    const float *temperature;  // [rows], as all below; null: no such filter
    const int *top_k;
    const float *top_p;
    const float *min_p;
    const int64_t *seeds;
    const int64_t *positions;
    int64_t stride;  // between rows of logits
    int vocab;
};

template <typename T, int WIDTH>
__global__ void __launch_bounds__(SAMPLE_THREADS) greedy_kernel(int64_t *out, const T *logits, int64_t stride, int vocab) {
    __shared__ unsigned long long scratch[WARP];
    Row<T, WIDTH> row{logits + blockIdx.x * stride, vocab};
    Best best = best_of(row, scratch);
    if (threadIdx.x == 0) out[blockIdx.x] = best.id;
}

// The strictest of the row's limits on z; -inf where nothing is filtered.
template <typename T, int WIDTH>
__device__ inline float limit_of(const SampleArgs<T> &args, const Row<T, WIDTH> &row, const Scale &scale,
                                 LimitScratch *scratch) {
    int index = blockIdx.x, k = args.top_k ? args.top_k[index] : 0;
    float p = args.top_p ? args.top_p[index] : 1.0f, limit = -INFINITY;
    if (k > 0 || p < 1) {
        Limits<T, WIDTH> limits{row, scale, *scratch};
        double mass = limits.count();
        if (k > 0 && k < args.vocab) {
            limit = limits.top_k(k);
            if (p < 1) mass = limits.mass(limit);
        }
        if (p < 1) limit = fmaxf(limit, limits.top_p(p * mass, limit));
    }
    return args.min_p ? fmaxf(limit, logf(args.min_p[index])) : limit;
}

// The token at which the running sum of the weights, in order of ids, exceeds u times their sum. A chunk is what one
// warp reads at a time; `sums`: shared, one for each chunk.
template <typename T, int WIDTH>
__device__ inline int draw(const Row<T, WIDTH> &row, const Scale &scale, float limit, double u, double *sums,
                           SearchScratch &scratch) {
    constexpr int CHUNK = WARP * WIDTH;
    int lane = threadIdx.x % WARP, chunks = ceil_div(row.vocab, CHUNK);
    for (int i = threadIdx.x; i < chunks * WARP; i += blockDim.x) {  // whole warps, unlike row.each
        float part = 0;
        if (i * WIDTH < row.vocab) {
            auto loaded = load<WIDTH>(row.logits + i * WIDTH);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) {
                float z = scale(cleaned(to_float(loaded.at[j])));
                if (z >= limit) part += weight_of(z);
            }
        }
        double sum = warp_reduce(static_cast<double>(part), Sum{});
        if (lane == 0) sums[i / WARP] = sum;
    }
    __syncthreads();
    auto sum = [&](int i) { return sums[i]; };
    auto exceeded = [&](double running, double total) { return running > u * total; };
    Place chunk = block_search(chunks, sum, exceeded, scratch);

    // Every warp does the same, for the sake of simplicity.
    int first = chunk.index * CHUNK + lane * WIDTH;
    double weights[WIDTH], own = 0;
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        float z = first + j < row.vocab ? scale(cleaned(to_float(row.logits[first + j]))) : -INFINITY;
        weights[j] = z >= limit ? weight_of(z) : 0.0f;
        own += weights[j];
    }
    double inclusive = warp_scan(own), whole = __shfl_sync(ALL_LANES, inclusive, WARP - 1);
    double wanted = fmin(u * chunk.total - chunk.before, whole * (1 - 0x1p-52));  // rounding must not lead past the end
    unsigned reached = __ballot_sync(ALL_LANES, inclusive > wanted);
    int winner = __ffs(static_cast<int>(reached)) - 1, token = first;
    double previous = __shfl_up_sync(ALL_LANES, inclusive, 1), running = lane == 0 ? 0 : previous;
    bool found = false;
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        running += weights[j];
        if (!found && weights[j] > 0) token = first + j, found = running > wanted;
    }
    return __shfl_sync(ALL_LANES, token, winner);
}

template <typename T, int WIDTH>
__global__ void __launch_bounds__(SAMPLE_THREADS, 2) sample_kernel(SampleArgs<T> args) {
    __shared__ unsigned long long best_scratch[WARP];
    __shared__ SearchScratch search_scratch;
    int index = blockIdx.x, chunks = ceil_div(args.vocab, WARP * WIDTH);
    double *sums = reinterpret_cast<double *>(dynamic_shared());
    auto *limit_scratch = reinterpret_cast<LimitScratch *>(sums + chunks);  // there only with top-k or top-p

    Row<T, WIDTH> row{args.logits + index * args.stride, args.vocab};
    Best best = best_of(row, best_scratch);
    float temperature = args.temperature[index];
    int token = best.id;
    if (temperature > 0 && best.x > -INFINITY) {
        Scale scale{best.x, temperature, 1.0f / temperature};
        float limit = limit_of(args, row, scale, limit_scratch);
        token = draw(row, scale, limit, uniform(args.seeds[index], args.positions[index]), sums, search_scratch);
    }
    if (threadIdx.x == 0) args.out[index] = token;
}

static unsigned sample_threads(int vectors) {
    return static_cast<unsigned>(min(SAMPLE_THREADS, ceil_div(vectors, WARP) * WARP));
}

template <typename T, int WIDTH>
static cudaError_t launch_sample(const SampleArgs<T> &args, int64_t rows, cudaStream_t stream) {
    size_t bytes = ceil_div(args.vocab, WARP * WIDTH) * sizeof(double);
    if (args.top_k || args.top_p) bytes += sizeof(LimitScratch);
    if (bytes > MAX_SHARED_BYTES) return cudaErrorInvalidValue;
    LaunchShape shape{static_cast<unsigned>(rows), sample_threads(args.vocab / WIDTH), stream, bytes};
    return launch<sample_kernel<T, WIDTH>>(shape, args);
}

template <typename T, int WIDTH>
static cudaError_t launch_greedy(int64_t *out, const T *logits, int64_t rows, int vocab, int64_t stride,
                                 cudaStream_t stream) {
    LaunchShape shape{static_cast<unsigned>(rows), sample_threads(vocab / WIDTH), stream};
    return launch<greedy_kernel<T, WIDTH>>(shape, out, logits, stride, vocab);
}

}  // namespace mii

cudaError_t mii_greedy(int64_t *out, const void *logits, int64_t rows, int vocab, int64_t stride, mii_dtype dtype,
                       cudaStream_t stream) {
    return mii::with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        constexpr int width = mii::FULL_WIDTH<T>;
        const T *from = static_cast<const T *>(logits);
        bool wide = mii::fits_full_width<T>(vocab, logits) && stride % width == 0;
        return wide ? mii::launch_greedy<T, width>(out, from, rows, vocab, stride, stream)
                    : mii::launch_greedy<T, 1>(out, from, rows, vocab, stride, stream);
    });
}

cudaError_t mii_sample(int64_t *out, const void *logits, const float *temperature, const int *top_k,
                       const float *top_p, const float *min_p, const int64_t *seeds, const int64_t *positions,
                       int64_t rows, int vocab, int64_t stride, mii_dtype dtype, cudaStream_t stream) {
    return mii::with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        constexpr int width = mii::FULL_WIDTH<T>;
        mii::SampleArgs<T> args{out,   static_cast<const T *>(logits), temperature, top_k, top_p, min_p,
                                seeds, positions, stride, vocab};
        bool wide = mii::fits_full_width<T>(vocab, logits) && stride % width == 0;
        return wide ? mii::launch_sample<T, width>(args, rows, stream)
                    : mii::launch_sample<T, 1>(args, rows, stream);
    });
}
