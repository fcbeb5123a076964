// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
// (SC 2011): the same numbers as reference/philox.py draws.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

namespace mii {

// In [0, 1), a multiple of 2^-32: the first word of the block with the seed as key and the position as counter.
__device__ inline double uniform(int64_t seed, int64_t position) {
    uint64_t key_bits = static_cast<uint64_t>(seed), counter_bits = static_cast<uint64_t>(position);
    unsigned key[2] = {static_cast<unsigned>(key_bits), static_cast<unsigned>(key_bits >> 32)};
    unsigned x[4] = {static_cast<unsigned>(counter_bits), static_cast<unsigned>(counter_bits >> 32), 0, 0};
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        unsigned high0 = __umulhi(0xD2511F53u, x[0]), low0 = 0xD2511F53u * x[0];
        unsigned high1 = __umulhi(0xCD9E8D57u, x[2]), low1 = 0xCD9E8D57u * x[2];
        x[0] = high1 ^ x[1] ^ key[0], x[1] = low1;
        x[2] = high0 ^ x[3] ^ key[1], x[3] = low0;
        key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
    }
    return x[0] * 0x1p-32;
}

}  // namespace mii
