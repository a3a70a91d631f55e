// mHC with gradients: the streams' collapse, their mixing weights, and the spreading of a result.
//
// Sixteen tokens share a vector wherever 4 x 4 matrices are worked on; the Sinkhorn rounds are run
// again in the backward pass, where every round's matrix fits in the cache.
#pragma once
#include "gemm.h"

namespace DG_PATH {

constexpr int64_t SIDE = 8;  // most streams

// Some lanes, or all of them where that is known.
template <bool SOME> DG_INLINE V load_part(const float* p, int64_t n) {
    if constexpr (SOME) return load_some(p, n);
    return load(p);
}
template <bool SOME> DG_INLINE void store_part(float* p, V v, int64_t n) {
    if constexpr (SOME) store_some(p, v, n);
    else store(p, v);
}

// One Sinkhorn step on the matrices p [s, s] of sixteen tokens: rows or columns divided by their sum.
template <int FIXED>
DG_INLINE void normalize_lanes(V* p, int64_t side, bool rows, float eps, V* sums) {
    const int64_t s = FIXED ? FIXED : side;
#pragma GCC unroll 16
    for (int64_t i = 0; i < s; i++) {
        V total = splat(eps);
#pragma GCC unroll 16
        for (int64_t j = 0; j < s; j++) total = total + p[rows ? i * s + j : j * s + i];
        sums[i] = total;
        const V inverse = splat(1.0f) / total;
#pragma GCC unroll 16
        for (int64_t j = 0; j < s; j++) {
            V& at = p[rows ? i * s + j : j * s + i];
            at = at * inverse;
        }
    }
}
// The gradient of that step: `q` is its result, `d` the gradient in q and then in the step's input.
template <int FIXED>
DG_INLINE void normalize_lanes_back(V* d, const V* q, int64_t side, bool rows, const V* sums) {
    const int64_t s = FIXED ? FIXED : side;
#pragma GCC unroll 16
    for (int64_t i = 0; i < s; i++) {
        V dot = zero();
#pragma GCC unroll 16
        for (int64_t j = 0; j < s; j++) {
            const int64_t at = rows ? i * s + j : j * s + i;
            dot = fma(d[at], q[at], dot);
        }
        const V inverse = splat(1.0f) / sums[i];
#pragma GCC unroll 16
        for (int64_t j = 0; j < s; j++) {
            const int64_t at = rows ? i * s + j : j * s + i;
            d[at] = (d[at] - dot) * inverse;
        }
    }
}
// Sinkhorn on a [s, s]; with `history`, every step's result and sums are kept for the way back.
// The first step is a softmax over rows, to which eps is added behind the division.
template <int FIXED>
inline void sinkhorn_of(V* a, int64_t side, int64_t iterations, float eps, V* history) {
    const int64_t s = FIXED ? FIXED : side;
    const int64_t kept = s * s + s;
    for (int64_t j = 0; j < s; j++) {
        V top = a[j * s];
        for (int64_t k = 1; k < s; k++) top = max(top, a[j * s + k]);
        for (int64_t k = 0; k < s; k++) a[j * s + k] = exp(a[j * s + k] - top);
    }
    for (int64_t step = 0; step < 2 * iterations; step++) {
        V sums[FIXED ? FIXED : SIDE];
        if (step % 2 == 0) normalize_lanes<FIXED>(a, s, true, step ? eps : 0.0f, sums);
        else normalize_lanes<FIXED>(a, s, false, eps, sums);
        if (history) {
            std::copy(a, a + s * s, history + step * kept);
            std::copy(sums, sums + s, history + step * kept + s * s);
        }
        if (step == 0)
#pragma GCC unroll 16
            for (int64_t i = 0; i < s * s; i++) a[i] = a[i] + splat(eps);
    }
}
template <int FIXED>
inline void sinkhorn_back_of(V* d, int64_t side, int64_t iterations, const V* history) {
    const int64_t s = FIXED ? FIXED : side;
    const int64_t kept = s * s + s;
    for (int64_t step = 2 * iterations - 1; step > 0; step--) {
        const V* at = history + step * kept;
        if (step % 2 == 0) normalize_lanes_back<FIXED>(d, at, s, true, at + s * s);
        else normalize_lanes_back<FIXED>(d, at, s, false, at + s * s);
    }
#pragma GCC unroll 16
    for (int64_t j = 0; j < s; j++) {  // softmax: d = p (d - sum d p)
        const V* p = history + j * s;
        V dot = zero();
#pragma GCC unroll 16
        for (int64_t k = 0; k < s; k++) dot = fma(d[j * s + k], p[k], dot);
#pragma GCC unroll 16
        for (int64_t k = 0; k < s; k++) d[j * s + k] = (d[j * s + k] - dot) * p[k];
    }
}

inline void sinkhorn_lanes(V* a, int64_t s, int64_t iterations, float eps, V* history) {
    s == 4 ? sinkhorn_of<4>(a, s, iterations, eps, history)
           : sinkhorn_of<0>(a, s, iterations, eps, history);
}
inline void sinkhorn_lanes_back(V* d, int64_t s, int64_t iterations, const V* history) {
    s == 4 ? sinkhorn_back_of<4>(d, s, iterations, history)
           : sinkhorn_back_of<0>(d, s, iterations, history);
}

// What sixteen tokens mix with: z = mix * inverse * scale + base, [R] vectors; m keeps mix.
struct MixBlock {
    V m[SIDE * (2 + SIDE)], z[SIDE * (2 + SIDE)], inverse;
};
inline void open_block(const dg_mix_args& a, int64_t low, int64_t count, MixBlock& b) {
    const int64_t s = a.num_streams, flat = s * a.size, rows = a.post ? s * (2 + s) : s;
    alignas(64) float part[LANES] = {};
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t t = 0; t < count; t++) part[t] = a.mix[(low + t) * rows + r];
        b.m[r] = load(part);
    }
    alignas(64) float mean[LANES] = {};
    for (int64_t t = 0; t < count; t++) {
        const float* h = a.streams + (low + t) * flat;
        V square[2] = {zero(), zero()};
        for (int64_t i = 0; i < flat; i += 2 * LANES) {
            const V v = load_some(h + i, flat - i);
            square[0] = fma(v, v, square[0]);
            if (i + LANES < flat) {
                const V w = load_some(h + i + LANES, flat - i - LANES);
                square[1] = fma(w, w, square[1]);
            }
        }
        mean[t] = 1.0f / sqrtf(sum(square[0] + square[1]) / (float)flat + a.norm_eps);
    }
    b.inverse = load(mean);
    for (int64_t r = 0; r < rows; r++) {
        const float scale = a.scale[!a.post || r < s ? 0 : r < 2 * s ? 1 : 2];
        b.z[r] = fma(b.m[r] * b.inverse, splat(scale), splat(a.base[r]));
    }
}

inline void mix_forward(const dg_mix_args& a) {
    const int64_t s = a.num_streams, flat = s * a.size, rows = a.post ? s * (2 + s) : s;
    gemm(rows_of(a.streams, flat), rows_of(a.fn, flat).t(), a.mix, rows, a.tokens, rows, flat);
    parallel((a.tokens + LANES - 1) / LANES, a.tokens * flat * 4, [&](int64_t block) {
        const int64_t low = block * LANES, count = std::min<int64_t>(LANES, a.tokens - low);
        MixBlock b;
        open_block(a, low, count, b);
        alignas(64) float pre[SIDE * LANES];
        for (int64_t j = 0; j < s; j++) store(pre + j * LANES, sigmoid(b.z[j]) + splat(a.hc_eps));
        if (a.post) {
            for (int64_t j = 0; j < s; j++)
                store_some(a.post + j * a.tokens + low, 2.0f * sigmoid(b.z[s + j]), count);
            V* p = b.z + 2 * s;
            sinkhorn_lanes(p, s, a.iterations, a.hc_eps, nullptr);
            for (int64_t i = 0; i < s * s; i++) store_some(a.comb + i * a.tokens + low, p[i], count);
        }
        for (int64_t t = 0; t < count; t++) {
            const float* h = a.streams + (low + t) * flat;
            for (int64_t c = 0; c < a.size; c += LANES) {
                V u = zero();
                for (int64_t j = 0; j < s; j++)
                    u = fma(broadcast(pre[j * LANES + t]), load_some(h + j * a.size + c, a.size - c), u);
                store_some(a.x + (low + t) * a.size + c, u, a.size - c);
            }
        }
    });
}

// Gradients in z (kept in b.z) and in the gates of sixteen tokens.
inline void mix_block_back(const dg_mix_args& a, int64_t low, int64_t count, MixBlock& b, float* pre) {
    const int64_t s = a.num_streams, flat = s * a.size;
    alignas(64) float d_pre[SIDE * LANES] = {};
    for (int64_t t = 0; t < count; t++) {
        const float *h = a.streams + (low + t) * flat, *d_x = a.d_x + (low + t) * a.size;
        V dot[SIDE];
        for (int64_t j = 0; j < s; j++) dot[j] = zero();
        for (int64_t c = 0; c < a.size; c += LANES) {
            const V d = load_some(d_x + c, a.size - c);
            for (int64_t j = 0; j < s; j++)
                dot[j] = fma(d, load_some(h + j * a.size + c, a.size - c), dot[j]);
        }
        for (int64_t j = 0; j < s; j++) d_pre[j * LANES + t] = sum(dot[j]);
    }
    for (int64_t j = 0; j < s; j++) {
        const V gate = sigmoid(b.z[j]);
        store(pre + j * LANES, gate + splat(a.hc_eps));
        b.z[j] = load(d_pre + j * LANES) * gate * (1.0f - gate);
    }
    if (!a.post) return;
    for (int64_t j = 0; j < s; j++) {
        const V gate = sigmoid(b.z[s + j]);
        b.z[s + j] = 2.0f * load_some(a.d_post + j * a.tokens + low, count) * gate * (1.0f - gate);
    }
    V* history = scratch<V, 71>(2 * a.iterations * (s * s + s));
    V* z = b.z + 2 * s;
    sinkhorn_lanes(z, s, a.iterations, a.hc_eps, history);
    for (int64_t i = 0; i < s * s; i++) z[i] = load_some(a.d_comb + i * a.tokens + low, count);
    sinkhorn_lanes_back(z, s, a.iterations, history);
}

inline void mix_backward(const dg_mix_args& a) {
    const int64_t s = a.num_streams, flat = s * a.size, rows = a.post ? s * (2 + s) : s;
    const int64_t blocks = (a.tokens + LANES - 1) / LANES;
    float* d_mix = scratch<float, 72>(a.tokens * rows);
    float* part = scratch<float, 73>(blocks * 2 * rows);  // each block's share of d_base and d_scale
    float* coefficient = scratch<float, 74>(a.tokens);    // of the streams, through their RMS
    float* pre = scratch<float, 75>(blocks * SIDE * LANES);
    parallel(blocks, a.tokens * flat * 4, [&](int64_t block) {
        const int64_t low = block * LANES, count = std::min<int64_t>(LANES, a.tokens - low);
        MixBlock b;
        open_block(a, low, count, b);
        mix_block_back(a, low, count, b, pre + block * SIDE * LANES);
        V d_inverse = zero();
        for (int64_t r = 0; r < rows; r++) {
            const float scale = a.scale[!a.post || r < s ? 0 : r < 2 * s ? 1 : 2];
            alignas(64) float d[LANES];
            part[block * 2 * rows + r] = sum(b.z[r]);
            part[block * 2 * rows + rows + r] = sum(b.z[r] * b.m[r] * b.inverse);
            const V d_normed = b.z[r] * scale;
            d_inverse = fma(d_normed, b.m[r], d_inverse);
            store(d, d_normed * b.inverse);
            for (int64_t t = 0; t < count; t++) d_mix[(low + t) * rows + r] = d[t];
        }
        const V cube = b.inverse * b.inverse * b.inverse;
        store_some(coefficient + low, d_inverse * cube * (-1.0f / (float)flat), count);
    });
    for (int64_t r = 0; r < rows; r++) {
        float base = 0, scale = 0;
        for (int64_t block = 0; block < blocks; block++) {
            base += part[block * 2 * rows + r];
            scale += part[block * 2 * rows + rows + r];
        }
        a.d_base[r] = base;
        const int64_t at = !a.post || r < s ? 0 : r < 2 * s ? 1 : 2;
        a.d_scale[at] = (r == 0 || r == s || r == 2 * s) && (a.post || r == 0) ? scale
                                                                              : a.d_scale[at] + scale;
    }
    gemm(rows_of(d_mix, rows).t(), rows_of(a.streams, flat), a.d_fn, flat, rows, flat, a.tokens);
    gemm(rows_of(d_mix, rows), rows_of(a.fn, flat), a.d_streams, flat, a.tokens, flat, rows);
    parallel(a.tokens, a.tokens * flat * 2, [&](int64_t t) {
        const float *h = a.streams + t * flat, *d_x = a.d_x + t * a.size;
        const float* weight = pre + t / LANES * SIDE * LANES + t % LANES;
        const V own = broadcast(coefficient[t]);
        for (int64_t j = 0; j < s; j++)
            for (int64_t c = 0; c < a.size; c += LANES) {
                float* d = a.d_streams + t * flat + j * a.size + c;
                const int64_t left = a.size - c;
                V v = fma(broadcast(weight[j * LANES]), load_some(d_x + c, left), load_some(d, left));
                store_some(d, fma(own, load_some(h + j * a.size + c, left), v), left);
            }
    });
}

// FIXED: the number of streams where it is known and rows are whole vectors (loops are unrolled then,
// values stay in registers), else 0.
template <int FIXED> void spread_forward_of(const dg_spread_args& a) {
    const int64_t s = FIXED ? FIXED : a.num_streams, tokens = a.tokens, size = a.size;
    parallel(tokens, tokens * size * s * s, [&](int64_t t) {
        const float *h = a.streams + t * s * size, *y = a.y + t * size;
#pragma GCC unroll 16
        for (int64_t k = 0; k < s; k++) {
            V mix[FIXED ? FIXED : SIDE];
#pragma GCC unroll 16
            for (int64_t j = 0; j < s; j++) mix[j] = broadcast(a.comb[(j * s + k) * tokens + t]);
            const V post = broadcast(a.post[k * tokens + t]);
            for (int64_t c = 0; c < size; c += LANES) {
                V v = post * load_part<FIXED == 0>(y + c, size - c);
#pragma GCC unroll 16
                for (int64_t j = 0; j < s; j++) v = fma(mix[j], load_part<FIXED == 0>(h + j * size + c, size - c), v);
                store_part<FIXED == 0>(a.out + (t * s + k) * size + c, v, size - c);
            }
        }
    });
}

inline void spread_forward(const dg_spread_args& a) {
    a.num_streams == 4 && a.size % LANES == 0 ? spread_forward_of<4>(a) : spread_forward_of<0>(a);
}

template <int FIXED> void spread_backward_of(const dg_spread_args& a) {
    const int64_t s = FIXED ? FIXED : a.num_streams, tokens = a.tokens, size = a.size;
    parallel(tokens, tokens * size * s * s * 2, [&](int64_t t) {
        const float *h = a.streams + t * s * size, *y = a.y + t * size, *d = a.d_out + t * s * size;
        constexpr int64_t most = FIXED ? FIXED : SIDE;
        V d_post[most], d_comb[most * most], mix[most * most];
#pragma GCC unroll 16
        for (int64_t i = 0; i < s; i++) d_post[i] = zero();
#pragma GCC unroll 16
        for (int64_t i = 0; i < s * s; i++) {
            d_comb[i] = zero();
            mix[i] = broadcast(a.comb[i * tokens + t]);
        }
        for (int64_t c = 0; c < size; c += LANES) {
            V in[most], d_in[most], d_y = zero();
            const V out = load_part<FIXED == 0>(y + c, size - c);
#pragma GCC unroll 16
            for (int64_t j = 0; j < s; j++) {
                in[j] = load_part<FIXED == 0>(h + j * size + c, size - c);
                d_in[j] = zero();
            }
#pragma GCC unroll 16
            for (int64_t k = 0; k < s; k++) {
                const V g = load_part<FIXED == 0>(d + k * size + c, size - c);
                d_y = fma(broadcast(a.post[k * tokens + t]), g, d_y);
                d_post[k] = fma(g, out, d_post[k]);
#pragma GCC unroll 16
                for (int64_t j = 0; j < s; j++) {
                    d_in[j] = fma(mix[j * s + k], g, d_in[j]);
                    d_comb[j * s + k] = fma(g, in[j], d_comb[j * s + k]);
                }
            }
            store_part<FIXED == 0>(a.d_y + t * size + c, d_y, size - c);
#pragma GCC unroll 16
            for (int64_t j = 0; j < s; j++)
                store_part<FIXED == 0>(a.d_streams + (t * s + j) * size + c, d_in[j], size - c);
        }
#pragma GCC unroll 16
        for (int64_t k = 0; k < s; k++) a.d_post[k * tokens + t] = sum(d_post[k]);
#pragma GCC unroll 16
        for (int64_t i = 0; i < s * s; i++) a.d_comb[i * tokens + t] = sum(d_comb[i]);
    });
}

inline void spread_backward(const dg_spread_args& a) {
    a.num_streams == 4 && a.size % LANES == 0 ? spread_backward_of<4>(a) : spread_backward_of<0>(a);
}

}  // namespace DG_PATH
