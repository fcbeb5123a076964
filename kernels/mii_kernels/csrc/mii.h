/* The whole C ABI of the kernels.
 *
 * A launcher takes raw device pointers, sizes in elements, and the stream last. It allocates nothing, never
 * synchronises and returns the error of its own launch, so that all of it can be captured in a CUDA graph.
 * Outputs come first, then inputs, sizes, options, dtype and stream. Tensors are contiguous unless a stride is
 * among the arguments; `void *` is of `dtype`. Pointers may have any alignment that their elements have.
 */
#ifndef MII_H
#define MII_H

#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __cplusplus
#define MII_API extern "C" __attribute__((visibility("default")))
#else
#define MII_API
#endif

typedef enum { MII_FLOAT32 = 0, MII_BFLOAT16 = 1, MII_FLOAT16 = 2 } mii_dtype;
typedef enum { MII_SILU = 0, MII_GELU = 1, MII_GELU_TANH = 2, MII_RELU = 3 } mii_activation;

/* device.cu */
MII_API cudaError_t mii_device_capability(int device, int *major, int *minor);
MII_API const char *mii_error_string(int error);

/* norms.cu: out, summed [rows, n]; x, residual [rows, n], but without a residual (and summed: null) row r of x is
 * at (r / inner) * stride + (r % inner) * n. weight, bias [n]; those of LayerNorm may be null. At most 16384
 * elements a row, or 4096 where n or a pointer is no multiple of 16 bytes. */
MII_API cudaError_t mii_rms_norm(void *out, void *summed, const void *x, const void *residual, const void *weight,
                                 int64_t rows, int64_t n, int64_t inner, int64_t stride, float eps,
                                 mii_dtype dtype, cudaStream_t stream);
MII_API cudaError_t mii_layer_norm(void *out, void *summed, const void *x, const void *residual,
                                   const void *weight, const void *bias, int64_t rows, int64_t n, int64_t inner,
                                   int64_t stride, float eps, mii_dtype dtype, cudaStream_t stream);

/* peers.cu: the buffers through which at most MII_MAX_RANKS ranks, one device and process each, exchange what they
 * sum; peers.cuh says what is in them. A rank allocates its own and opens the others' by their handles, 64 bytes each;
 * these four are no launchers, and the ranks' devices have the same numbers in every process. */
#define MII_MAX_RANKS 8
#define MII_ONE_SHOT_BYTES (1 << 20) /* of a message, at most */
#define MII_TWO_SHOT_BYTES (32 << 20)
MII_API cudaError_t mii_peer_buffer_bytes(int64_t *bytes, int ranks);
MII_API cudaError_t mii_peer_allocate(void **buffer, void *handle, int64_t bytes, int device);
MII_API cudaError_t mii_peer_open(void **buffer, const void *handle, int device, int peer);
MII_API cudaError_t mii_peer_close(void *buffer);
MII_API cudaError_t mii_peer_free(void *buffer);

/* all_reduce.cu: out [count], which may be x; x [count] of every rank, aligned to 16 bytes. buffers [ranks]: host array
 * of device pointers, the own one at `rank`. abandoned: an int that the device can read, not 0 once a rank is gone;
 * nobody waits any more then. All ranks call the same on one stream each, with the same sizes. */
MII_API cudaError_t mii_all_reduce_one_shot(void *out, const void *x, void *const *buffers, const int *abandoned,
                                            int64_t count, int rank, int ranks, mii_dtype dtype,
                                            cudaStream_t stream);
MII_API cudaError_t mii_all_reduce_two_shot(void *out, const void *x, void *const *buffers, const int *abandoned,
                                            int64_t count, int rank, int ranks, mii_dtype dtype,
                                            cudaStream_t stream);

/* all_reduce_norm.cu: out, summed, x, residual [rows, n]; weight, bias [n], the latter for LayerNorm (rms 0) and there
 * perhaps null. At most MII_ONE_SHOT_BYTES; rows of at most 32 KiB, a multiple of 16 bytes; pointers aligned to 16. */
MII_API cudaError_t mii_all_reduce_norm(void *out, void *summed, const void *x, const void *residual,
                                        const void *weight, const void *bias, void *const *buffers,
                                        const int *abandoned, int64_t rows, int64_t n, int rank, int ranks, int rms,
                                        float eps, mii_dtype dtype, cudaStream_t stream);

/* rope.cu: qkv [tokens, heads + 2 kv_heads, head_dim], tokens `stride` apart; caches [blocks, kv_heads, block_size,
 * head_dim]; cos_sin [positions, rotary_dim] or null; positions, slots [tokens]. Q is rotated in place, K is
 * rotated into the cache and stays as it was in qkv. */
MII_API cudaError_t mii_rope_and_store_kv(void *qkv, void *k_cache, void *v_cache, const float *cos_sin,
                                          const int *positions, const int *slots, int64_t tokens, int64_t stride,
                                          int heads, int kv_heads, int head_dim, int rotary_dim, int block_size,
                                          int interleaved, mii_dtype dtype, cudaStream_t stream);

/* activations.cu: out [rows, n]; x [rows, n], or for the gated one [rows, 2 n], the gate first. */
MII_API cudaError_t mii_activate(void *out, const void *x, int64_t rows, int64_t n, mii_activation kind,
                                 mii_dtype dtype, cudaStream_t stream);
MII_API cudaError_t mii_activate_and_mul(void *out, const void *x, int64_t rows, int64_t n, mii_activation kind,
                                         mii_dtype dtype, cudaStream_t stream);

/* sampling.cu: out [rows]; logits [rows, vocab], rows `stride` apart; the others [rows], filters null where no row has
 * one. For mii_sample at most 500 000 tokens. */
MII_API cudaError_t mii_greedy(int64_t *out, const void *logits, int64_t rows, int vocab, int64_t stride,
                               mii_dtype dtype, cudaStream_t stream);
MII_API cudaError_t mii_sample(int64_t *out, const void *logits, const float *temperature, const int *top_k,
                               const float *top_p, const float *min_p, const int64_t *seeds,
                               const int64_t *positions, int64_t rows, int vocab, int64_t stride, mii_dtype dtype,
                               cudaStream_t stream);

/* log_probs.cu: chosen [rows], of token_ids [rows]; top_ids, top [rows, k], k at most 64; logits [rows, vocab], rows
 * `stride` apart, at most 500 000 tokens. */
MII_API cudaError_t mii_log_probs(float *chosen, int64_t *top_ids, float *top, const void *logits,
                                  const int64_t *token_ids, int64_t rows, int vocab, int64_t stride, int k,
                                  mii_dtype dtype, cudaStream_t stream);

/* logits.cu: out [rows, vocab]; logits [rows, vocab], rows `stride` apart. `biased` rows have `biases` token ids and
 * values each; `penalised` rows a slot of counts and in_prompt [slots, vocab], and three penalties, each. */
MII_API cudaError_t mii_add_bias(float *out, const void *logits, const int64_t *biased_rows,
                                 const int64_t *token_ids, const float *values, int64_t rows, int vocab,
                                 int64_t stride, int64_t biased, int64_t biases, mii_dtype dtype,
                                 cudaStream_t stream);
MII_API cudaError_t mii_apply_penalties(float *out, const void *logits, const int64_t *penalised_rows,
                                        const int64_t *slots, const int *counts, const uint8_t *in_prompt,
                                        const float *repetition, const float *presence, const float *frequency,
                                        int64_t rows, int vocab, int64_t stride, int64_t penalised,
                                        mii_dtype dtype, cudaStream_t stream);
MII_API cudaError_t mii_count_tokens(int *counts, const int64_t *slots, const int64_t *token_ids, int64_t n,
                                     int64_t vocab, cudaStream_t stream);

/* moe.cu: weights, experts, positions [tokens, per_token]; logits [tokens, num_experts], at most 512; x, out [tokens, n];
 * rows [tokens * per_token, n]; starts [num_experts + 1]. */
MII_API cudaError_t mii_moe_gate(float *weights, int64_t *experts, const void *logits, int64_t tokens,
                                 int num_experts, int per_token, int renormalise, mii_dtype dtype,
                                 cudaStream_t stream);
MII_API cudaError_t mii_moe_permute(void *rows, int *positions, int *starts, const void *x, const int64_t *experts,
                                    int64_t tokens, int64_t n, int per_token, int num_experts, mii_dtype dtype,
                                    cudaStream_t stream);
MII_API cudaError_t mii_moe_unpermute(void *out, const void *rows, const float *weights, const int *positions,
                                      int64_t tokens, int64_t n, int per_token, mii_dtype dtype,
                                      cudaStream_t stream);

/* Attention: query, out [tokens, heads, head_dim], tokens of query `query_stride` apart; caches [blocks, kv_heads, 64,
 * head_dim]; block_tables [sequences, table_stride]; context_lens [sequences]. head_dim is 64, 80, 96, 128 or 256, and
 * dtype one of 16 bits; caches and workspace are aligned to 16 bytes, out to 8, query to 4. A token sees itself and the
 * window - 1 tokens before it, or all before it where window is 0. scale > 0. */

#define MII_SPLIT_TILES 4096

/* attention_decode.cu: one token a sequence; an empty context gives zeros. partials [decodes, heads, splits,
 * head_dim] and weights [decodes, heads, splits] are workspace of several splits, else null. Where there are several,
 * decodes * kv_heads * ceil(heads / kv_heads / 16) is at most MII_SPLIT_TILES. beside: 1 right after a
 * mii_attention_prefill_wgmma of the same stream with max_blocks and tiles, beside which it runs, else 0. */
MII_API cudaError_t mii_attention_decode(void *out, float *partials, float *weights, const void *query,
                                         const void *k_cache, const void *v_cache, const int *block_tables,
                                         const int *context_lens, int64_t decodes, int64_t query_stride,
                                         int64_t table_stride, int heads, int kv_heads, int head_dim, int splits,
                                         int window, int beside, float scale, mii_dtype dtype, cudaStream_t stream);

/* attention_prefill.cu: sequence i has the tokens cu_seqlens[i] to cu_seqlens[i + 1], the last ones of its context.
 * tiles: the sum over the sequences of ceil(tokens / 128), or of ceil(tokens / 64) where head_dim is 256. */
MII_API cudaError_t mii_attention_prefill(void *out, const void *query, const void *k_cache, const void *v_cache,
                                          const int *block_tables, const int *context_lens, const int *cu_seqlens,
                                          int64_t sequences, int64_t tiles, int64_t query_stride,
                                          int64_t table_stride, int heads, int kv_heads, int head_dim, int window,
                                          float scale, mii_dtype dtype, cudaStream_t stream);

/* attention_prefill_wgmma.cu: the same on devices of compute capability 9.0. head_dim at most 128, query_stride a
 * multiple of 8; query and out are aligned to 16 bytes. It takes `max_blocks` multiprocessors and leaves the rest
 * to decodes that are launched right after it; 0: all. */
MII_API cudaError_t mii_attention_prefill_wgmma(void *out, const void *query, const void *k_cache,
                                                const void *v_cache, const int *block_tables,
                                                const int *context_lens, const int *cu_seqlens, int64_t sequences,
                                                int64_t tiles, int64_t query_stride, int64_t table_stride, int heads,
                                                int kv_heads, int head_dim, int window, int max_blocks, float scale,
                                                mii_dtype dtype, cudaStream_t stream);

/* skinny_gemm.cu: out [tokens, n]; x [tokens, k]; weight [n, k]; bias [n] or null. tokens <= 64, k a multiple of 32,
 * x and weight aligned to 16 bytes, 16-bit dtypes. rows of the weight for each thread block: 16, 32 or, for more than
 * 16 tokens, 128. */
MII_API cudaError_t mii_skinny_gemm(void *out, const void *x, const void *weight, const void *bias, int tokens,
                                    int n, int k, int rows, mii_dtype dtype, cudaStream_t stream);

/* skinny_wgmma.cu: the same on compute capability 9.0, k a multiple of 8. The weight is cut into tiles of `rows` rows:
 * a multiple of 8 from 8 to 64 or, for more than 32 tokens, of 16 up to 128. Each tile is cut into `splits` pieces
 * along k, no more than one for each 128 elements, or for each 64 of them where a tile has more than 64 rows. `blocks`
 * thread blocks, no more than there are pieces, have ring_bytes of shared memory each for what is under way. partials
 * is null without splits, else workspace [tiles, splits, r, t] with r the rows rounded up to 64 or 128 and t the
 * tokens rounded up to 8, 16, 32 or 64; then tiles * r is at most 16384. overlaps: whether the weight may be read
 * before the kernel before this one has ended. */
MII_API cudaError_t mii_skinny_wgmma(void *out, float *partials, const void *x, const void *weight, const void *bias,
                                     int tokens, int n, int k, int rows, int splits, int blocks, int ring_bytes,
                                     int overlaps, mii_dtype dtype, cudaStream_t stream);

/* gemm_wgmma.cu, on compute capability 9.0: out [tokens, n]; x [tokens, k]; weight [n, k], or gated [2 n, k]: the rows of
 * the gate, which is activated, then those that it is multiplied with. n and k multiples of 8; out, x and weight aligned
 * to 16 bytes; 16-bit dtypes. blocks: thread blocks, at least 2, as a rule one for each multiprocessor. adds: to what
 * out has. */
MII_API cudaError_t mii_gated_gemm(void *out, const void *x, const void *weight, int tokens, int n, int k, int blocks,
                                   mii_activation activation, mii_dtype dtype, cudaStream_t stream);
MII_API cudaError_t mii_gemm(void *out, const void *x, const void *weight, int tokens, int n, int k, int blocks,
                             int adds, mii_dtype dtype, cudaStream_t stream);

/* grouped_gemm.cu: out [rows, n]; x [rows, k]; weight [groups, n, k]; starts [groups + 1], from 0 up to the rows: group g
 * has rows starts[g] to starts[g + 1]. tokens: rows of a group that a thread block multiplies, 8, 16, 32 or 64. slots:
 * no fewer than the sum over the groups of ceil(rows / tokens). k, alignment, dtypes and rows as above. */
MII_API cudaError_t mii_grouped_gemm(void *out, const void *x, const void *weight, const int *starts, int groups,
                                     int slots, int n, int k, int tokens, int rows, mii_dtype dtype,
                                     cudaStream_t stream);
/* The same with 8 tokens, of any dtype, k and alignment, slower. */
MII_API cudaError_t mii_plain_grouped_gemm(void *out, const void *x, const void *weight, const int *starts, int groups,
                                           int slots, int n, int k, mii_dtype dtype, cudaStream_t stream);

/* quantise.cu: values [rows, n] e4m3; scales [rows]; x [rows, n]. A row has at most 32768 elements of 16 bits or 16384
 * of 32, or 4096 where n or a pointer is no multiple of 16 bytes. */
MII_API cudaError_t mii_quantise(void *values, float *scales, const void *x, int64_t rows, int64_t n, mii_dtype dtype,
                                 cudaStream_t stream);

#endif
