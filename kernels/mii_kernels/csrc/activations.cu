// Activations of the feed-forward layers, elementwise or gated.
//
//   activate:         out [rows, n] = f(x [rows, n])
//   activate_and_mul: out [rows, n] = round(f(x[:, :n])) * x[:, n:], x [rows, 2 n]
//
// A thread makes one vector of the result; x is read and out written once.
#include "activation.cuh"
#include "dtypes.cuh"
#include "launch.cuh"
#include "ptx.cuh"

namespace mii {

constexpr int ACTIVATION_THREADS = 256;

// Grid: (rows, vectors of a row / threads).
template <typename T, int WIDTH, bool GATED>
__global__ void __launch_bounds__(ACTIVATION_THREADS)
    activation_kernel(T *out, const T *x, int64_t n, mii_activation kind) {
    ptx::begin_overlapped();
    int64_t row = blockIdx.x, column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * WIDTH;
    if (column >= n) return;
    const T *from = x + row * (GATED ? 2 * n : n) + column;
    Vector<T, WIDTH> a = load<WIDTH>(from), up;
    if (GATED) up = load<WIDTH>(from + n);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
        a.at[i] = from_float<T>(activation(to_float(a.at[i]), kind));
        if (GATED) a.at[i] = from_float<T>(to_float(a.at[i]) * to_float(up.at[i]));
    }
    store<WIDTH>(out + row * n + column, a);
}

template <typename T, int WIDTH, bool GATED>
static cudaError_t launch_activation(T *out, const T *x, int64_t rows, int64_t n, mii_activation kind,
                                     cudaStream_t stream) {
    unsigned blocks = static_cast<unsigned>(ceil_div(n / WIDTH, static_cast<int64_t>(ACTIVATION_THREADS)));
    LaunchShape shape = overlapped({dim3(static_cast<unsigned>(rows), blocks), ACTIVATION_THREADS, stream});
    return launch<activation_kernel<T, WIDTH, GATED>>(shape, out, x, n, kind);
}

template <bool GATED>
static cudaError_t activate(void *out, const void *x, int64_t rows, int64_t n, mii_activation kind,
                            mii_dtype dtype, cudaStream_t stream) {
    return with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        T *to = static_cast<T *>(out);
        const T *from = static_cast<const T *>(x);
        return fits_full_width<T>(n, out, x)
                   ? launch_activation<T, FULL_WIDTH<T>, GATED>(to, from, rows, n, kind, stream)
                   : launch_activation<T, 1, GATED>(to, from, rows, n, kind, stream);
    });
}

}  // namespace mii

cudaError_t mii_activate(void *out, const void *x, int64_t rows, int64_t n, mii_activation kind, mii_dtype dtype,
                         cudaStream_t stream) {
    return mii::activate<false>(out, x, rows, n, kind, dtype, stream);
}

cudaError_t mii_activate_and_mul(void *out, const void *x, int64_t rows, int64_t n, mii_activation kind,
                                 mii_dtype dtype, cudaStream_t stream) {
    return mii::activate<true>(out, x, rows, n, kind, dtype, stream);
}
