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

inline void copy_box(void *shared, const CUtensorMap *map, int column, int row, uint64_t *barrier) {
    unsigned to = shared_address(shared), width = map->box[0] * 2;
    require(to % 128 == 0, "a tile copy to a misaligned place");
    memset(shared, emulator::POISON, map->box[1] * width);
    emulator::tile_copies.push_back({barrier, [=, map = *map] {
        for (unsigned r = 0; r < map.box[1]; ++r)
            for (unsigned byte = 0; byte < width; ++byte) {
                uint64_t x = column + byte / 2, y = row + static_cast<uint64_t>(r);
                bool inside = x < map.sizes[0] && y < map.sizes[1];
                *at_shared(swizzle_128(to + r * width + byte)) =
                    inside ? map.base[y * map.row_bytes + column * 2 + byte] : 0;
            }
        phases(barrier).bytes -= map.box[1] * width;
        phases(barrier).advance();
    }});
}

inline void prefetch_map(const CUtensorMap *) {}
inline void fence_proxy_async() {}

inline void named_arrive(int barrier, int count) {
    auto &it = emulator::named_barriers[barrier];
    if (++it.arrived == static_cast<unsigned>(count)) it.arrived = 0, ++it.generation;
}
inline void named_sync(int barrier, int count) {
    unsigned generation = emulator::named_barriers[barrier].generation;
    named_arrive(barrier, count);
    emulator::wait_until("named_sync", [=] { return emulator::named_barriers[barrier].generation != generation; });
}

template <int registers> void give_registers() { static_assert(registers % 8 == 0 && registers >= 24); }
template <int registers> void take_registers() { static_assert(registers % 8 == 0 && registers <= 256); }

}  // namespace mii::ptx
