// The functions of csrc/ptx_peers.cuh. Threads of the host stand for devices, so these are real accesses of one memory.
#pragma once

#include <unistd.h>

#include "cuda_runtime.h"

namespace mii::ptx {

// A device that is late now and then: others may be a round ahead before it has read what they wrote in the last one.
inline void be_late() {
    static thread_local unsigned looks = 0;
    if (++looks % 61 == 0) usleep(400);
}

inline void store_relaxed(Words *to, Words x) {
    for (int i : {1, 0}) __atomic_store_n(&to->at[i], x.at[i], __ATOMIC_RELAXED);
}
inline Words load_relaxed(const Words *from) {
    be_late();
    return {{__atomic_load_n(&from->at[0], __ATOMIC_RELAXED), __atomic_load_n(&from->at[1], __ATOMIC_RELAXED)}};
}
inline int load_relaxed(const int *from) { return __atomic_load_n(from, __ATOMIC_RELAXED); }
inline void store_release(uint64_t *to, uint64_t x) { __atomic_store_n(to, x, __ATOMIC_RELEASE); }
inline uint64_t load_acquire(const uint64_t *from) {
    be_late();
    return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}
inline void pause() { emulator::pause(); }

}  // namespace mii::ptx
