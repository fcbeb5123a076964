// The memory that the ranks of a model show each other, one buffer on each device, and how they meet in it.
//
//   rounds   [MAX_BLOCKS]                collectives that this rank has done; for its own use
//   signals  [MAX_BLOCKS][MAX_RANKS]     how far block b of each rank has come (meet)
//   packets  [2][ranks][2][PACKETS]      vectors that come with their round, from each rank (send, receive)
//   inbox    [2][ranks][chunk]           vectors that each rank has for this one to sum
//   outbox   [2][ranks][chunk]           sums, from the rank that has made them
//
// Every rank does the same collectives in the same order, on one stream. All is there twice, for odd and for even
// rounds: nobody begins round n + 1 before it has heard in round n from every other rank, which then had done with
// round n - 1, so what that one read may be written over. The round is counted on the device: a CUDA graph can replay
// the kernels. A block waits only for the block of the same number on other ranks, and blocks start in the order of
// their numbers: some block of a kernel can always go on, however few of them a device runs at once.
#pragma once

#include "dtypes.cuh"
#include "ptx_peers.cuh"

namespace mii {

constexpr int MAX_RANKS = MII_MAX_RANKS;
constexpr int MAX_BLOCKS = 128;
constexpr int64_t PACKETS = MII_ONE_SHOT_BYTES / ACCESS_BYTES;
constexpr int64_t ROUNDS_BYTES = MAX_BLOCKS * sizeof(uint64_t);
constexpr int64_t SIGNALS_BYTES = MAX_BLOCKS * MAX_RANKS * sizeof(uint64_t);
constexpr int LOOKS = 1024;  // at what has not come, before one at whether the wait is over

// Vectors that one rank sums of the longest message.
constexpr __host__ __device__ int64_t max_chunk(int ranks) {
    return (MII_TWO_SHOT_BYTES / ACCESS_BYTES + ranks - 1) / ranks;
}

struct Peers {
    unsigned char *buffers[MAX_RANKS];
    const int *abandoned;  // not 0: some rank is gone, and nobody waits any more; results are then undefined
    int rank;
    int ranks;

    __device__ uint64_t *rounds() const { return reinterpret_cast<uint64_t *>(buffers[rank]); }
    __device__ uint64_t *signal(int of, int from) const {
        return reinterpret_cast<uint64_t *>(buffers[of] + ROUNDS_BYTES) + blockIdx.x * MAX_RANKS + from;
    }
    // Half of vector i that rank `from` sends to rank `of`; halves are apart so that a warp writes without gaps.
    __device__ Words *packet(int of, int from, unsigned odd, int half, int64_t i) const {
        Words *packets = reinterpret_cast<Words *>(buffers[of] + ROUNDS_BYTES + SIGNALS_BYTES);
        return packets + ((static_cast<int64_t>(odd) * ranks + from) * 2 + half) * PACKETS + i;
    }
    __device__ uint4 *box(int of, int from, unsigned odd, bool out) const {
        uint4 *boxes = reinterpret_cast<uint4 *>(packet(of, 0, 2, 0, 0));
        return boxes + ((2 * out + odd) * static_cast<int64_t>(ranks) + from) * max_chunk(ranks);
    }
    __device__ uint64_t begin() const { return rounds()[blockIdx.x] + 1; }
    // All counters follow, whatever the number of blocks: ranks agree on odd and even by any of them.
    __device__ void end(uint64_t round) const {
        __syncthreads();
        for (unsigned i = blockIdx.x + threadIdx.x * gridDim.x; i < MAX_BLOCKS; i += gridDim.x * blockDim.x)
            rounds()[i] = round;
    }
};

constexpr int64_t buffer_bytes(int ranks) {
    return ROUNDS_BYTES + SIGNALS_BYTES + 4 * ranks * PACKETS * static_cast<int64_t>(sizeof(Words)) +
           4 * ranks * max_chunk(ranks) * ACCESS_BYTES;
}

// Counts looks; `over` is true when the wait has no end.
struct Wait {
    const int *abandoned;
    int looks = 0;

    __device__ bool over() {
        ptx::pause();
        return ++looks % LOOKS == 0 && ptx::load_relaxed(abandoned) != 0;
    }
};

// Vector i of this rank to every other. Each 4 bytes travel with the round in a word of their own: there is nothing to
// wait for between them and a signal. (The round's lower half: its like was here 2^32 collectives ago.)
__device__ inline void send(const Peers &peers, uint64_t round, int64_t i, uint4 x) {
    uint64_t tag = round << 32;
    Words low{{tag | x.x, tag | x.y}}, high{{tag | x.z, tag | x.w}};
    for (int step = 1; step < peers.ranks; ++step) {
        int to = (peers.rank + step) % peers.ranks;  // not all to the same at once
        ptx::store_relaxed(peers.packet(to, peers.rank, round & 1, 0, i), low);
        ptx::store_relaxed(peers.packet(to, peers.rank, round & 1, 1, i), high);
    }
}

// Vector i of every other rank, into `x` by rank. RANKS: at least as many as there are.
template <int RANKS>
__device__ inline void receive(const Peers &peers, uint64_t round, int64_t i, uint4 (&x)[RANKS]) {
    Wait wait{peers.abandoned};
    bool complete;
    do {
        complete = true;
#pragma unroll
        for (int from = 0; from < RANKS; ++from) {
            if (from == peers.rank || from >= peers.ranks) continue;
            Words low = ptx::load_relaxed(peers.packet(peers.rank, from, round & 1, 0, i));
            Words high = ptx::load_relaxed(peers.packet(peers.rank, from, round & 1, 1, i));
            unsigned tag = static_cast<unsigned>(round);
            complete = complete && low.at[0] >> 32 == tag && low.at[1] >> 32 == tag && high.at[0] >> 32 == tag &&
                       high.at[1] >> 32 == tag;
            x[from] = make_uint4(static_cast<unsigned>(low.at[0]), static_cast<unsigned>(low.at[1]),
                                 static_cast<unsigned>(high.at[0]), static_cast<unsigned>(high.at[1]));
        }
    } while (!complete && !wait.over());
}

// Puts this rank's own vector beside the others', without an index that is unknown when compiling.
template <int RANKS>
__device__ inline void put(uint4 (&x)[RANKS], int rank, uint4 own) {
#pragma unroll
    for (int from = 0; from < RANKS; ++from)
        if (from == rank) x[from] = own;
}

// Returns when this block of every rank is here; what they have written before can be read. `place`: 0 or 1, where in
// the round.
__device__ inline void meet(const Peers &peers, uint64_t round, int place) {
    __syncthreads();
    int other = threadIdx.x;
    if (other < peers.ranks && other != peers.rank) {
        ptx::store_release(peers.signal(other, peers.rank), 2 * round + place);
        Wait wait{peers.abandoned};
        while (ptx::load_acquire(peers.signal(peers.rank, other)) < 2 * round + place && !wait.over()) {}
    }
    __syncthreads();
}

// The sum over the ranks in their order, in float32, rounded once: the same bits wherever it is made.
template <typename T, int RANKS>
__device__ inline Vector<T, FULL_WIDTH<T>> sum_of(const uint4 (&x)[RANKS], int ranks) {
    float total[FULL_WIDTH<T>] = {};
#pragma unroll
    for (int from = 0; from < RANKS; ++from) {
        if (from >= ranks) continue;
        Vector<T, FULL_WIDTH<T>> part;
        memcpy(&part, &x[from], sizeof part);
#pragma unroll
        for (int e = 0; e < FULL_WIDTH<T>; ++e) total[e] += to_float(part.at[e]);
    }
    Vector<T, FULL_WIDTH<T>> sum;
#pragma unroll
    for (int e = 0; e < FULL_WIDTH<T>; ++e) sum.at[e] = from_float<T>(total[e]);
    return sum;
}

// Host.
inline Peers peers_of(void *const *buffers, const int *abandoned, int rank, int ranks) {
    Peers peers{{}, abandoned, rank, ranks};
    for (int i = 0; i < ranks; ++i) peers.buffers[i] = static_cast<unsigned char *>(buffers[i]);
    return peers;
}

template <int RANKS>
struct RanksTag {
    static constexpr int value = RANKS;
};

// Host: calls f(RanksTag<n>{}) with the least n that kernels are made for and that is not below `ranks`.
template <typename F>
cudaError_t with_ranks(int ranks, F f) {
    if (ranks < 1 || ranks > MAX_RANKS) return cudaErrorInvalidValue;
    if (ranks <= 2) return f(RanksTag<2>{});
    return ranks <= 4 ? f(RanksTag<4>{}) : f(RanksTag<MAX_RANKS>{});
}

}  // namespace mii
