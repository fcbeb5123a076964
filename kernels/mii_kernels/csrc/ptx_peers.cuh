// PTX of kernels on several devices that write into each other's memory: accesses at the scope of the system. sm_80
// and newer. See the PTX ISA, "Memory Consistency Model".
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

// Two words in one access. Others may see them one after the other, but each of them whole.
struct alignas(16) Words {
    uint64_t at[2];
};

#ifdef MII_EMULATED
#include "ptx_peers_emulated.h"
#else

namespace mii::ptx {

__device__ inline void store_relaxed(Words *to, Words x) {
    asm volatile("st.relaxed.sys.global.v2.b64 [%0], {%1, %2};\n" ::"l"(to), "l"(x.at[0]), "l"(x.at[1]) : "memory");
}

__device__ inline Words load_relaxed(const Words *from) {
    Words x;
    asm volatile("ld.relaxed.sys.global.v2.b64 {%0, %1}, [%2];\n"
                 : "=l"(x.at[0]), "=l"(x.at[1])
                 : "l"(from)
                 : "memory");
    return x;
}

__device__ inline int load_relaxed(const int *from) {
    int x;
    asm volatile("ld.relaxed.sys.global.b32 %0, [%1];\n" : "=r"(x) : "l"(from) : "memory");
    return x;
}

// What this thread, and those that it has met at a barrier, have written before is seen by whoever acquires x.
__device__ inline void store_release(uint64_t *to, uint64_t x) {
    asm volatile("st.release.sys.global.b64 [%0], %1;\n" ::"l"(to), "l"(x) : "memory");
}

__device__ inline uint64_t load_acquire(const uint64_t *from) {
    uint64_t x;
    asm volatile("ld.acquire.sys.global.b64 %0, [%1];\n" : "=l"(x) : "l"(from) : "memory");
    return x;
}

// Between two looks at what another device is to write.
__device__ inline void pause() {}

}  // namespace mii::ptx

#endif
