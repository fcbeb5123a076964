// Rotary positions for Q and K, and the write of K and V into their slots of the paged cache.
//
//   qkv [tokens, H + 2 K, D] (tokens `stride` apart): Q is rotated in place, K rotated into the cache only
//   k_cache, v_cache [blocks, K, block_size, D]; slot = block * block_size + offset
//   cos_sin [positions, rotary_dim] float: the cosines of rotary_dim / 2 angles, then the sines
//
// One or two blocks of threads per token, so that where tokens are few a thread has one thing to do. It turns WIDTH
// pairs at a time: two vectors, half of rotary_dim apart (NeoX), or side by side (interleaved). V is stored
// finite: attention counts unseen values 0 times, and 0 * inf is NaN.
#include "dtypes.cuh"
#include "launch.cuh"
#include "ptx.cuh"

namespace mii {

constexpr int ROPE_THREADS = 256;
constexpr int64_t FEW_TOKENS = 256;  // that get two blocks each

template <typename T>
struct RopeArgs {
    T *qkv;
    T *k_cache;
    T *v_cache;
    const float *cos_sin;  // null: nothing is rotated
    const int *positions;  // [tokens]
    const int *slots;      // [tokens]
    int64_t stride;
    int heads;
    int kv_heads;
    int head_dim;
    int half;  // rotary_dim / 2; 0 where nothing is rotated
    int block_size;
};

// `out` may be `in`.
template <bool INTERLEAVED, int WIDTH, typename T>
__device__ inline void turn(T *out, const T *in, const float *cos, const float *sin, int half, int pair) {
    int first = INTERLEAVED ? 2 * pair : pair, second = INTERLEAVED ? 2 * pair + WIDTH : pair + half;
    Vector<T, WIDTH> a = load<WIDTH>(in + first), b = load<WIDTH>(in + second);
    float x[2 * WIDTH];
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) x[i] = to_float(a.at[i]), x[WIDTH + i] = to_float(b.at[i]);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
        float &real = x[INTERLEAVED ? 2 * i : i], &imaginary = x[INTERLEAVED ? 2 * i + 1 : WIDTH + i];
        float c = cos[pair + i], s = sin[pair + i];
        float turned = real * c - imaginary * s;
        imaginary = imaginary * c + real * s;
        real = turned;
    }
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) a.at[i] = from_float<T>(x[i]), b.at[i] = from_float<T>(x[WIDTH + i]);
    store<WIDTH>(out + first, a);
    store<WIDTH>(out + second, b);
}

template <typename T>
__device__ inline T finite(T x) {
    constexpr float largest = std::is_same_v<T, float16>    ? 65504.0f
                              : std::is_same_v<T, bfloat16> ? 3.38953139e38f
                                                            : 3.40282347e38f;
    float value = to_float(x);
    if (value != value) return from_float<T>(0.0f);
    return from_float<T>(fminf(fmaxf(value, -largest), largest));
}

template <typename T, int WIDTH, bool INTERLEAVED>
__global__ void __launch_bounds__(ROPE_THREADS) rope_and_store_kernel(RopeArgs<T> args) {
    ptx::begin_overlapped();
    int token = blockIdx.x, dim = args.head_dim;
    T *query = args.qkv + token * args.stride;
    T *key = query + args.heads * dim;
    const T *value = key + args.kv_heads * dim;
    int slot = args.slots[token];
    int64_t block = slot / args.block_size, offset = slot % args.block_size;
    // Of KV head h: + h * block_size * dim.
    int64_t place = (block * args.kv_heads * args.block_size + offset) * dim;
    T *k_out = args.k_cache + place, *v_out = args.v_cache + place;
    int head_stride = args.block_size * dim;

    int turns = args.half / WIDTH;             // vectors of pairs in a head
    int kept = (dim - 2 * args.half) / WIDTH;  // vectors of a key that are not turned
    int vectors = dim / WIDTH;
    int turned_end = (args.heads + args.kv_heads) * turns, kept_end = turned_end + args.kv_heads * kept;
    int end = kept_end + args.kv_heads * vectors;
    for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < end; i += gridDim.y * blockDim.x) {
        if (i < turned_end) {
            const float *cos = args.cos_sin + static_cast<int64_t>(args.positions[token]) * 2 * args.half;
            int head = i / turns, pair = i % turns * WIDTH, kv_head = head - args.heads;
            T *in = query + head * dim;
            T *out = kv_head < 0 ? in : k_out + kv_head * head_stride;
            turn<INTERLEAVED, WIDTH>(out, in, cos, cos + args.half, args.half, pair);
        } else if (i < kept_end) {
            int head = (i - turned_end) / kept, column = 2 * args.half + (i - turned_end) % kept * WIDTH;
            store<WIDTH>(k_out + head * head_stride + column, load<WIDTH>(key + head * dim + column));
        } else {
            int head = (i - kept_end) / vectors, column = (i - kept_end) % vectors * WIDTH;
            Vector<T, WIDTH> x = load<WIDTH>(value + head * dim + column);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) x.at[j] = finite(x.at[j]);
            store<WIDTH>(v_out + head * head_stride + column, x);
        }
    }
}

template <typename T, int WIDTH>
static cudaError_t launch_rope(const RopeArgs<T> &args, int64_t tokens, bool interleaved, cudaStream_t stream) {
    dim3 grid(static_cast<unsigned>(tokens), tokens <= FEW_TOKENS ? 2 : 1);
    LaunchShape shape = overlapped({grid, ROPE_THREADS, stream});
    return interleaved ? launch<rope_and_store_kernel<T, WIDTH, true>>(shape, args)
                       : launch<rope_and_store_kernel<T, WIDTH, false>>(shape, args);
}

}  // namespace mii

cudaError_t mii_rope_and_store_kv(void *qkv, void *k_cache, void *v_cache, const float *cos_sin,
                                  const int *positions, const int *slots, int64_t tokens, int64_t stride,
                                  int heads, int kv_heads, int head_dim, int rotary_dim, int block_size,
                                  int interleaved, mii_dtype dtype, cudaStream_t stream) {
    return mii::with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        constexpr int width = mii::FULL_WIDTH<T>;
        int half = cos_sin ? rotary_dim / 2 : 0;
        mii::RopeArgs<T> args{static_cast<T *>(qkv), static_cast<T *>(k_cache), static_cast<T *>(v_cache),
                              cos_sin, positions, slots, stride, heads, kv_heads, head_dim, half, block_size};
        bool wide = mii::fits_full_width<T>(head_dim, qkv, k_cache, v_cache) && stride % width == 0 &&
                    half % width == 0;
        return wide ? mii::launch_rope<T, width>(args, tokens, interleaved, stream)
                    : mii::launch_rope<T, 1>(args, tokens, interleaved, stream);
    });
}
