// The functions of csrc/ptx_hopper.cuh. The place of a copy is poisoned when it starts and filled when it is waited
// for: what is still read then, or is read too early, shows.
#pragma once

namespace mii::ptx {

// Dynamic shared memory does not begin at a multiple of 1024, so that who needs one has to see to it.
constexpr unsigned WINDOW = 0x480;

inline unsigned shared_address(const void *shared) {
    return static_cast<unsigned>(static_cast<const unsigned char *>(shared) - emulator::dynamic_shared()) + WINDOW;
}
inline unsigned char *at_shared(unsigned address) { return emulator::dynamic_shared() + (address - WINDOW); }

// Of an address in rows of 128 bytes: its 16-byte chunk is exchanged with another one of the row.
inline unsigned swizzle_128(unsigned address) { return address ^ (address >> 7 & 7) << 4; }

inline void require(bool condition, const char *what) {
    if (!condition && emulator::misuse.empty()) emulator::misuse = what;
}

struct PhaseBarrier {
    uint8_t arrivals, missing, parity, valid;
    int32_t bytes;
    void arrive() {
        require(valid == 1 && missing > 0, "an arrival too many at an mbarrier, or none there");
        --missing;
        advance();
    }
    void advance() {
        if (missing == 0 && bytes == 0) missing = arrivals, parity ^= 1;
    }
};
static_assert(sizeof(PhaseBarrier) == sizeof(uint64_t));

inline PhaseBarrier &phases(uint64_t *barrier) { return *reinterpret_cast<PhaseBarrier *>(barrier); }

inline void mbarrier_init(uint64_t *barrier, int arrivals) {
    auto count = static_cast<uint8_t>(arrivals);
    phases(barrier) = {count, count, 0, 1, 0};
}
inline void mbarrier_fence() {}
inline void mbarrier_arrive(uint64_t *barrier) { phases(barrier).arrive(); }
inline void mbarrier_arrive_expect(uint64_t *barrier, int bytes) {
    phases(barrier).bytes += bytes;
    phases(barrier).arrive();
}

inline void mbarrier_wait(uint64_t *barrier, unsigned parity) {
    emulator::wait_until("mbarrier_wait", [=] {
        std::vector<emulator::TileCopy> others;
        for (auto &copy : emulator::tile_copies)
            if (copy.barrier == barrier) copy.run();
            else others.push_back(copy);
        emulator::tile_copies.swap(others);
        require(phases(barrier).valid == 1, "a wait for no mbarrier");
        return phases(barrier).parity != parity;
    });
}

// Calls f(address of shared memory, address in global memory or null where there is none) for each byte of a box.
template <typename F>
void each_byte(unsigned shared, const CUtensorMap &map, int column, int row, F f) {
    unsigned width = map.box[0] * 2;
    for (unsigned r = 0; r < map.box[1]; ++r)
        for (unsigned byte = 0; byte < width; ++byte) {
            uint64_t x = column + byte / 2, y = row + static_cast<uint64_t>(r);
            bool inside = x < map.sizes[0] && y < map.sizes[1];
            f(swizzle_128(shared + r * width + byte), inside ? map.base + y * map.row_bytes + column * 2 + byte : nullptr);
        }
}

// Into the same place of each block of the cluster that `ranks` has a bit of, for the same barrier there.
inline void copy_box(void *shared, const CUtensorMap *map, int column, int row, uint64_t *barrier, unsigned ranks) {
    unsigned to = shared_address(shared), bytes = map->box[0] * 2 * map->box[1];
    require(to % 128 == 0, "a tile copy to a misaligned place");
    for (unsigned rank = 0; rank < emulator::blocks.size(); ++rank) {
        if (!(ranks >> rank & 1)) continue;
        unsigned char *base = emulator::blocks[rank].shared() - WINDOW;
        auto *theirs = reinterpret_cast<uint64_t *>(base + shared_address(barrier));
        memset(base + to, emulator::POISON, bytes);
        emulator::tile_copies.push_back({theirs, [=, map = *map] {
            each_byte(to, map, column, row, [&](unsigned at, const unsigned char *from) { base[at] = from ? *from : 0; });
            phases(theirs).bytes -= bytes;
            phases(theirs).advance();
        }});
    }
}
inline void copy_box(void *shared, const CUtensorMap *map, int column, int row, uint64_t *barrier) {
    copy_box(shared, map, column, row, barrier, 1u << emulator::self().rank);
}

inline int cluster_rank() { return static_cast<int>(emulator::self().rank); }
inline void cluster_sync() { emulator::wait(emulator::State::AT_CLUSTER_BARRIER); }
inline void mbarrier_arrive_at(uint64_t *barrier, int rank) {
    unsigned char *base = emulator::blocks[rank].shared() - WINDOW;
    mbarrier_arrive(reinterpret_cast<uint64_t *>(base + shared_address(barrier)));
}

template <typename T>
void add(void *sum, const void *summand) {
    T x, y;
    memcpy(&x, sum, sizeof x), memcpy(&y, summand, sizeof y);
    x = from_float<T>(to_float(x) + to_float(y));
    memcpy(sum, &x, sizeof x);
}

// A store reads its box when it is waited for: what is overwritten too early shows. put(to, from) is then called for
// each byte of the box that the matrix has; elements begin at even addresses.
template <typename Put>
void store_later(const CUtensorMap *map, int column, int row, const void *shared, Put put) {
    unsigned from = shared_address(shared);
    require(from % 128 == 0, "a tile store from a misaligned place");
    unsigned char *base = emulator::dynamic_shared() - WINDOW;
    emulator::self().stores.push_back([=, map = *map] {
        each_byte(from, map, column, row, [&](unsigned at, const unsigned char *to) {
            if (to) put(const_cast<unsigned char *>(to), base + at);
        });
    });
}
inline void store_box(const CUtensorMap *map, int column, int row, const void *shared) {
    store_later(map, column, row, shared, [](unsigned char *to, const unsigned char *from) { *to = *from; });
}
inline void add_box(const CUtensorMap *map, int column, int row, const void *shared) {
    store_later(map, column, row, shared, [type = map->type](unsigned char *to, const unsigned char *from) {
        if (reinterpret_cast<uintptr_t>(to) % 2) return;
        if (type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16) add<bfloat16>(to, from);
        else if (type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16) add<float16>(to, from);
        else require(false, "a sum of elements of no type that has any");
    });
}
inline void store_commit() {}
inline void store_wait() {
    for (auto &store : emulator::self().stores) store();
    emulator::self().stores.clear();
}

inline void prefetch_map(const CUtensorMap *) {}
inline void fence_proxy_async() {}

inline void named_arrive(int barrier, int count) {
    auto &it = emulator::block().named_barriers[barrier];
    if (++it.arrived == static_cast<unsigned>(count)) it.arrived = 0, ++it.generation;
}
inline void named_sync(int barrier, int count) {
    unsigned &generation = emulator::block().named_barriers[barrier].generation, before = generation;
    named_arrive(barrier, count);
    emulator::wait_until("named_sync", [&generation, before] { return generation != before; });
}

template <int registers> void give_registers() { static_assert(registers % 8 == 0 && registers >= 24); }
template <int registers> void take_registers() { static_assert(registers % 8 == 0 && registers <= 256); }

}  // namespace mii::ptx
