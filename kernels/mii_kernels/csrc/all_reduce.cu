// out = the sum of x over the ranks of a model, `count` elements each, through buffers on their devices (peers.cuh).
// All ranks get the same bits; out may be x.
//
//   one shot: every rank sends all of x to all others, and each makes all of the sums. One way over NVLink, for few
//             bytes; they travel doubled, with their round.
//   two shots: rank r sums chunk r of the message, which all others send to it, and sends the sums to all. Twice the
//             way, but for more than two ranks a fraction of the bytes.
//
// Vectors of 16 bytes; the last one of a message may be filled up.
#include "launch.cuh"
#include "peers.cuh"

namespace mii {

constexpr int ONE_SHOT_THREADS = 256;
constexpr int TWO_SHOT_THREADS = 512;

// Vector i of `count` elements; beyond them zeros.
template <typename T>
__device__ inline uint4 load_vector(const T *x, int64_t i, int64_t count) {
    constexpr int W = FULL_WIDTH<T>;
    if ((i + 1) * W <= count) return *reinterpret_cast<const uint4 *>(x + i * W);
    T part[W];
#pragma unroll
    for (int e = 0; e < W; ++e) part[e] = i * W + e < count ? x[i * W + e] : from_float<T>(0.0f);
    uint4 bits;
    memcpy(&bits, part, sizeof bits);
    return bits;
}

template <typename T>
__device__ inline void store_vector(T *out, int64_t i, int64_t count, uint4 bits) {
    constexpr int W = FULL_WIDTH<T>;
    if ((i + 1) * W <= count) {
        __stwb(reinterpret_cast<uint4 *>(out + i * W), bits);
        return;
    }
    T part[W];
    memcpy(part, &bits, sizeof bits);
#pragma unroll
    for (int e = 0; e < W; ++e)
        if (i * W + e < count) out[i * W + e] = part[e];
}

// f(i) for this thread's share of n vectors.
template <typename F>
__device__ inline void each_vector(int64_t n, F f) {
    for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x)
        f(i);
}

template <typename T, int RANKS>
__device__ inline uint4 sum_bits(const uint4 (&x)[RANKS], int ranks) {
    Vector<T, FULL_WIDTH<T>> sum = sum_of<T>(x, ranks);
    uint4 bits;
    memcpy(&bits, &sum, sizeof bits);
    return bits;
}

template <typename T, int RANKS>
__global__ void __launch_bounds__(ONE_SHOT_THREADS)
    one_shot_kernel(T *out, const T *x, int64_t count, int64_t vectors, const __grid_constant__ Peers peers) {
    uint64_t round = peers.begin();
    each_vector(vectors, [&](int64_t i) { send(peers, round, i, load_vector(x, i, count)); });
    each_vector(vectors, [&](int64_t i) {
        uint4 parts[RANKS];
        receive(peers, round, i, parts);
        put(parts, peers.rank, load_vector(x, i, count));
        store_vector(out, i, count, sum_bits<T>(parts, peers.ranks));
    });
    peers.end(round);
}

template <typename T, int RANKS>
__global__ void __launch_bounds__(TWO_SHOT_THREADS)
    two_shot_kernel(T *out, const T *x, int64_t count, int64_t vectors, int64_t chunk,
                    const __grid_constant__ Peers peers) {
    uint64_t round = peers.begin();
    int rank = peers.rank, ranks = peers.ranks;
    unsigned odd = round & 1;
    auto within = [&](int of, int64_t i) { return of * chunk + i < vectors; };

    for (int step = 1; step < ranks; ++step) {
        int to = (rank + step) % ranks;
        uint4 *inbox = peers.box(to, rank, odd, false);
        each_vector(chunk, [&](int64_t i) {
            if (within(to, i)) inbox[i] = load_vector(x, to * chunk + i, count);
        });
    }
    meet(peers, round, 0);
    each_vector(chunk, [&](int64_t i) {
        if (!within(rank, i)) return;
        uint4 parts[RANKS];
#pragma unroll
        for (int from = 0; from < RANKS; ++from)
            if (from != rank && from < ranks) parts[from] = peers.box(rank, from, odd, false)[i];
        put(parts, rank, load_vector(x, rank * chunk + i, count));
        uint4 sum = sum_bits<T>(parts, ranks);
        for (int step = 1; step < ranks; ++step) peers.box((rank + step) % ranks, rank, odd, true)[i] = sum;
        store_vector(out, rank * chunk + i, count, sum);
    });
    meet(peers, round, 1);
    for (int step = 1; step < ranks; ++step) {
        int from = (rank + step) % ranks;
        const uint4 *outbox = peers.box(rank, from, odd, true);
        each_vector(chunk, [&](int64_t i) {
            if (within(from, i)) store_vector(out, from * chunk + i, count, outbox[i]);
        });
    }
    peers.end(round);
}

static unsigned blocks_for(int64_t vectors, int threads) {
    int64_t blocks = ceil_div(vectors, static_cast<int64_t>(threads));
    return static_cast<unsigned>(blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS);
}

// Runs f(type, ranks, vectors) where the message may have so many bytes and its pointers are aligned.
template <typename F>
static cudaError_t all_reduce(const void *out, const void *x, int64_t count, int64_t max_bytes, int ranks,
                              mii_dtype dtype, F f) {
    return with_type(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        bool fits = count * static_cast<int64_t>(sizeof(T)) <= max_bytes && fits_full_width<T>(0, out, x);
        if (!fits) return cudaErrorInvalidValue;
        int64_t vectors = ceil_div(count, static_cast<int64_t>(FULL_WIDTH<T>));
        return with_ranks(ranks, [&](auto ranks_tag) { return f(type, ranks_tag, vectors); });
    });
}

}  // namespace mii

cudaError_t mii_all_reduce_one_shot(void *out, const void *x, void *const *buffers, const int *abandoned,
                                    int64_t count, int rank, int ranks, mii_dtype dtype, cudaStream_t stream) {
    using namespace mii;
    return all_reduce(out, x, count, MII_ONE_SHOT_BYTES, ranks, dtype, [&](auto type, auto tag, int64_t vectors) {
        using T = typename decltype(type)::type;
        LaunchShape shape{blocks_for(vectors, ONE_SHOT_THREADS), ONE_SHOT_THREADS, stream};
        return launch<one_shot_kernel<T, decltype(tag)::value>>(shape, static_cast<T *>(out),
                                                                static_cast<const T *>(x), count, vectors,
                                                                peers_of(buffers, abandoned, rank, ranks));
    });
}

cudaError_t mii_all_reduce_two_shot(void *out, const void *x, void *const *buffers, const int *abandoned,
                                    int64_t count, int rank, int ranks, mii_dtype dtype, cudaStream_t stream) {
    using namespace mii;
    return all_reduce(out, x, count, MII_TWO_SHOT_BYTES, ranks, dtype, [&](auto type, auto tag, int64_t vectors) {
        using T = typename decltype(type)::type;
        int64_t chunk = ceil_div(vectors, static_cast<int64_t>(ranks));
        LaunchShape shape{blocks_for(chunk, TWO_SHOT_THREADS), TWO_SHOT_THREADS, stream};
        return launch<two_shot_kernel<T, decltype(tag)::value>>(shape, static_cast<T *>(out),
                                                                static_cast<const T *>(x), count, vectors, chunk,
                                                                peers_of(buffers, abandoned, rank, ranks));
    });
}
