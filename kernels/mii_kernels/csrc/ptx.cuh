// PTX for all devices, sm_80 and newer: asynchronous copies, matrix loads, tensor-core products, launches that overlap,
// atomics. Names and operand layouts follow the PTX ISA, sections "cp.async", "ldmatrix", "mma.m16n8k16",
// "griddepcontrol", "prefetch" and "atom".
#pragma once

#include <type_traits>

#include "dtypes.cuh"

#ifdef MII_EMULATED
#include "ptx_emulated.h"
#else

namespace mii::ptx {

// 2^x to about 2 units in the last place; denormal results are 0.
__device__ inline float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

// Of a launch that overlaps the one before it (see launch.cuh): until this returns nothing is to be read that earlier
// kernels write, and nothing is to be written. Of other launches it returns at once. Nothing overlaps before sm_90.
// Decodes beside prompts need not wait: the launch before them does not overlap, so all before that one has ended.
__device__ inline void wait_for_earlier_grids() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

// Lets the launch behind this one begin, if that is one that overlaps, once all blocks have said so.
__device__ inline void let_next_grid_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

// What a kernel that overlaps others begins with if all that it does depends on earlier ones. Only then may the next
// one begin: blocks of a third that came to wait would be in the way of the first's, and spread unevenly around them.
__device__ inline void begin_overlapped() {
    wait_for_earlier_grids();
    let_next_grid_begin();
}

// Adds to what other blocks add to, too, and returns what was there. Whoever comes later, and whom that one meets at a
// barrier then, sees what this thread, and those that it has met at a barrier, have written before.
__device__ inline int add_acq_rel(int *at, int x) {
    int before;
    asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], %2;\n" : "=r"(before) : "l"(at), "r"(x) : "memory");
    return before;
}

// Starts to bring the 32 bytes around `global` to L2. It changes nothing that anyone could see.
__device__ inline void prefetch_l2(const void *global) { asm volatile("prefetch.global.L2 [%0];\n" ::"l"(global)); }

__device__ inline unsigned shared_address(const void *shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Starts a copy of 16 bytes, aligned to 16, past L1. Where not `valid`, zeros are written and nothing is read. L2
// fetches the 128 bytes around them: memory delivers those in less time than the same bytes in sectors of 32.
__device__ inline void cp_async_16(void *shared, const void *global, bool valid = true) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

// Closes the group of the copies that this thread has started since the last one.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Waits until at most `pending` of this thread's groups are under way; __syncthreads makes others' visible.
template <int pending>
__device__ inline void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
}

// Four 8x8 matrices of 16-bit elements. Lane i gives the address of row i % 8 of matrix i / 8 (16 bytes, aligned
// to 16); out[m] holds columns 2 (lane % 4) and the next of row lane / 4 of matrix m.
__device__ inline void ldmatrix_x4(unsigned (&out)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, with each matrix transposed.
__device__ inline void ldmatrix_x4_trans(unsigned (&out)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d [16, 8] += a [16, 16] b [16, 8], a and b of T (bfloat16 or float16), d float.
template <typename T>
__device__ inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    static_assert(std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>, "16-bit tensor cores");
    if constexpr (std::is_same_v<T, bfloat16>) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
}

}  // namespace mii::ptx

#endif
