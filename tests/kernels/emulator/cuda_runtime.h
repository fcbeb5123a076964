// The part of CUDA that the kernels use, on host memory. Found before the real header when MII_EMULATED is defined.
#pragma once

#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>

#include "grid.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local
#define __constant__ static
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

using std::max;
using std::min;

struct alignas(8) int2 { int x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// Host API.
using cudaStream_t = void *;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9, cudaErrorPeerAccessUnsupported = 217, cudaErrorLaunchFailure = 719, cudaErrorNotSupported = 801 };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor, cudaDevAttrMultiProcessorCount };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization, cudaLaunchAttributeClusterDimension };
struct cudaLaunchAttribute { cudaLaunchAttributeID id; union { int programmaticStreamSerializationAllowed; struct { unsigned x, y, z; } clusterDim; } val; };
struct cudaLaunchConfig_t { dim3 gridDim, blockDim; size_t dynamicSmemBytes; cudaStream_t stream; cudaLaunchAttribute *attrs; unsigned numAttrs; };

inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : attribute == cudaDevAttrMultiProcessorCount ? 4 : 0;
    return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

// Devices are threads of one process here: a handle is a pointer.
struct cudaIpcMemHandle_t { void *memory; char unused[56]; };
constexpr unsigned cudaIpcMemLazyEnablePeerAccess = 1;

inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaMalloc(void **memory, size_t bytes) { return (*memory = malloc(bytes)) ? cudaSuccess : cudaErrorInvalidValue; }
inline cudaError_t cudaMemset(void *memory, int value, size_t bytes) { return memset(memory, value, bytes), cudaSuccess; }
inline cudaError_t cudaFree(void *memory) { return free(memory), cudaSuccess; }
inline cudaError_t cudaDeviceCanAccessPeer(int *possible, int, int) { return *possible = 1, cudaSuccess; }
inline cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *memory) { return *handle = {memory, {}}, cudaSuccess; }
inline cudaError_t cudaIpcOpenMemHandle(void **memory, cudaIpcMemHandle_t handle, unsigned) { return *memory = handle.memory, cudaSuccess; }
inline cudaError_t cudaIpcCloseMemHandle(void *) { return cudaSuccess; }

inline const char *cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorLaunchFailure ? emulator::failure.c_str() : "invalid argument";
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
    return bytes <= 227 * 1024 ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename... Parameters, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...), Args &&...args) {
    dim3 grid = config->gridDim, block = config->blockDim;
    unsigned size = block.x * block.y * block.z;
    if (size == 0 || size > 1024 || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidConfiguration;
    unsigned cluster = 1;
    for (unsigned i = 0; i < config->numAttrs; ++i)
        if (config->attrs[i].id == cudaLaunchAttributeClusterDimension) cluster = config->attrs[i].val.clusterDim.x;
    if (cluster == 0 || cluster > 8 || grid.x % cluster || (cluster > 1 && size % 32)) return cudaErrorInvalidConfiguration;
    std::tuple<Parameters...> values(static_cast<Parameters>(args)...);
    if (emulator::run_grid(grid, block, cluster, config->dynamicSmemBytes, [&] { std::apply(kernel, values); }))
        return cudaSuccess;
    Dl_info info = {};
    dladdr(reinterpret_cast<void *>(kernel), &info);
    char *name = abi::__cxa_demangle(info.dli_sname ? info.dli_sname : "?", nullptr, nullptr, nullptr);
    emulator::failure += std::string("; kernel ") + (name ? name : "unknown");
    free(name);
    return cudaErrorLaunchFailure;
}

// Warps.
namespace emulator {

template <typename T>
struct Value { T given; int source; T got; };

template <typename T>
T shuffle(const char *name, unsigned mask, T value, int source) {
    Value<T> data{value, source, value};
    collective(name, mask, data, [](auto &lanes) {
        for (auto *lane : lanes)
            if (lane && lanes[lane->source & 31]) lane->got = lanes[lane->source & 31]->given;
    });
    return data.got;
}

inline unsigned vote(const char *name, unsigned mask, bool predicate) {
    Value<unsigned> data{predicate, 0, 0};
    collective(name, mask, data, [](auto &lanes) {
        unsigned bits = 0;
        for (int i = 0; i < 32; ++i) bits |= (lanes[i] ? lanes[i]->given : 0u) << i;
        for (auto *lane : lanes)
            if (lane) lane->got = bits;
    });
    return data.got;
}

inline int lane() { return current & 31; }

}  // namespace emulator

// `width` as in CUDA: sources stay within the lane's group; past its end a lane keeps its own value.
template <typename T>
T __shfl_sync(unsigned mask, T x, int source, int width = 32) {
    int first = emulator::lane() & ~(width - 1);
    return emulator::shuffle("__shfl_sync", mask, x, first + (source & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T x, int bits, int width = 32) {
    int lane = emulator::lane(), source = lane ^ bits;
    return emulator::shuffle("__shfl_xor_sync", mask, x, source < (lane & ~(width - 1)) + width ? source : lane);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T x, unsigned delta, int width = 32) {
    int lane = emulator::lane(), source = lane - static_cast<int>(delta);
    return emulator::shuffle("__shfl_up_sync", mask, x, source >= (lane & ~(width - 1)) ? source : lane);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T x, unsigned delta, int width = 32) {
    int lane = emulator::lane(), source = lane + static_cast<int>(delta);
    return emulator::shuffle("__shfl_down_sync", mask, x, source < (lane & ~(width - 1)) + width ? source : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) { return emulator::vote("__ballot_sync", mask, predicate); }
inline int __any_sync(unsigned mask, int predicate) { return emulator::vote("__any_sync", mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return emulator::vote("__all_sync", mask, predicate) == mask; }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::vote("__syncwarp", mask, false); }

// Atomics: fibers switch nowhere else than where they wait.
template <typename T, typename F>
T __atomic_update(T *at, F f) {
    T old = *at;
    *at = f(old);
    return old;
}
template <typename T> T atomicAdd(T *at, std::common_type_t<T> x) { return __atomic_update(at, [=](T old) { return old + x; }); }
template <typename T> T atomicMax(T *at, std::common_type_t<T> x) { return __atomic_update(at, [=](T old) { return max(old, x); }); }
template <typename T> T atomicMin(T *at, std::common_type_t<T> x) { return __atomic_update(at, [=](T old) { return min(old, x); }); }
template <typename T> T atomicOr(T *at, std::common_type_t<T> x) { return __atomic_update(at, [=](T old) { return old | x; }); }
template <typename T> T atomicExch(T *at, std::common_type_t<T> x) { return __atomic_update(at, [=](T) { return x; }); }
template <typename T> T atomicCAS(T *at, std::common_type_t<T> expected, std::common_type_t<T> x) {
    return __atomic_update(at, [=](T old) { return old == expected ? x : old; });
}
inline void __threadfence() {}

// Arithmetic.
template <typename To, typename From>
To __bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &x, sizeof to);
    return to;
}
inline unsigned __float_as_uint(float x) { return __bits<unsigned>(x); }
inline int __float_as_int(float x) { return __bits<int>(x); }
inline float __uint_as_float(unsigned x) { return __bits<float>(x); }
inline float __int_as_float(int x) { return __bits<float>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<uint64_t>(a) * b >> 32; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rd(float a, float b) {
    double sum = static_cast<double>(a) + b;
    float rounded = static_cast<float>(sum);
    return rounded > sum ? nextafterf(rounded, -INFINITY) : rounded;
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __saturatef(float x) { return x > 0 ? min(x, 1.0f) : 0.0f; }
template <typename T> T __ldg(const T *at) { return *at; }
template <typename T> T __ldcg(const T *at) { return *at; }
template <typename T> void __stwb(T *at, T x) { *at = x; }
