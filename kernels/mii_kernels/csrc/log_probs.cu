// Log-probabilities under softmax(logits [rows, vocab]): chosen [rows], of one token id each; top_ids, top [rows, k], of
// the k likeliest, best first, the lowest id first among equals. NaN counts as -inf, +inf as the largest float.
//
// One block of threads per row, which reads it once for its mass. With k the same pass counts how many tokens are how
// far from the best, and one more lists those that may be among the k likeliest (survey.cuh, limits.cuh). Where the
// list has no room for all that tie, or too few tokens are above -inf, the row is read once for each of the k.
#include "sampler.cuh"

namespace mii {

constexpr int MAX_TOP = 64;

template <typename T>
struct LogProbsArgs {
    float *chosen;     // [rows]
    int64_t *top_ids;  // [rows, k], as top
    float *top;
    const T *logits;
    const int64_t *token_ids;  // [rows]
    int64_t stride;            // between rows of logits
    int vocab;
    int k;
};

// The log-probability of a logit.
struct LogSoftmax {
    float best;
    double log_mass;  // relative to the best

    __device__ float operator()(float x) const {
        return log_mass > -INFINITY ? static_cast<float>(static_cast<double>(x) - best - log_mass) : -INFINITY;
    }
};

struct Top {
    int64_t *ids;  // [k]
    float *values;
    int k;
    LogSoftmax log_softmax;

    __device__ void put(int place, float x, int id) const { ids[place] = id, values[place] = log_softmax(x); }

    // Each thread puts its tokens where they belong, by counting those that are better.
    __device__ void from_list(const SelectionScratch &scratch) const {
        for (int i = threadIdx.x; i < scratch.listed; i += blockDim.x) {
            Listed token = scratch.list[i];
            unsigned long long own = rank_of(token.x, token.id);
            int better = 0;
            for (int j = 0; j < scratch.listed && better < k; ++j)
                better += rank_of(scratch.list[j].x, scratch.list[j].id) > own;
            if (better < k) put(better, token.x, token.id);
        }
    }

    template <typename T, int WIDTH>
    __device__ void from_row(const Row<T, WIDTH> &row, unsigned long long *scratch) const {
        unsigned long long last = ~0ull;
        for (int place = 0; place < k; ++place) {
            unsigned long long next = 0;
            row.each([&](int id, const float(&x)[WIDTH]) {
                for (int i = 0; i < WIDTH; ++i) {
                    unsigned long long rank = rank_of(x[i], id + i);
                    if (rank < last) next = max(next, rank);
                }
            });
            last = row_reduce(next, Max{}, scratch);
            if (threadIdx.x == 0) put(place, logit_of(last), id_of(last));
        }
    }
};

template <typename T, int WIDTH, bool TOP>
__global__ void __launch_bounds__(SAMPLE_THREADS, 2) log_probs_kernel(LogProbsArgs<T> args) {
    __shared__ SampleScratch scratch;
    int64_t index = blockIdx.x;
    LimitScratch *limits = reinterpret_cast<LimitScratch *>(dynamic_shared());  // there only for TOP
    void *rest = TOP ? static_cast<void *>(limits + 1) : limits;
    Row<T, WIDTH> row{args.logits + index * args.stride, args.vocab};
    Temperature temperature(1.0f);
    Sampler<T, WIDTH> sampler{row, temperature, scratch, {rest, Tile<T, WIDTH>::count(args.vocab)}};
    Survey<T, WIDTH> survey{row, temperature};
    Bins bins{};
    if constexpr (TOP) bins = survey.counting({args.k, 1.0f, -INFINITY}, sampler.of_tile.masses, limits->survey);
    else survey.plain(sampler.of_tile.masses);
    Totals totals = sampler.normalise();
    LogSoftmax log_softmax{totals.best, log(totals.mass)};
    if (threadIdx.x == 0)
        args.chosen[index] = log_softmax(cleaned(to_float(row.logits[args.token_ids[index]])));
    if constexpr (TOP) {
        Top top{args.top_ids + index * args.k, args.top + index * args.k, args.k, log_softmax};
        Bounds bounds{temperature, bins, totals, *limits};
        SelectionScratch &list = limits->selection;
        sampler.collect(bins, window_of(0, bounds.kth_bin(args.k)), totals.best, list);
        if (list.listed >= args.k && list.listed <= LIST) top.from_list(list);
        else top.from_row(row, scratch.best);
    }
}

template <typename T, int WIDTH>
static cudaError_t launch_log_probs(const LogProbsArgs<T> &args, int64_t rows, cudaStream_t stream) {
    if (args.k > MAX_TOP || args.k > args.vocab) return cudaErrorInvalidValue;
    LaunchShape shape = tile_launch<T, WIDTH>(rows, args.vocab, args.k > 0, stream);
    if (shape.shared_bytes > MAX_SHARED_BYTES) return cudaErrorInvalidValue;
    return args.k > 0 ? launch<log_probs_kernel<T, WIDTH, true>>(shape, args)
                      : launch<log_probs_kernel<T, WIDTH, false>>(shape, args);
}

}  // namespace mii

cudaError_t mii_log_probs(float *chosen, int64_t *top_ids, float *top, const void *logits, const int64_t *token_ids,
                          int64_t rows, int vocab, int64_t stride, int k, mii_dtype dtype, cudaStream_t stream) {
    return mii::with_access(dtype, {logits}, vocab, stride, [&](auto access) {
        using T = typename decltype(access)::type;
        mii::LogProbsArgs<T> args{chosen, top_ids, top, static_cast<const T *>(logits), token_ids, stride, vocab, k};
        return mii::launch_log_probs<T, decltype(access)::width>(args, rows, stream);
    });
}
