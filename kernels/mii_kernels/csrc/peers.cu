// The buffers that peers.cuh lays out: made, shown to the other ranks' processes (CUDA IPC), and taken down.
#include "peers.cuh"

cudaError_t mii_peer_buffer_bytes(int64_t *bytes, int ranks) {
    if (ranks < 1 || ranks > mii::MAX_RANKS) return cudaErrorInvalidValue;
    *bytes = mii::buffer_bytes(ranks);
    return cudaSuccess;
}

cudaError_t mii_peer_allocate(void **buffer, void *handle, int64_t bytes, int device) {
    cudaError_t error = cudaSetDevice(device);
    if (error == cudaSuccess) error = cudaMalloc(buffer, static_cast<size_t>(bytes));
    if (error != cudaSuccess) return error;
    error = cudaMemset(*buffer, 0, static_cast<size_t>(bytes));
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    if (error == cudaSuccess) error = cudaIpcGetMemHandle(static_cast<cudaIpcMemHandle_t *>(handle), *buffer);
    if (error != cudaSuccess) cudaFree(*buffer);
    return error;
}

cudaError_t mii_peer_open(void **buffer, const void *handle, int device, int peer) {
    cudaError_t error = cudaSetDevice(device);
    int possible = 0;
    if (error == cudaSuccess) error = cudaDeviceCanAccessPeer(&possible, device, peer);
    if (error != cudaSuccess) return error;
    if (!possible) return cudaErrorPeerAccessUnsupported;
    return cudaIpcOpenMemHandle(buffer, *static_cast<const cudaIpcMemHandle_t *>(handle),
                                cudaIpcMemLazyEnablePeerAccess);
}

cudaError_t mii_peer_close(void *buffer) { return cudaIpcCloseMemHandle(buffer); }

cudaError_t mii_peer_free(void *buffer) { return cudaFree(buffer); }
