// The C interface of the native kernels: plain structs and pointers, no C++ and no Python types.
//
// Every operator takes one struct by pointer. Sizes are in elements, strides in elements, bytes where
// said. Tensors are row-major and contiguous unless a stride is given. dougong/kernels/cpu/library.py
// mirrors these structs field by field; dg_abi() tells the two apart when one is older.
#pragma once
#include <stdint.h>

#define DG_ABI 7
#define DG_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum dg_format { DG_F32 = 0, DG_BF16 = 1, DG_E4M3 = 2, DG_E2M1 = 3, DG_INT8 = 4 };
enum dg_dtype { DG_FLOAT32 = 0, DG_BFLOAT16 = 1 };

// A matrix [rows, columns] as it lies in a checkpoint. E2M1: two codes a byte, low nibble first.
// scale: E2M1 UE8M0 [rows, columns / 32]; E4M3 UE8M0, or float where group is 128,
// [ceil(rows / 128), ceil(columns / 128)]; INT8 float [rows, ceil(columns / group)].
// group: columns that share a float scale, a multiple of 32 or all; 0 without float scales.
typedef struct {
    const void* data;
    const void* scale;
    int64_t rows, columns;
    int64_t format, group;
} dg_matrix;

// y = x @ weight^T; `groups` > 1: block-diagonal, x [T, groups * columns], y [T, rows].
typedef struct {
    const dg_matrix* weight;
    const void* x;
    void* y;
    int64_t tokens, groups;
    int64_t x_dtype, y_dtype, rounded;
} dg_linear_args;

// Clamped SwiGLU experts. `experts` [T, K] (null: one expert for every token, K = 1); `weights`
// float [T, K] or null; w1, w3, w2: one matrix per expert. y float [T, D]: the sum in slot order.
typedef struct {
    const dg_matrix *w1, *w3, *w2;
    const void* x;
    const int64_t* experts;
    const float* weights;
    float* y;
    int64_t tokens, top_k, num_experts, x_dtype, rounded;
    float limit;
} dg_experts_args;

// scores = sqrt(softplus(x @ weight^T)); best top_k of score + bias, or those that `hashed` names.
typedef struct {
    const dg_matrix* weight;
    const void* x;
    const float* bias;
    const int64_t* hashed;
    float* weights;
    int64_t* experts;
    int64_t tokens, top_k, x_dtype;
    float route_scale;
} dg_router_args;

// mHC. pre: x, post [S, T], comb [S, S, T] of streams [T, S, D]. head: x only (post null).
typedef struct {
    const void* streams;
    const float *fn, *base, *scale;
    void* x;
    float *post, *comb;
    int64_t tokens, num_streams, size, dtype, iterations;
    float hc_eps, norm_eps;
} dg_mhc_args;

typedef struct {
    const void *y, *streams;
    const float *post, *comb;
    void* out;
    int64_t tokens, num_streams, size, y_dtype, dtype;
} dg_mhc_post_args;

// RMS norm of rows [rows, size], weight or null; then, where rotation is given, RoPE on the last
// 2 * pairs channels by rotation[row / rows_per_rotation] (cos, sin pairs). `rounding`: 0 none,
// 1 FP8 per 64 of the channels before them, 2 Hadamard and FP4 per 32.  eps < 0: no norm.
typedef struct {
    const void* x;
    const float *weight, *rotation;
    void* y;
    int64_t rows, size, pairs, rows_per_rotation, x_dtype, y_dtype, rounding;
    float eps;
} dg_norm_rope_args;

// How a row of memory is written (kernels/entries.py): floats, or FP8 with `rope` BF16 channels behind
// it and UE8M0 scales per 64, or FP4 with scales per 32.
enum dg_entry { DG_ENTRY_F32 = 0, DG_ENTRY_BF16 = 1, DG_ENTRY_FP8 = 2, DG_ENTRY_FP4 = 3 };

// Rows of one kind: row i at offset + (i mod count) * bytes of where it is kept; count is a power of
// two for rows in blocks. Offsets and bytes are in bytes.
typedef struct {
    int64_t format, width, rope, bytes;
    int64_t offset, count;
} dg_place;

// One request of a flat batch: rows low .. low + tokens - 1, at positions start, start + 1, ...
// Window rows before `oldest` are unknown; entries of tokens before `frozen` are there already.
// rings: its recent rows, null without memory. blocks: its blocks' addresses, in order.
typedef struct {
    int64_t low, tokens, start, oldest, frozen;
    uint8_t* rings;
    uint8_t* const* blocks;
} dg_span;

// Compressor step: value and score float [T, width]; ape float [ratio, width] is added to the score.
// Pending tokens (value | score) are read from `ring` and the new ones written; null: none before.
// Each block that these tokens complete is pooled, normed, turned by its row of `rotation` (entries of
// all spans in order), rounded as dg_norm_rope_args says, and written to `entries`.
typedef struct {
    const float *value, *score, *ape, *weight, *rotation;
    const dg_span* spans;
    const dg_place *ring, *entries;
    int64_t num_spans, tokens, ratio, width, pairs, overlap, dtype, rounding;
    float eps;
} dg_compress_args;

// Scores of each span's entries for its queries; the best k of the visible, ascending, -1 first.
typedef struct {
    const void *q, *weight;
    const dg_span* spans;
    const dg_place* keys;
    int64_t* selected;
    int64_t num_spans, tokens, heads, size, ratio, k, dtype, weight_dtype;
} dg_index_args;

// Attention of queries [T, H, C] over kv [T, C] of the same tokens, earlier rows in `ring` (null:
// none before), and entries (null: none): those that `selected` [T, K] names, or all visible ones.
typedef struct {
    const void *q, *kv;
    const dg_span* spans;
    const dg_place *ring, *entries;
    const int64_t* selected;
    const float *sink, *rotation;
    void* out;
    int64_t num_spans, tokens, heads, size, pairs, num_selected, window, ratio, dtype;
} dg_attention_args;

// Writes each span's newest rows of kv [T, C] to `ring`.
typedef struct {
    const void* kv;
    const dg_span* spans;
    const dg_place* ring;
    int64_t num_spans, tokens, size, dtype;
} dg_remember_args;

// y = a + b, floats; y in y_dtype.
typedef struct {
    const float *a, *b;
    void* y;
    int64_t count, y_dtype;
} dg_add_args;

// out[t] = table[ids[t]], rows of `width`.
typedef struct {
    const int64_t *table, *ids;
    int64_t* out;
    int64_t count, width;
} dg_lookup_args;

// A recorded call: the operator and its arguments, which stay where they are.
enum dg_operation {
    DG_LINEAR = 0, DG_EXPERTS, DG_ROUTER, DG_MHC_MIX, DG_MHC_POST, DG_NORM_ROPE, DG_COMPRESS, DG_INDEX,
    DG_ATTENTION, DG_REMEMBER, DG_ADD, DG_LOOKUP
};
typedef struct {
    int64_t operation;
    const void* arguments;
} dg_call;

DG_API int dg_abi(void);
DG_API const char* dg_path(void);           // "avx512", "avx2" or "portable"
DG_API int dg_set_path(const char* name);   // 0 done, -1 this machine cannot; "auto" is the best it can
DG_API void dg_set_threads(int threads);    // 0: OpenMP's own number, which torch.set_num_threads sets
DG_API void dg_set_products(int bfloat16);  // training: 1 rounds the operands of products to BF16
DG_API void dg_linear(const dg_linear_args*);
DG_API void dg_experts(const dg_experts_args*);
DG_API void dg_router(const dg_router_args*);
DG_API void dg_mhc_mix(const dg_mhc_args*);
DG_API void dg_mhc_post(const dg_mhc_post_args*);
DG_API void dg_norm_rope(const dg_norm_rope_args*);
DG_API void dg_compress(const dg_compress_args*);
DG_API void dg_index(const dg_index_args*);
DG_API void dg_attention(const dg_attention_args*);
DG_API void dg_remember(const dg_remember_args*);
DG_API void dg_add(const dg_add_args*);
DG_API void dg_lookup(const dg_lookup_args*);
DG_API void dg_run(const dg_call*, int64_t count);  // one after another; fewer trips from Python
DG_API double dg_stream(const void* data, int64_t bytes);  // reads it once; a checksum

#ifdef __cplusplus
}
#endif
