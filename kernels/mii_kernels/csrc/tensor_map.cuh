// Host: what the tile copies of sm_90a have to know of a matrix, and memory of what was worked out before.
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

// A matrix of 16-bit elements, row after row, in boxes of 64 columns and `box_rows` rows, swizzled. What boxes have
// beyond its end becomes zeros. Of what type the elements are matters to those who have the copy engine add.
struct BoxedMatrix {
    const void *data;  // [rows, columns]
    uint64_t rows;
    int columns, box_rows;
    CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT16;

    bool operator==(const BoxedMatrix &other) const {
        return data == other.data && rows == other.rows && columns == other.columns && box_rows == other.box_rows &&
               type == other.type;
    }
    uint64_t hash() const {
        uint64_t words[] = {reinterpret_cast<uintptr_t>(data), rows, static_cast<uint64_t>(columns),
                            static_cast<uint64_t>(box_rows), static_cast<uint64_t>(type)};
        uint64_t hash = 0;
        for (uint64_t word : words) hash = (hash ^ word) * 0x9e3779b97f4a7c15u, hash ^= hash >> 32;
        return hash;
    }
};

inline cudaError_t encode_map(CUtensorMap *map, const BoxedMatrix &matrix) {
    static const EncodeTensorMap encode = find_encode_tensor_map();
    if (!encode) return cudaErrorNotSupported;
    cuuint64_t sizes[] = {static_cast<cuuint64_t>(matrix.columns), matrix.rows};
    cuuint64_t row_bytes[] = {static_cast<cuuint64_t>(matrix.columns) * 2};
    cuuint32_t box[] = {64, static_cast<cuuint32_t>(matrix.box_rows)}, steps[] = {1, 1};
    CUresult result = encode(map, matrix.type, 2, const_cast<void *>(matrix.data), sizes, row_bytes,
                             box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// The same, from a table of the matrices that were met last: a step has the same caches and weights as the one before.
inline cudaError_t matrix_map(CUtensorMap *map, const BoxedMatrix &matrix) {
    struct Entry {
        BoxedMatrix matrix;
        CUtensorMap map;
    };
    constexpr int ENTRIES = 2048;
    static Entry table[ENTRIES];
    static std::mutex mutex;
    Entry &entry = table[matrix.hash() % ENTRIES];

    std::lock_guard<std::mutex> lock(mutex);
    if (!(entry.matrix == matrix)) {
        entry.matrix = {};
        cudaError_t error = encode_map(&entry.map, matrix);
        if (error != cudaSuccess) return error;
        entry.matrix = matrix;
    }
    *map = entry.map;
    return cudaSuccess;
}

// Of a cache, in boxes of 64 rows. The number of rows is not known here, so the map ends where coordinates do: what
// must not be read must not be asked for.
inline cudaError_t cache_map(CUtensorMap *map, const void *cache, int columns) {
    return matrix_map(map, {cache, uint64_t{1} << 31, columns, 64});
}

}  // namespace mii
