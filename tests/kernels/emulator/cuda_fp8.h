// 8-bit floats: conversions of float to e4m3.
#pragma once

#include "cuda_runtime.h"

using __nv_fp8_storage_t = unsigned char;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

// Rounded to nearest even; beyond the largest magnitude, 448, it is that.
inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t, __nv_fp8_interpretation_t) {
    if (x != x) return 0x7f;
    unsigned sign = std::signbit(x) ? 0x80 : 0;
    float magnitude = min(std::fabs(x), 448.0f);
    int exponent = max(std::ilogb(magnitude), -6);  // denormals, and 0, have that of the smallest normal number
    int steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 3 - exponent)));  // of 2^(exponent - 3)
    return static_cast<__nv_fp8_storage_t>(sign | (((exponent + 6) << 3) + steps));
}
