// Maps of two-dimensional tensors for tile copies, as the driver makes them; 16-bit elements, 128-byte swizzle.
#pragma once

#include <stdint.h>
#include <string.h>

#include "cuda_runtime.h"

using cuuint32_t = uint32_t;
using cuuint64_t = uint64_t;

enum CUtensorMapDataType {
    CU_TENSOR_MAP_DATA_TYPE_UINT16 = 1,
    CU_TENSOR_MAP_DATA_TYPE_FLOAT16 = 6,
    CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9,
};

struct alignas(64) CUtensorMap {
    const unsigned char *base;
    uint64_t sizes[2], row_bytes;  // elements
    unsigned box[2];
    CUtensorMapDataType type;
};

enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1 };
enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE = 0 };
enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_NONE = 0, CU_TENSOR_MAP_SWIZZLE_128B = 3 };
enum CUtensorMapL2promotion { CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3 };
enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0 };

// Refuses what the driver would, and what is not emulated.
inline CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                       const cuuint64_t *sizes, const cuuint64_t *strides, const cuuint32_t *box,
                                       const cuuint32_t *steps, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                       CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    bool aligned = reinterpret_cast<uintptr_t>(address) % 16 == 0 && strides[0] % 16 == 0;
    bool sized = sizes[0] && sizes[1] && sizes[0] <= 1ull << 32 && sizes[1] <= 1ull << 32 && strides[0] < 1ull << 40;
    bool boxed = box[0] * 2 <= 128 && box[0] * 2 % 16 == 0 && box[0] && box[1] && box[1] <= 256;
    if (rank != 2 || !aligned || !sized || !boxed || steps[0] != 1 || steps[1] != 1 ||
        swizzle != CU_TENSOR_MAP_SWIZZLE_128B)
        return CUDA_ERROR_INVALID_VALUE;
    *map = {static_cast<const unsigned char *>(address), {sizes[0], sizes[1]}, strides[0], {box[0], box[1]}, type};
    return CUDA_SUCCESS;
}

enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0, cudaDriverEntryPointSymbolNotFound = 1 };
constexpr unsigned long long cudaEnableDefault = 0;

inline cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult *found) {
    bool known = strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
    *function = known ? reinterpret_cast<void *>(&cuTensorMapEncodeTiled) : nullptr;
    *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
