// The C interface of the training kernels: fp32, forward and backward. Mirrored by
// dougong/kernels/training/library.py. Shapes as in the Python operators; all tensors row-major.
#pragma once
#include <stdint.h>

// c[m, n] = a[m, k] @ b[k, n], added to c if `add`; rows of c are c_row apart, elements of a and b
// `row` and `column` apart. `wide`: never rounded (dg_set_products).
typedef struct {
    const float *a, *b;
    float* c;
    int64_t m, n, k, a_row, a_column, b_row, b_column, c_row, add, wide;
} dg_gemm_args;

// mHC before a sublayer. mix [T, R] = streams @ fn^T, R = S (2 + S), or S for the head (post null).
// Backward: d_x [T, D], d_post [S, T], d_comb [S, S, T] give d_streams, d_fn [R, S D], d_base [R],
// d_scale [3 or 1].
typedef struct {
    const float *streams, *fn, *base, *scale;
    float *x, *post, *comb, *mix;
    const float *d_x, *d_post, *d_comb;
    float *d_streams, *d_fn, *d_base, *d_scale;
    int64_t tokens, num_streams, size, iterations;
    float hc_eps, norm_eps;
} dg_mix_args;

// mHC behind a sublayer: out [T, S, D]; backward from d_out.
typedef struct {
    const float *y, *streams, *post, *comb;
    float* out;
    const float* d_out;
    float *d_y, *d_streams, *d_post, *d_comb;
    int64_t tokens, num_streams, size;
} dg_spread_args;

// RMS norm and RoPE, the gradient: d_x from d_y and the input x; d_weight [size] where weight is.
typedef struct {
    const float *x, *weight, *rotation, *d_y;
    float *d_x, *d_weight;
    int64_t rows, size, pairs, rows_per_rotation;
    float eps;
} dg_norm_back_args;

// Compressor pooling of packed samples: tokens [T, 2 X] holds value | score, X = width (two halves
// with overlap); entry e takes rows own[e] .., and with overlap rows before[e] .. (-1: none).
typedef struct {
    const float* tokens;
    const int64_t *own, *before;
    float* pooled;
    const float* d_pooled;
    float* d_tokens;  // zero at first
    int64_t entries, ratio, width, overlap;
} dg_pack_pool_args;

// Clamped SwiGLU experts. order [T K]: slots sorted by expert; counts [E]. gate, up [T K, I] are kept
// for the backward pass. weights [T, K] or null. `rounded`: x and what enters w2 at FP8 values.
typedef struct {
    const float *x, *weights, *w1, *w3, *w2;
    const int64_t *order, *counts;
    float *gate, *up, *y;
    const float* d_y;
    float *d_x, *d_weights, *d_w1, *d_w3, *d_w2;
    int64_t tokens, top_k, num_experts, size, width, rounded;
    float limit;
} dg_moe_args;

// Attention of packed samples: q, out [T, H, C], kv [T, C], entries [sum of length / ratio, C] or null,
// selected [T, K] or null (ascending entries of the own sample, -1: none), rotation [T, pairs] complex.
typedef struct {
    const float *q, *kv, *entries, *sink, *rotation;
    const int64_t *selected, *lengths;
    float *out, *log_sum;  // log_sum [T, H]
    const float* d_out;
    float *d_q, *d_kv, *d_entries, *d_sink;
    int64_t samples, heads, size, pairs, num_selected, window, ratio;
} dg_pack_attention_args;

// Weighted cross entropy of logits = x @ head^T: loss (one float), and the gradients of it.
typedef struct {
    const float *x, *head, *weight;
    const int64_t* target;
    float *loss, *d_x, *d_head;
    int64_t rows, size, vocabulary;
} dg_entropy_args;

// The indexer's loss over samples of at least `shortest` tokens, and its gradients (zero at first).
// attention: q, kv, entries, sink, lengths and log_sum (for scratch) of the layer. index_q [T, J, D],
// weight [T, J], keys [M, D]. top_k 0: every visible entry counts.
typedef struct {
    const dg_pack_attention_args* attention;
    const float *index_q, *weight, *keys;
    float *loss, *d_index_q, *d_weight, *d_keys;
    int64_t index_heads, index_size, top_k, shortest;
} dg_alignment_args;

// Muon on `batch` matrices [rows, columns]: momentum = decay * momentum + gradient, the Nesterov
// direction orthogonalized by `rounds` of a x + b (x x^T) x + c (x x^T)^2 x (coefficients [rounds, 3]),
// then parameter = kept * parameter - step * result.
typedef struct {
    float *parameter, *momentum;
    const float *gradient, *coefficients;
    int64_t batch, rows, columns, rounds;
    float decay, kept, step;
} dg_muon_args;

// Every training kernel with its arguments.
#define DG_TRAINING(call)                                                                    \
    call(matmul, dg_gemm_args) call(mix_forward, dg_mix_args)                                \
    call(mix_backward, dg_mix_args) call(spread_forward, dg_spread_args)                     \
    call(spread_backward, dg_spread_args) call(norm_backward, dg_norm_back_args)             \
    call(pool_forward, dg_pack_pool_args) call(pool_backward, dg_pack_pool_args)             \
    call(moe_forward, dg_moe_args) call(moe_backward, dg_moe_args)                           \
    call(attend_forward, dg_pack_attention_args)                                             \
    call(attend_backward, dg_pack_attention_args) call(entropy, dg_entropy_args)         \
    call(muon, dg_muon_args) call(alignment, dg_alignment_args)
