// out, summed = norm(all_reduce(x) + residual), all_reduce(x) + residual: rows of n elements, whose sums over the ranks
// are made in one shot (peers.cuh) and rounded to T before the residual is added (norm_row.cuh). One row for a block at
// a time, which sends what it has of all its rows before it waits for the first; one vector a thread where a row has at
// most 8 KiB, so that few registers are in use and all of a row travels at once. All ranks get the same bits.
#include "launch.cuh"
#include "norm_row.cuh"
#include "peers.cuh"

namespace mii {

constexpr int ROW_THREADS = 512;

template <typename T, int RANKS, int COUNT, bool RMS>
__global__ void __launch_bounds__(ROW_THREADS) all_reduce_norm_kernel(NormArgs<T> args,
                                                                      const __grid_constant__ Peers peers) {
    constexpr int W = FULL_WIDTH<T>;
    __shared__ float scratch[WARP];
    uint64_t round = peers.begin();
    Part<T, W, COUNT> part, residual;
    for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x)
        part.each(args.n, [&](int64_t column, Vector<T, W> &) {
            int64_t at = row * args.n + column;
            send(peers, round, at / W, *reinterpret_cast<const uint4 *>(args.x + at));
        });
    NormWeights<T, W, COUNT> weights(args);
    for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
        residual.read(args.residual + row * args.n, args.n);  // on its way while others' parts are
        part.each(args.n, [&](int64_t column, Vector<T, W> &x) {
            int64_t at = row * args.n + column;
            uint4 own = *reinterpret_cast<const uint4 *>(args.x + at), parts[RANKS];
            receive(peers, round, at / W, parts);
            put(parts, peers.rank, own);
            x = sum_of<T>(parts, peers.ranks);
        });
        add_residual(part, residual, row, true, args);
        write_norm<RMS>(part, weights, row, true, scratch, args);
    }
    peers.end(round);
}

template <typename T, int RANKS, int COUNT>
static cudaError_t launch_all_reduce_norm(const NormArgs<T> &args, const Peers &peers, bool rms, cudaStream_t stream) {
    int64_t threads = ceil_div(args.n, static_cast<int64_t>(FULL_WIDTH<T> * COUNT * WARP)) * WARP;
    unsigned blocks = static_cast<unsigned>(args.rows < MAX_BLOCKS ? args.rows : MAX_BLOCKS);
    LaunchShape shape{blocks, static_cast<unsigned>(threads), stream};
    if (rms) return launch<all_reduce_norm_kernel<T, RANKS, COUNT, true>>(shape, args, peers);
    return launch<all_reduce_norm_kernel<T, RANKS, COUNT, false>>(shape, args, peers);
}

}  // namespace mii

cudaError_t mii_all_reduce_norm(void *out, void *summed, const void *x, const void *residual, const void *weight,
                                const void *bias, void *const *buffers, const int *abandoned, int64_t rows,
                                int64_t n, int rank, int ranks, int rms, float eps, mii_dtype dtype,
                                cudaStream_t stream) {
    using namespace mii;
    return with_type(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        bool fits = rows * n * static_cast<int64_t>(sizeof(T)) <= MII_ONE_SHOT_BYTES && n > 0 &&
                    n <= ITEMS * ROW_THREADS * FULL_WIDTH<T> &&
                    fits_full_width<T>(n, out, summed, x, residual, weight, bias);
        if (!fits) return cudaErrorInvalidValue;
        NormArgs<T> args{static_cast<T *>(out),          static_cast<T *>(summed),
                         static_cast<const T *>(x),      static_cast<const T *>(residual),
                         static_cast<const T *>(weight), static_cast<const T *>(bias),
                         rows, n, 1, n, eps};
        Peers peers = peers_of(buffers, abandoned, rank, ranks);
        bool short_rows = n <= ROW_THREADS * FULL_WIDTH<T>;
        return with_ranks(ranks, [&](auto tag) {
            constexpr int RANKS = decltype(tag)::value;
            if (short_rows) return launch_all_reduce_norm<T, RANKS, 1>(args, peers, rms != 0, stream);
            return launch_all_reduce_norm<T, RANKS, ITEMS>(args, peers, rms != 0, stream);
        });
    });
}
