// Host: what the tile copies of sm_90a have to know of a cache, and memory of what was worked out before.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include <mutex>

namespace mii {

using EncodeTensorMap = decltype(&cuTensorMapEncodeTiled);

// The driver's function, so that the library need not be linked with the driver. Null where that has none.
inline EncodeTensorMap find_encode_tensor_map() {
    constexpr unsigned SINCE = 12000;  // CUDA 12.0
    void *function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, SINCE, cudaEnableDefault, &found);
    bool there = error == cudaSuccess && found == cudaDriverEntryPointSuccess;
    return there ? reinterpret_cast<EncodeTensorMap>(function) : nullptr;
}

// Boxes of 64 rows and 64 columns, swizzled, of 16-bit rows [.., columns]; columns past the end are zeros. The number
// of rows is not known here, so the map ends where coordinates do: what must not be read must not be asked for.
inline cudaError_t encode_cache_map(CUtensorMap *map, const void *cache, int columns) {
    static const EncodeTensorMap encode = find_encode_tensor_map();
    if (!encode) return cudaErrorNotSupported;
    cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), cuuint64_t{1} << 31};
    cuuint64_t row_bytes[] = {static_cast<cuuint64_t>(columns) * 2};
    cuuint32_t box[] = {64, 64}, steps[] = {1, 1};
    CUresult result = encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, const_cast<void *>(cache), sizes, row_bytes, box,
                             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// The same, from a table of the caches that were met last: each layer has two, in every step the same ones.
inline cudaError_t cache_map(CUtensorMap *map, const void *cache, int columns) {
    struct Entry {
        const void *cache;
        int columns;
        CUtensorMap map;
    };
    constexpr int ENTRIES = 512;
    static Entry table[ENTRIES];
    static std::mutex mutex;
    uint64_t hash = reinterpret_cast<uintptr_t>(cache) * 0x9e3779b97f4a7c15u;
    Entry &entry = table[hash >> 55];
    static_assert(ENTRIES == 1 << (64 - 55), "one entry for each hash");

    std::lock_guard<std::mutex> lock(mutex);
    if (entry.cache != cache || entry.columns != columns) {
        entry.cache = nullptr;
        cudaError_t error = encode_cache_map(&entry.map, cache, columns);
        if (error != cudaSuccess) return error;
        entry.cache = cache, entry.columns = columns;
    }
    *map = entry.map;
    return cudaSuccess;
}

}  // namespace mii
