// The tensor-core product of a warpgroup (wgmma, sm_90a): m64nNk16, 16-bit operands, float sums.
//
// D [64, N] is spread over four warps, 16 rows each; within a warp, d[n] is the 16 x 8 accumulator of mma.m16n8k16, and
// A in registers is its A operand. Products are asynchronous: between wgmma_fence and the wgmma_wait after the commit
// neither d nor a may be touched, and the tiles in shared memory must stay. `pin` keeps the compiler from moving
// accesses of registers over these two.
//
// Operands in shared memory lie in panels of 64 columns: rows of 128 bytes, whose eight 16-byte chunks are swizzled,
// chunk c of row r at c ^ r % 8, as the tile copies write them; panels are aligned to 1024 bytes. PTX ISA, sections
// "wgmma.mma_async" and "Matrix Descriptor Format".
#pragma once

#include "ptx_hopper.cuh"

namespace mii::ptx {

constexpr int PANEL_COLUMNS = 64;
constexpr int PANEL_PITCH = 128;  // bytes of a panel's row

// Of a tile at this shared address. Its 8 rows are 1024 bytes apart; its panels, where a product needs more than one
// of them (only if transposed), `panel_bytes`.
__device__ inline uint64_t matrix_descriptor(unsigned address, int panel_bytes = 16) {
    constexpr uint64_t SWIZZLE_128 = 1;
    return (address & 0x3ffff) >> 4 | static_cast<uint64_t>(panel_bytes >> 4) << 16 |
           static_cast<uint64_t>(8 * PANEL_PITCH >> 4) << 32 | SWIZZLE_128 << 62;
}

// The descriptor of the tile that begins so many bytes behind.
__device__ inline uint64_t behind(uint64_t descriptor, int bytes) { return descriptor + (bytes >> 4); }

}  // namespace mii::ptx

#ifdef MII_EMULATED
#include "ptx_wgmma_emulated.h"
#else

namespace mii::ptx {

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }

// Waits until at most `pending` of this warp's groups are under way.
template <int pending>
__device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(pending) : "memory");
}

template <int N>
__device__ inline void pin(float (&d)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; ++n)
        asm volatile("" : "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])::"memory");
}
template <int N>
__device__ inline void pin(unsigned (&a)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; ++n)
        asm volatile("" : "+r"(a[n][0]), "+r"(a[n][1]), "+r"(a[n][2]), "+r"(a[n][3])::"memory");
}

#define MII_ROW(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define MII_ROWS_8 MII_ROW(0)
#define MII_ROWS_16 MII_ROWS_8, MII_ROW(1)
#define MII_ROWS_32 MII_ROWS_16, MII_ROW(2), MII_ROW(3)
#define MII_ROWS_64 MII_ROWS_32, MII_ROW(4), MII_ROW(5), MII_ROW(6), MII_ROW(7)
#define MII_ROWS_80 MII_ROWS_64, MII_ROW(8), MII_ROW(9)
#define MII_ROWS_96 MII_ROWS_80, MII_ROW(10), MII_ROW(11)
#define MII_ROWS_128 MII_ROWS_96, MII_ROW(12), MII_ROW(13), MII_ROW(14), MII_ROW(15)
#define MII_ROWS_256                                                                            \
    MII_ROWS_128, MII_ROW(16), MII_ROW(17), MII_ROW(18), MII_ROW(19), MII_ROW(20), MII_ROW(21), \
        MII_ROW(22), MII_ROW(23), MII_ROW(24), MII_ROW(25), MII_ROW(26), MII_ROW(27), MII_ROW(28), \
        MII_ROW(29), MII_ROW(30), MII_ROW(31)
#define MII_REGISTERS_8 "{%0, %1, %2, %3}"
#define MII_REGISTERS_16 "{%0, %1, %2, %3, %4, %5, %6, %7}"
#define MII_REGISTERS_32 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}"
#define MII_REGISTERS_64 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define MII_REGISTERS_80 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39}"
#define MII_REGISTERS_96 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}"
#define MII_REGISTERS_128 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define MII_REGISTERS_256 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"

#define MII_WGMMA(N, TYPE) "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " " MII_REGISTERS_##N ", "

// d = a b^T, or d += where `accumulate`: a [64, 16] and b [8 ROWS, 16] in shared memory, k contiguous in both.
template <typename T, int ROWS>
__device__ inline void wgmma(float (&d)[ROWS][4], uint64_t a, uint64_t b, bool accumulate) {
#define MII_WGMMA_SHARED(N, TYPE, A, B, ACCUMULATE)                          \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ACCUMULATE ", 0;\n"     \
                 MII_WGMMA(N, TYPE) A ", " B ", p, 1, 1, 0, 0;\n}\n"         \
                 : MII_ROWS_##N                                              \
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)))
#define MII_WGMMA_SHARED_TYPES(N, A, B, ACCUMULATE)                                           \
    if constexpr (std::is_same_v<T, bfloat16>) MII_WGMMA_SHARED(N, "bf16", A, B, ACCUMULATE); \
    else MII_WGMMA_SHARED(N, "f16", A, B, ACCUMULATE)
    static_assert(ROWS == 1 || ROWS == 2 || ROWS == 4 || ROWS == 8 || ROWS == 16 || ROWS == 32,
                  "the widths that kernels have");
    if constexpr (ROWS == 1) {
        MII_WGMMA_SHARED_TYPES(8, "%4", "%5", "%6");
    } else if constexpr (ROWS == 2) {
        MII_WGMMA_SHARED_TYPES(16, "%8", "%9", "%10");
    } else if constexpr (ROWS == 4) {
        MII_WGMMA_SHARED_TYPES(32, "%16", "%17", "%18");
    } else if constexpr (ROWS == 8) {
        MII_WGMMA_SHARED_TYPES(64, "%32", "%33", "%34");
    } else if constexpr (ROWS == 16) {
        MII_WGMMA_SHARED_TYPES(128, "%64", "%65", "%66");
    } else {
        MII_WGMMA_SHARED_TYPES(256, "%128", "%129", "%130");
    }
#undef MII_WGMMA_SHARED_TYPES
#undef MII_WGMMA_SHARED
}

// d += a b: a [64, 16] in registers, b [16, N] in shared memory, n contiguous.
template <typename T, int ROWS>
__device__ inline void wgmma(float (&d)[ROWS][4], const unsigned (&a)[4], uint64_t b) {
#define MII_WGMMA_REGISTERS(N, TYPE, A, B)                                                             \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n" MII_WGMMA(N, TYPE) A ", " B ", p, 1, 1, 1;\n}\n" \
                 : MII_ROWS_##N                                                                        \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define MII_WGMMA_TYPES(N, A, B)                                                      \
    if constexpr (std::is_same_v<T, bfloat16>) MII_WGMMA_REGISTERS(N, "bf16", A, B); \
    else MII_WGMMA_REGISTERS(N, "f16", A, B)
    static_assert(ROWS == 8 || ROWS == 10 || ROWS == 12 || ROWS == 16, "the widths that attention has");
    if constexpr (ROWS == 8) {
        MII_WGMMA_TYPES(64, "{%32, %33, %34, %35}", "%36");
    } else if constexpr (ROWS == 10) {
        MII_WGMMA_TYPES(80, "{%40, %41, %42, %43}", "%44");
    } else if constexpr (ROWS == 12) {
        MII_WGMMA_TYPES(96, "{%48, %49, %50, %51}", "%52");
    } else {
        MII_WGMMA_TYPES(128, "{%64, %65, %66, %67}", "%68");
    }
#undef MII_WGMMA_TYPES
#undef MII_WGMMA_REGISTERS
}

}  // namespace mii::ptx

#endif
