// Element types: conversions to and from float, vectors of one memory access, and the choice by mii_dtype.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <string.h>

#include <initializer_list>

#include "mii.h"

namespace mii {

using bfloat16 = __nv_bfloat16;
using float16 = __half;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(float16 x) { return __half2float(x); }

// Rounds to nearest even.
template <typename T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) { return x; }
template <>
__device__ inline bfloat16 from_float<bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <>
__device__ inline float16 from_float<float16>(float x) { return __float2half_rn(x); }

// x as it is after having been stored as T.
template <typename T>
__device__ inline float rounded(float x) { return to_float(from_float<T>(x)); }

constexpr int ACCESS_BYTES = 16;  // the widest memory access of a thread

template <typename T>
constexpr int FULL_WIDTH = ACCESS_BYTES / sizeof(T);

// WIDTH neighbouring elements, loaded and stored in one access.
template <typename T, int WIDTH>
struct alignas(sizeof(T) * WIDTH) Vector {
    T at[WIDTH];
};

template <int WIDTH, typename T>
__device__ inline Vector<T, WIDTH> load(const T *from) {
    return *reinterpret_cast<const Vector<T, WIDTH> *>(from);
}

template <int WIDTH, typename T>
__device__ inline void store(T *to, const Vector<T, WIDTH> &x) {
    *reinterpret_cast<Vector<T, WIDTH> *>(to) = x;
}

// To global memory only, and surely in one access: of a plain store that it can move between branches, nvcc makes
// one for each element or two. (Look for st.global.u16 in the output of nvcc -ptx.)
template <int WIDTH, typename T>
__device__ inline void store_global(T *to, const Vector<T, WIDTH> &x) {
    if constexpr (sizeof x == ACCESS_BYTES) {
        uint4 bits;
        memcpy(&bits, &x, sizeof bits);
        __stwb(reinterpret_cast<uint4 *>(to), bits);
    } else {
        store<WIDTH>(to, x);
    }
}

// Host: whether rows of n elements of T at these pointers (null: absent) can be accessed 16 bytes at a time.
template <typename T, typename... Pointers>
bool fits_full_width(int64_t n, Pointers... pointers) {
    auto addresses = (reinterpret_cast<uintptr_t>(pointers) | ... | static_cast<uintptr_t>(0));
    return n % FULL_WIDTH<T> == 0 && addresses % ACCESS_BYTES == 0;
}

template <typename T>
struct TypeTag {
    using type = T;
};

// Host: calls f(TypeTag<T>{}) with the type of `dtype`.
template <typename F>
cudaError_t with_type(mii_dtype dtype, F f) {
    switch (dtype) {
        case MII_FLOAT32: return f(TypeTag<float>{});
        case MII_BFLOAT16: return f(TypeTag<bfloat16>{});
        case MII_FLOAT16: return f(TypeTag<float16>{});
    }
    return cudaErrorInvalidValue;
}

template <typename T, int WIDTH>
struct Access {
    using type = T;
    static constexpr int width = WIDTH;  // elements at a time
};

// Host: calls f(Access<T, WIDTH>{}) for rows of n elements of `dtype`, `stride` apart, at all these pointers: with the
// full width where it serves every row, else with 1.
template <typename F>
cudaError_t with_access(mii_dtype dtype, std::initializer_list<const void *> pointers, int64_t n, int64_t stride, F f) {
    uintptr_t addresses = 0;
    for (const void *pointer : pointers) addresses |= reinterpret_cast<uintptr_t>(pointer);
    return with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        constexpr int width = FULL_WIDTH<T>;
        bool wide = n % width == 0 && stride % width == 0 && addresses % ACCESS_BYTES == 0;
        return wide ? f(Access<T, width>{}) : f(Access<T, 1>{});
    });
}

}  // namespace mii
