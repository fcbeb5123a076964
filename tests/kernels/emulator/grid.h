// Runs a grid on the CPU: clusters of blocks, mostly of one, one after another.
#pragma once

#include "fibers.h"

namespace emulator {

// Barriers 1 to 15 of a block, and tile copies (see ptx_hopper_emulated.h).
struct NamedBarrier { unsigned arrived, generation; };
struct TileCopy { void *barrier; std::function<void()> run; };
inline thread_local std::vector<TileCopy> tile_copies;

// What a block has to itself.
struct Block {
    std::vector<unsigned char> bytes;
    NamedBarrier named_barriers[16];

    unsigned char *shared() {
        auto address = reinterpret_cast<uintptr_t>(bytes.data());
        return reinterpret_cast<unsigned char *>((address + 127) / 128 * 128);
    }
};
inline thread_local std::vector<Block> blocks;  // of the cluster

inline Block &block() { return blocks[self().rank]; }
inline unsigned char *dynamic_shared() { return block().shared(); }

inline void prepare_thread(unsigned i, uint3 first_block) {
    Thread &it = *threads[i];
    unsigned within = i % block_threads;
    it.state = State::READY, it.rank = i / block_threads;
    it.index = {within % blockDim.x, within / blockDim.x % blockDim.y, within / (blockDim.x * blockDim.y)};
    it.block = {first_block.x + it.rank, first_block.y, first_block.z};
    it.copies.assign(1, {});
    it.products.assign(1, {});
    it.stores.clear();
}

inline void prepare_cluster(uint3 first_block, unsigned size, size_t dynamic_bytes) {
    tile_copies.clear(), misuse.clear();
    block_threads = blockDim.x * blockDim.y * blockDim.z, num_threads = size * block_threads;
    while (threads.size() < num_threads) threads.push_back(new Thread{});
    for (unsigned i = 0; i < num_threads; ++i) prepare_thread(i, first_block);
    blocks.assign(size, {});
    for (Block &it : blocks) it.bytes.assign(dynamic_bytes + 256, POISON);  // aligned by hand, and a guard behind
}

// Threads in this state, of the block with this rank.
inline unsigned count(State state, unsigned rank) {
    unsigned n = 0;
    for (unsigned i = rank * block_threads; i < (rank + 1) * block_threads; ++i) n += threads[i]->state == state;
    return n;
}

// Lets all threads go on that are at a barrier of their block, or of the cluster, where nobody else is still to come;
// whether all threads are done.
inline bool pass_barriers() {
    unsigned size = static_cast<unsigned>(blocks.size()), done = 0, at_cluster = 0;
    auto release = [](State state, unsigned first, unsigned end) {
        for (unsigned i = first; i < end; ++i)
            if (threads[i]->state == state) threads[i]->state = State::READY;
    };
    for (unsigned rank = 0; rank < size; ++rank) {
        unsigned ended = count(State::DONE, rank);
        done += ended, at_cluster += count(State::AT_CLUSTER_BARRIER, rank);
        if (ended + count(State::AT_BARRIER, rank) == block_threads)
            release(State::AT_BARRIER, rank * block_threads, (rank + 1) * block_threads);
    }
    if (done + at_cluster == num_threads) release(State::AT_CLUSTER_BARRIER, 0, num_threads);
    return done == num_threads;
}

inline bool fail(const std::string &what) {
    auto place = [](uint3 at) {
        return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
    };
    failure = what + " in block " + place(blockIdx);
    for (unsigned i = 0; i < num_threads; ++i) {
        State state = threads[i]->state;
        if (state == State::DONE) continue;
        const char *at = state == State::AT_BARRIER           ? "__syncthreads"
                         : state == State::AT_CLUSTER_BARRIER ? "cluster_sync"
                                                              : threads[i]->name;
        failure += "; thread " + place(threads[i]->index) + " is at " + at;
        break;
    }
    threads.clear();  // their stacks hold frames that will never return
    return false;
}

// Lets each thread go on until it waits; whether any could.
inline bool run_round() {
    bool progress = false;
    size_t start = 7 * round_number++;
    for (unsigned i = 0; i < num_threads; ++i) {
        unsigned thread = (start + i * 1031) % num_threads;  // a prime: visits all
        State &state = threads[thread]->state;
        current = thread;
        if (state == State::POLLING && threads[thread]->until()) state = State::READY;
        if (state != State::READY) continue;
        progress = true;
        resume(thread);
    }
    return progress;
}

inline bool any_ready() {
    for (unsigned i = 0; i < num_threads; ++i)
        if (threads[i]->state == State::READY) return true;
    return false;
}

inline bool run_cluster(uint3 first_block, unsigned size, size_t dynamic_bytes) {
    prepare_cluster(first_block, size, dynamic_bytes);
    for (bool done = false; !done;) {
        bool progress = run_round();
        if (!misuse.empty()) return fail(misuse);
        done = pass_barriers();
        if (!done && !progress && !any_ready()) return fail("deadlock");
    }
    if (!tile_copies.empty()) return fail("tile copies that nothing waited for");
    for (unsigned i = 0; i < num_threads; ++i)
        if (!threads[i]->stores.empty()) return fail("tile stores that nothing waited for");
    for (Block &it : blocks)
        for (int i = 0; i < 128; ++i)
            if (it.shared()[dynamic_bytes + i] != POISON) return fail("write past the dynamic shared memory");
    return true;
}

// Clusters are of `cluster` blocks along x, which the grid is a multiple of.
inline bool run_grid(dim3 grid, dim3 block, unsigned cluster, size_t dynamic_bytes, std::function<void()> kernel) {
    gridDim = grid, blockDim = block, body = std::move(kernel);
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; x += cluster)
                if (!run_cluster({x, y, z}, cluster, dynamic_bytes)) return false;
    return true;
}

}  // namespace emulator
