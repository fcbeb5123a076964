// A place in a ring of stages in shared memory (sm_90a).
#pragma once

namespace mii {

// The parity is that of the phase of the stage's barriers.
template <int SLOTS>
struct RingPosition {
    int index = 0;
    unsigned parity = 0;
    __device__ void advance() {
        if (++index == SLOTS) index = 0, parity ^= 1;
    }
};

}  // namespace mii
