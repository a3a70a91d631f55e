// Clamped SwiGLU experts over grouped rows, with gradients; and the fused loss of the logits.
#pragma once
#include "gemm16.h"
#include "rounding.h"

namespace DG_PATH {

// Rows of x in the order of their experts (slot / top_k is the token).
inline void gather_slots(const dg_moe_args& a, const float* x, float* rows, bool rounded) {
    parallel(a.tokens * a.top_k, a.tokens * a.top_k * a.size, [&](int64_t i) {
        const float* from = x + a.order[i] / a.top_k * a.size;
        std::copy(from, from + a.size, rows + i * a.size);
        if (rounded) round_groups<false>(rows + i * a.size, a.size, LINEAR_GROUP);
    });
}
// Sums each token's rows in slot order.
inline void scatter_slots(const dg_moe_args& a, const float* rows, float* y) {
    const int64_t slots = a.tokens * a.top_k;
    int64_t* place = scratch<int64_t, 80>(slots);
    for (int64_t i = 0; i < slots; i++) place[a.order[i]] = i;
    parallel(a.tokens, slots * a.size, [&](int64_t t) {
        for (int64_t c = 0; c < a.size; c += LANES) {
            V v = load_some(rows + place[t * a.top_k] * a.size + c, a.size - c);
            for (int64_t k = 1; k < a.top_k; k++)
                v = v + load_some(rows + place[t * a.top_k + k] * a.size + c, a.size - c);
            store_some(y + t * a.size + c, v, a.size - c);
        }
    });
}
// body(expert, its first row, its rows) for every expert that has rows.
template <class F> void each_expert(const dg_moe_args& a, F body) {
    for (int64_t e = 0, low = 0; e < a.num_experts; low += a.counts[e], e++)
        if (a.counts[e]) body(e, low, a.counts[e]);
}

DG_INLINE V clamp_gate(V gate, float limit) { return limit > 0 ? min(gate, splat(limit)) : gate; }
DG_INLINE V clamp_up(V up, float limit) {
    return limit > 0 ? max(min(up, splat(limit)), splat(-limit)) : up;
}

// weight * silu(gate) * up of every row, [T K, I].
inline void hidden_rows(const dg_moe_args& a, float* hidden) {
    const int64_t slots = a.tokens * a.top_k, n = a.width;
    parallel(slots, slots * n * 16, [&](int64_t i) {
        const V weight = broadcast(a.weights ? a.weights[a.order[i]] : 1.0f);
        for (int64_t c = 0; c < n; c += LANES) {
            const V gate = clamp_gate(load_some(a.gate + i * n + c, n - c), a.limit);
            const V up = clamp_up(load_some(a.up + i * n + c, n - c), a.limit);
            store_some(hidden + i * n + c, gate * sigmoid(gate) * up * weight, n - c);
        }
        if (a.rounded) round_groups<false>(hidden + i * n, n, LINEAR_GROUP);
    });
}

inline void moe_forward(const dg_moe_args& a) {
    const int64_t slots = a.tokens * a.top_k, d = a.size, n = a.width;
    float* x = scratch<float, 81>(slots * d);
    float* hidden = scratch<float, 82>(slots * n);
    gather_slots(a, a.x, x, a.rounded);
    each_expert(a, [&](int64_t e, int64_t low, int64_t count) {
        const Operand rows = rows_of(x + low * d, d);
        fast_gemm(rows, rows_of(a.w1 + e * n * d, d).t(), a.gate + low * n, n, count, n, d);
        fast_gemm(rows, rows_of(a.w3 + e * n * d, d).t(), a.up + low * n, n, count, n, d);
    });
    hidden_rows(a, hidden);
    each_expert(a, [&](int64_t e, int64_t low, int64_t count) {
        fast_gemm(rows_of(hidden + low * n, n), rows_of(a.w2 + e * d * n, n).t(), x + low * d, d, count, d, n);
    });
    scatter_slots(a, x, a.y);
}

// From the gradient in hidden: those in gate and up (in place of it and in d_up), and in the weight.
inline void swiglu_back(const dg_moe_args& a, float* d_hidden, float* d_up) {
    const int64_t slots = a.tokens * a.top_k, n = a.width;
    parallel(slots, slots * n * 24, [&](int64_t i) {
        const V weight = broadcast(a.weights ? a.weights[a.order[i]] : 1.0f);
        V total = zero();
        for (int64_t c = 0; c < n; c += LANES) {
            const V raw_gate = load_some(a.gate + i * n + c, n - c), gate = clamp_gate(raw_gate, a.limit);
            const V raw_up = load_some(a.up + i * n + c, n - c), up = clamp_up(raw_up, a.limit);
            const V d = load_some(d_hidden + i * n + c, n - c), s = sigmoid(gate), silu = gate * s;
            total = fma(d, silu * up, total);
            const V slope = s * (1.0f + gate * (1.0f - s)), dw = d * weight;
            // a clamped value passes no gradient; one at the limit does
            store_some(d_hidden + i * n + c, raw_gate == gate ? dw * up * slope : zero(), n - c);
            store_some(d_up + i * n + c, raw_up == up ? dw * silu : zero(), n - c);
        }
        if (a.weights) a.d_weights[a.order[i]] = sum(total);
    });
}

inline void moe_backward(const dg_moe_args& a) {
    const int64_t slots = a.tokens * a.top_k, d = a.size, n = a.width;
    float* x = scratch<float, 81>(slots * d);
    float* hidden = scratch<float, 82>(slots * n);
    float* d_y = scratch<float, 83>(slots * d);
    float* d_gate = scratch<float, 84>(slots * n);
    float* d_up = scratch<float, 85>(slots * n);
    gather_slots(a, a.x, x, a.rounded);
    gather_slots(a, a.d_y, d_y, false);
    hidden_rows(a, hidden);
    each_expert(a, [&](int64_t e, int64_t low, int64_t count) {
        const Operand rows = rows_of(d_y + low * d, d);
        fast_gemm(rows.t(), rows_of(hidden + low * n, n), a.d_w2 + e * d * n, n, d, n, count);
        fast_gemm(rows, rows_of(a.w2 + e * d * n, n), d_gate + low * n, n, count, n, d);
    });
    swiglu_back(a, d_gate, d_up);
    each_expert(a, [&](int64_t e, int64_t low, int64_t count) {
        const Operand gate = rows_of(d_gate + low * n, n), up = rows_of(d_up + low * n, n);
        const Operand rows = rows_of(x + low * d, d);
        fast_gemm(gate.t(), rows, a.d_w1 + e * n * d, d, n, d, count);
        fast_gemm(up.t(), rows, a.d_w3 + e * n * d, d, n, d, count);
        fast_gemm(gate, rows_of(a.w1 + e * n * d, d), d_y + low * d, d, count, d, n);
        fast_gemm(up, rows_of(a.w3 + e * n * d, d), d_y + low * d, d, count, d, n, true);
    });
    scatter_slots(a, d_y, a.d_x);
}

// One row of logits becomes its loss's gradient, (softmax - one-hot) * weight; returns the loss.
inline double entropy_row(float* z, int64_t n, int64_t target, float weight) {
    V top = splat(-INFINITY);
    for (int64_t i = 0; i < n; i += LANES)
        top = max(top, n - i >= LANES ? load(z + i) : splat(*std::max_element(z + i, z + n)));
    const float most = largest(top), own = z[target];
    V total = zero();
    for (int64_t i = 0; i < n; i += LANES) {
        const V p = exp(load_some(z + i, n - i) - splat(most));
        store_some(z + i, p, n - i);
        if (n - i >= LANES) total = total + p;
        else for (int64_t j = i; j < n; j++) total[0] += z[j];
    }
    const float all = sum(total);
    const V scale = splat(weight / all);
    for (int64_t i = 0; i < n; i += LANES) store_some(z + i, load_some(z + i, n - i) * scale, n - i);
    z[target] -= weight;
    return weight * (log((double)all) + most - own);
}

// Rows in chunks: their logits stay near, and the head is read once a chunk, not once a row.
inline void entropy(const dg_entropy_args& a) {
    const int64_t d = a.size, v = a.vocabulary;
    const int64_t chunk = std::clamp<int64_t>((8 << 20) / v, 96, 504);
    float* z = scratch<float, 86>(chunk * v);
    double* losses = scratch<double, 87>(chunk);
    double total = 0;
    std::fill(a.d_head, a.d_head + v * d, 0.0f);
    for (int64_t low = 0; low < a.rows; low += chunk) {
        const int64_t count = std::min(chunk, a.rows - low);
        const Operand x = rows_of(a.x + low * d, d);
        fast_gemm(x, rows_of(a.head, d).t(), z, v, count, v, d);
        parallel(count, count * v * 16, [&](int64_t i) {
            losses[i] = entropy_row(z + i * v, v, a.target[low + i], a.weight[low + i]);
        });
        for (int64_t i = 0; i < count; i++) total += losses[i];
        fast_gemm(rows_of(z, v), rows_of(a.head, d), a.d_x + low * d, d, count, d, v);
        fast_gemm(rows_of(z, v).t(), x, a.d_head, d, v, d, count, true);
    }
    *a.loss = (float)total;
}

}  // namespace DG_PATH
