// What the loader asks before anything runs: the device's architecture, and what an error means.
#include "mii.h"

cudaError_t mii_device_capability(int device, int *major, int *minor) {
    cudaError_t error = cudaDeviceGetAttribute(major, cudaDevAttrComputeCapabilityMajor, device);
    if (error != cudaSuccess) return error;
    return cudaDeviceGetAttribute(minor, cudaDevAttrComputeCapabilityMinor, device);
}

const char *mii_error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
