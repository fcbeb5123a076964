// PTX of compute capability 9.0: barriers in shared memory, tile copies (TMA), clusters of blocks, named barriers,
// registers of a warpgroup. Names follow the PTX ISA, sections "mbarrier", "cp.async.bulk.tensor", "mapa", "barrier",
// "barrier.cluster" and "setmaxnreg".
//
// Code that uses them stands between #ifdef MII_SM_90A: it is compiled for sm_90a and for the emulator only.
#pragma once

#include <cuda.h>
#include <stdint.h>

#include "ptx.cuh"

#if defined(MII_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MII_SM_90A
#endif

#ifdef MII_EMULATED
#include "ptx_hopper_emulated.h"
#else

namespace mii::ptx {

// A barrier of so many arrivals a phase; one thread, followed by mbarrier_fence and a barrier of the block.
__device__ inline void mbarrier_init(uint64_t *barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Shows initialised barriers to the copies.
__device__ inline void mbarrier_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;\n" ::: "memory");
}

__device__ inline void mbarrier_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and has the phase wait for so many bytes of copies too.
__device__ inline void mbarrier_arrive_expect(uint64_t *barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

// Waits until the phase of this parity is over. Phases are counted from 0; the one before it counts as over.
__device__ inline void mbarrier_wait(uint64_t *barrier, unsigned parity) {
    unsigned over;
    do {
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}\n"
            : "=r"(over)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
    } while (!over);
}

// Starts the copy of the map's box at (column, row), whose bytes the barrier will count. One thread.
__device__ inline void copy_box(void *shared, const CUtensorMap *map, int column, int row, uint64_t *barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];\n" ::"r"(shared_address(shared)),
                 "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
                 : "memory");
}

// The same into the same place of each block of the cluster that `ranks` has a bit of, for the same barrier there.
__device__ inline void copy_box(void *shared, const CUtensorMap *map, int column, int row, uint64_t *barrier,
                                unsigned ranks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%2, %3}], [%4], %5;\n" ::"r"(shared_address(shared)),
                 "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier)), "h"(static_cast<uint16_t>(ranks))
                 : "memory");
}

// Starts the copy of a box the other way; what the matrix does not have of it is dropped. One thread, which closes a
// group of such copies with store_commit and, with store_wait, waits until those of its groups have been read.
__device__ inline void store_box(const CUtensorMap *map, int column, int row, const void *shared) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];\n" ::"l"(map),
                 "r"(column), "r"(row), "r"(shared_address(shared))
                 : "memory");
}
// The same, but what is there is added to, rounded to the nearest; the map says of which type the elements are.
__device__ inline void add_box(const CUtensorMap *map, int column, int row, const void *shared) {
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group [%0, {%1, %2}], [%3];\n" ::"l"(map),
                 "r"(column), "r"(row), "r"(shared_address(shared))
                 : "memory");
}
__device__ inline void store_commit() { asm volatile("cp.async.bulk.commit_group;\n" ::: "memory"); }
__device__ inline void store_wait() { asm volatile("cp.async.bulk.wait_group.read 0;\n" ::: "memory"); }

// Which block of its cluster this is.
__device__ inline int cluster_rank() {
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
    return static_cast<int>(rank);
}

// A barrier of all threads of a cluster.
__device__ inline void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;\n" ::: "memory");
}

// Arrives at the barrier in the same place of the cluster's block with this rank.
__device__ inline void mbarrier_arrive_at(uint64_t *barrier, int rank) {
    asm volatile("{\n.reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(shared_address(barrier)), "r"(rank)
                 : "memory");
}

// Fetches the map itself, so that the first copy need not wait for it.
__device__ inline void prefetch_map(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];\n" ::"l"(map) : "memory");
}

// Shows what this thread has stored in shared memory to the tensor cores and the copies.
__device__ inline void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

// Barriers 1 to 15 of a block, each of `threads`; those that only arrive do not wait.
__device__ inline void named_sync(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ inline void named_arrive(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}

// Registers of each thread of this warpgroup, all of which ask for it: a multiple of 8.
template <int registers>
__device__ inline void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(registers));
}
template <int registers>
__device__ inline void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(registers));
}

}  // namespace mii::ptx

#endif
