// How a kernel is started, with nvcc and in the tests' emulator alike: `launch<kernel>(shape, arguments...)`.
#pragma once

#include <cuda_runtime.h>

namespace mii {

constexpr size_t DEFAULT_SHARED_BYTES = 48 * 1024;  // of a block, without asking for more

struct LaunchShape {
    dim3 grid;
    dim3 block;
    cudaStream_t stream;
    size_t shared_bytes = 0;  // dynamic
    bool overlaps = false;    // begins before the kernel before it has ended, and waits for that one by itself
    unsigned cluster = 1;     // blocks along x that are on neighbouring multiprocessors
};

inline LaunchShape overlapped(LaunchShape shape) {
    shape.overlaps = true;
    return shape;
}

// Whether the current device has launches that overlap; of all devices of a process one is asked.
inline bool launches_may_overlap() {
    static const bool may = [] {
        int device, major;
        return cudaGetDevice(&device) == cudaSuccess &&
               cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
    }();
    return may;
}

// Arguments convert to the kernel's parameter types. An empty grid is no error: nothing is launched.
template <auto *kernel, typename... Args>
cudaError_t launch(const LaunchShape &shape, Args... args) {
    if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return cudaSuccess;
    if (shape.shared_bytes > DEFAULT_SHARED_BYTES) {
        cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 static_cast<int>(shape.shared_bytes));
        if (error != cudaSuccess) return error;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = shape.stream;
    cudaLaunchAttribute attributes[2] = {};
    config.attrs = attributes;
    if (shape.overlaps && launches_may_overlap()) {
        cudaLaunchAttribute &overlap = attributes[config.numAttrs++];
        overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        overlap.val.programmaticStreamSerializationAllowed = 1;
    }
    if (shape.cluster > 1) {
        cudaLaunchAttribute &cluster = attributes[config.numAttrs++];
        cluster.id = cudaLaunchAttributeClusterDimension;
        cluster.val.clusterDim.x = shape.cluster, cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    }
    return cudaLaunchKernelEx(&config, kernel, args...);
}

// The block's dynamic shared memory, aligned to 128 bytes.
__device__ inline unsigned char *dynamic_shared() {
#ifdef MII_EMULATED
    return emulator::dynamic_shared();
#else
    extern __shared__ __align__(128) unsigned char mii_dynamic_shared[];
    return mii_dynamic_shared;
#endif
}

template <typename Integer>
constexpr __host__ __device__ Integer ceil_div(Integer a, Integer b) {
    return (a + b - 1) / b;
}

}  // namespace mii
