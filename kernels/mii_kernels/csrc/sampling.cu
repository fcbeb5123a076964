// One token for each row of logits [rows, vocab]: greedy, or drawn as reference/sampling.py defines it.
//
// One block of threads per row. A greedy row is read once, as is one without filters: the pass (survey.cuh) leaves the
// mass of each tile of the row, in order of ids, and only the tile that the draw leads to (draw.cuh) is read again.
// With filters one more pass (limits.cuh) tells what survives. Sums are taken in a fixed order: a row's token depends
// on nothing but the row.
#include "draw.cuh"
#include "philox.cuh"
#include "sampler.cuh"

namespace mii {

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

    __device__ Filters filters(int row) const {
        int k = top_k ? top_k[row] : 0;
        float p = top_p ? top_p[row] : 1.0f;
        return {k > 0 && k < vocab ? k : 0, p, min_p ? logf(min_p[row]) : -INFINITY};
    }
};

template <typename T, int WIDTH>
__global__ void __launch_bounds__(SAMPLE_THREADS) greedy_kernel(int64_t *out, const T *logits, int64_t stride, int vocab) {
    __shared__ unsigned long long scratch[WARP];
    Row<T, WIDTH> row{logits + blockIdx.x * stride, vocab};
    Best best = best_of(row, scratch);
    if (threadIdx.x == 0) out[blockIdx.x] = best.id;
}

template <typename T, int WIDTH, bool FILTERED>
__global__ void __launch_bounds__(SAMPLE_THREADS, 2) sample_kernel(SampleArgs<T> args) {
    __shared__ SampleScratch scratch;
    int index = blockIdx.x;
    LimitScratch *limits = reinterpret_cast<LimitScratch *>(dynamic_shared());  // there only with filters
    void *rest = FILTERED ? static_cast<void *>(limits + 1) : limits;
    Row<T, WIDTH> row{args.logits + index * args.stride, args.vocab};
    Temperature temperature(args.temperature[index]);
    int token = -1;
    if (temperature.value > 0) {
        Sampler<T, WIDTH> sampler{row, temperature, scratch, {rest, Tile<T, WIDTH>::count(args.vocab)}};
        Survived survived = sampler.template survive<FILTERED>(args.filters(index), limits);
        Draw<T, WIDTH> draw{row, temperature, survived.best, survived.limit};
        double u = uniform(args.seeds[index], args.positions[index]);
        token = draw.token(u, sampler.of_tile.sums, scratch.search);
    }
    if (token < 0) token = best_of(row, scratch.best).id;  // greedy, or no token has a weight
    if (threadIdx.x == 0) args.out[index] = token;
}

static unsigned greedy_threads(int vectors) {
    return static_cast<unsigned>(min(SAMPLE_THREADS, ceil_div(vectors, WARP) * WARP));
}

template <typename T, int WIDTH>
static cudaError_t launch_greedy(int64_t *out, const T *logits, int64_t rows, int vocab, int64_t stride,
                                 cudaStream_t stream) {
    LaunchShape shape{static_cast<unsigned>(rows), greedy_threads(vocab / WIDTH), stream};
    return launch<greedy_kernel<T, WIDTH>>(shape, out, logits, stride, vocab);
}

template <typename T, int WIDTH>
static cudaError_t launch_sample(const SampleArgs<T> &args, int64_t rows, cudaStream_t stream) {
    bool filtered = args.top_k || args.top_p || args.min_p;
    LaunchShape shape = tile_launch<T, WIDTH>(rows, args.vocab, filtered, stream);
    if (shape.shared_bytes > MAX_SHARED_BYTES) return cudaErrorInvalidValue;
    return filtered ? launch<sample_kernel<T, WIDTH, true>>(shape, args)
                    : launch<sample_kernel<T, WIDTH, false>>(shape, args);
}

}  // namespace mii

cudaError_t mii_greedy(int64_t *out, const void *logits, int64_t rows, int vocab, int64_t stride, mii_dtype dtype,
                       cudaStream_t stream) {
    return mii::with_access(dtype, {logits}, vocab, stride, [&](auto access) {
        using T = typename decltype(access)::type;
        const T *from = static_cast<const T *>(logits);
        return mii::launch_greedy<T, decltype(access)::width>(out, from, rows, vocab, stride, stream);
    });
}

cudaError_t mii_sample(int64_t *out, const void *logits, const float *temperature, const int *top_k,
                       const float *top_p, const float *min_p, const int64_t *seeds, const int64_t *positions,
                       int64_t rows, int vocab, int64_t stride, mii_dtype dtype, cudaStream_t stream) {
    return mii::with_access(dtype, {logits}, vocab, stride, [&](auto access) {
        using T = typename decltype(access)::type;
        mii::SampleArgs<T> args{out,   static_cast<const T *>(logits), temperature, top_k, top_p, min_p,
                                seeds, positions, stride, vocab};
        return mii::launch_sample<T, decltype(access)::width>(args, rows, stream);
    });
}
