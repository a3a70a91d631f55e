// RMS norm with RoPE, and the compressor's pooling, with gradients.
#pragma once
#include "streams.h"
#include "gemm.h"

namespace DG_PATH {

// y = norm(x) * weight, then rotated: d_x, and d_weight summed over blocks of rows in order.
inline void norm_backward(const dg_norm_back_args& a) {
    const int64_t n = a.size, rope = 2 * a.pairs, block = 64, blocks = (a.rows + block - 1) / block;
    float* part = scratch<float, 76>(a.weight ? blocks * n : 0);
    parallel(blocks, a.rows * n * 8, [&](int64_t i) {
        float* d = scratch<float, 77>(n);
        float* share = part + i * n;
        if (a.weight) std::fill(share, share + n, 0.0f);
        for (int64_t r = i * block; r < std::min(a.rows, (i + 1) * block); r++) {
            const float* x = a.x + r * n;
            std::copy(a.d_y + r * n, a.d_y + r * n + n, d);
            if (a.rotation)
                rotate(d + n - rope, a.rotation + r / a.rows_per_rotation * rope, a.pairs, true);
            V square = zero(), dot = zero();
            for (int64_t c = 0; c < n; c += LANES) {
                const V v = load_some(x + c, n - c);
                V g = load_some(d + c, n - c);
                if (a.weight) g = g * load_some(a.weight + c, n - c);
                square = fma(v, v, square);
                dot = fma(g, v, dot);
            }
            const float inverse = 1.0f / sqrtf(sum(square) / (float)n + a.eps);
            const float slope = -inverse * inverse * inverse * sum(dot) / (float)n;
            for (int64_t c = 0; c < n; c += LANES) {
                const V v = load_some(x + c, n - c), g = load_some(d + c, n - c);
                V scaled = g * inverse;
                if (a.weight) {
                    store_some(share + c, fma(scaled, v, load_some(share + c, n - c)), n - c);
                    scaled = scaled * load_some(a.weight + c, n - c);
                }
                store_some(a.d_x + r * n + c, fma(splat(slope), v, scaled), n - c);
            }
        }
    });
    if (!a.weight) return;
    for (int64_t c = 0; c < n; c++) {
        float total = 0;
        for (int64_t i = 0; i < blocks; i++) total += part[i * n + c];
        a.d_weight[c] = total;
    }
}

// The rows that entry e pools, at channel c of `half`: up to 2 * ratio offsets into tokens.
inline int64_t pooled_rows(const dg_pack_pool_args& a, int64_t e, int64_t half, int64_t* at) {
    int64_t count = 0;
    if (a.overlap && a.before[e] >= 0)
        for (int64_t j = 0; j < a.ratio; j++) at[count++] = (a.before[e] + j) * 2 * a.width;
    for (int64_t j = 0; j < a.ratio; j++)
        at[count++] = (a.own[e] + j) * 2 * a.width + (a.overlap ? half : 0);
    return count;
}

inline void pool_forward(const dg_pack_pool_args& a) {
    const int64_t half = a.overlap ? a.width / 2 : a.width;
    parallel(a.entries, a.entries * a.ratio * a.width * 16, [&](int64_t e) {
        int64_t* at = scratch<int64_t, 78>(2 * a.ratio);
        const int64_t count = pooled_rows(a, e, half, at);
        for (int64_t c = 0; c < half; c += LANES) {
            const float *value = a.tokens + c, *score = value + a.width;
            V top = splat(-INFINITY), total = zero(), mean = zero();
            for (int64_t j = 0; j < count; j++) top = max(top, load_some(score + at[j], half - c));
            for (int64_t j = 0; j < count; j++) {
                const V p = exp(load_some(score + at[j], half - c) - top);
                total = total + p;
                mean = fma(p, load_some(value + at[j], half - c), mean);
            }
            store_some(a.pooled + e * half + c, mean / total, half - c);
        }
    });
}

inline void pool_backward(const dg_pack_pool_args& a) {
    const int64_t half = a.overlap ? a.width / 2 : a.width;
    parallel(a.entries, a.entries * a.ratio * a.width * 32, [&](int64_t e) {
        int64_t* at = scratch<int64_t, 78>(2 * a.ratio);
        V* p = scratch<V, 79>(2 * a.ratio);
        const int64_t count = pooled_rows(a, e, half, at);
        for (int64_t c = 0; c < half; c += LANES) {
            const float *value = a.tokens + c, *score = value + a.width;
            float* d_value = a.d_tokens + c;
            const V d = load_some(a.d_pooled + e * half + c, half - c);
            V top = splat(-INFINITY), total = zero(), mean = zero();
            for (int64_t j = 0; j < count; j++) top = max(top, load_some(score + at[j], half - c));
            for (int64_t j = 0; j < count; j++) {
                p[j] = exp(load_some(score + at[j], half - c) - top);
                total = total + p[j];
                mean = fma(p[j], load_some(value + at[j], half - c), mean);
            }
            mean = mean / total;
            for (int64_t j = 0; j < count; j++) {
                const V share = p[j] / total * d;
                store_some(d_value + at[j], share, half - c);
                store_some(d_value + a.width + at[j],
                           share * (load_some(value + at[j], half - c) - mean), half - c);
            }
        }
    });
}

}  // namespace DG_PATH
