// The activations of feed-forward layers, of one number.
#pragma once

#include <math.h>

#include "mii.h"

namespace mii {

__device__ inline float activation(float x, mii_activation kind) {
    switch (kind) {
        case MII_SILU: return __fdividef(x, 1.0f + __expf(-x));
        case MII_GELU: return 0.5f * x * erfcf(x * -0.70710678f);  // 1 + erf cancels where x is far below 0
        case MII_GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
        case MII_RELU: return x < 0.0f ? 0.0f : x;  // NaN stays NaN
    }
    return x;
}

}  // namespace mii
