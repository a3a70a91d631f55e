// mHC, and norms with RoPE.
#pragma once
#include "linear.h"

namespace DG_PATH {

constexpr int64_t MAX_STREAMS = 8;

// P nearly doubly stochastic: softmax over rows, a column step, then rows and columns in turn.
inline void sinkhorn(float* a, int64_t s, int64_t iterations, float eps) {
    for (int64_t j = 0; j < s; j++) {
        float top = a[j * s];
        for (int64_t k = 1; k < s; k++) top = std::max(top, a[j * s + k]);
        for (int64_t k = 0; k < s; k++) a[j * s + k] -= top;
    }
    for (int64_t i = 0; i < s * s; i += LANES) store(a + i, exp(load(a + i)));
    for (int64_t it = 0; it < iterations; it++) {
        for (int64_t j = 0; j < s; j++) {  // rows: a softmax at first, which adds eps at the end
            float sum = it ? eps : 0.0f;
            for (int64_t k = 0; k < s; k++) sum += a[j * s + k];
            for (int64_t k = 0; k < s; k++) a[j * s + k] = a[j * s + k] / sum + (it ? 0.0f : eps);
        }
        float sums[MAX_STREAMS];
        for (int64_t k = 0; k < s; k++) sums[k] = eps;
        for (int64_t j = 0; j < s; j++)
            for (int64_t k = 0; k < s; k++) sums[k] += a[j * s + k];
        for (int64_t j = 0; j < s; j++)
            for (int64_t k = 0; k < s; k++) a[j * s + k] /= sums[k];
    }
}

// pre, post and comb of one token from its mixing numbers; only pre for the head.
inline void weigh(const dg_mhc_args& a, int64_t t, const float* mix, float inverse_rms, float* pre) {
    const int64_t s = a.num_streams;
    const bool head = a.post == nullptr;
    alignas(64) float z[MAX_STREAMS * (2 + MAX_STREAMS) + LANES] = {};
    const int64_t rows = head ? s : s * (2 + s);
    for (int64_t i = 0; i < rows; i++) {
        const float scale = a.scale[head || i < s ? 0 : i < 2 * s ? 1 : 2];
        z[i] = mix[i] * inverse_rms * scale + a.base[i];
    }
    alignas(64) float gate[2 * MAX_STREAMS];
    store(gate, sigmoid(load(z)));
    for (int64_t j = 0; j < s; j++) pre[j] = gate[j] + a.hc_eps;
    if (head) return;
    for (int64_t j = 0; j < s; j++) a.post[j * a.tokens + t] = 2 * gate[s + j];
    alignas(64) float p[MAX_STREAMS * MAX_STREAMS + LANES] = {};
    std::copy(z + 2 * s, z + rows, p);
    sinkhorn(p, s, a.iterations, a.hc_eps);
    for (int64_t i = 0; i < s * s; i++) a.comb[i * a.tokens + t] = p[i];
}

template <class T> void mhc_mix_as(const dg_mhc_args& a) {
    const int64_t s = a.num_streams, flat = s * a.size, rows = a.post ? s * (2 + s) : s;
    const dg_matrix fn{a.fn, nullptr, rows, flat, DG_F32, 0};
    const T* streams = (const T*)a.streams;
    const Rows<float> x = pack<float, 1>(streams, a.tokens, flat, layout_for(fn, false));
    float* mix = scratch<float, 34>(a.tokens * rows);
    const Output y{mix, rows, false};
    const int64_t block = 2 * MR, blocks = (a.tokens + block - 1) / block;
    if (a.tokens <= MR) {
        product_parallel(fn, x, y, 0, rows);
    } else {
        parallel(blocks, a.tokens * rows * flat, [&](int64_t i) {
            const int64_t m = i * block;
            product(fn, x.from(m, std::min(block, a.tokens - m)), y.from(m), 0, rows);
        });
    }
    parallel(a.tokens, a.tokens * (flat + 10000), [&](int64_t t) {
        const T* h = streams + t * flat;
        V square = zero();
        for (int64_t i = 0; i < flat; i += LANES) {
            const V v = load_some(h + i, flat - i);
            square = fma(v, v, square);
        }
        float pre[MAX_STREAMS];
        weigh(a, t, mix + t * rows, 1.0f / sqrtf(sum(square) / (float)flat + a.norm_eps), pre);
        for (int64_t c = 0; c < a.size; c += LANES) {
            V u = zero();
            for (int64_t j = 0; j < s; j++)
                u = fma(splat(pre[j]), load_some(h + j * a.size + c, a.size - c), u);
            store_some((T*)a.x + t * a.size + c, u, a.size - c);
        }
    });
}
inline void mhc_mix(const dg_mhc_args& a) {
    if (a.dtype == DG_BFLOAT16) mhc_mix_as<bf16>(a);
    else mhc_mix_as<float>(a);
}

template <class T, class Y> void mhc_post_as(const dg_mhc_post_args& a) {
    const int64_t s = a.num_streams, tokens = a.tokens, size = a.size;
    parallel(tokens, tokens * size * s * s, [&](int64_t t) {
        const T* h = (const T*)a.streams + t * s * size;
        const Y* y = (const Y*)a.y + t * size;
        for (int64_t c = 0; c < size; c += LANES) {
            V in[MAX_STREAMS];
            const V out = load_some(y + c, size - c);
            for (int64_t j = 0; j < s; j++) in[j] = load_some(h + j * size + c, size - c);
            for (int64_t k = 0; k < s; k++) {
                V v = splat(a.post[k * tokens + t]) * out;
                for (int64_t j = 0; j < s; j++)
                    v = fma(splat(a.comb[(j * s + k) * tokens + t]), in[j], v);
                store_some((T*)a.out + (t * s + k) * size + c, v, size - c);
            }
        }
    });
}
inline void mhc_post(const dg_mhc_post_args& a) {
    const bool y16 = a.y_dtype == DG_BFLOAT16;
    if (a.dtype == DG_BFLOAT16) y16 ? mhc_post_as<bf16, bf16>(a) : mhc_post_as<bf16, float>(a);
    else y16 ? mhc_post_as<float, bf16>(a) : mhc_post_as<float, float>(a);
}

// Rounds a float row to what type T can hold.
template <class T> inline void settle(float* x, int64_t n) {
    if constexpr (sizeof(T) == 2) {
        bf16 half[LANES];
        for (int64_t i = 0; i < n; i += LANES) {
            store(half, load_some(x + i, n - i));
            store_some(x + i, load(half), n - i);
        }
    }
}
// Pairs (2i, 2i + 1) of the last channels times cos + i sin; the inverse takes the conjugate.
inline void rotate(float* x, const float* rotation, int64_t pairs, bool inverse) {
    for (int64_t i = 0; i < pairs; i++) {
        const float cosine = rotation[2 * i], sine = inverse ? -rotation[2 * i + 1] : rotation[2 * i + 1];
        const float re = x[2 * i], im = x[2 * i + 1];
        // said as fma: g++ 12 makes fmaddsub of the plain form, -ffp-contract=off or not
        x[2 * i] = __builtin_fmaf(-im, sine, re * cosine);
        x[2 * i + 1] = __builtin_fmaf(im, cosine, re * sine);
    }
}
// Sylvester's Hadamard transform, orthonormal; n is a power of two.
inline void hadamard(float* x, int64_t n) {
    for (int64_t half = 1; half < n; half *= 2)
        for (int64_t i = 0; i < n; i += 2 * half)
            for (int64_t j = i; j < i + half; j++) {
                const float a = x[j], b = x[j + half];
                x[j] = a + b;
                x[j + half] = a - b;
            }
    const float scale = (float)(1.0 / sqrt((double)n));
    for (int64_t i = 0; i < n; i++) x[i] *= scale;
}

// One row of floats: norm (eps < 0: none), RoPE by `rotation` (null: none), rounding as dg_norm_rope_args
// says, settled to type Y behind each step.
struct RowSteps {
    const float *weight, *rotation;
    int64_t pairs, rounding;
    float eps;
};
template <class Y> inline void finish_row(float* x, int64_t n, const RowSteps& s) {
    const int64_t rope = 2 * s.pairs;
    if (s.eps >= 0) {
        V square = zero();
        for (int64_t i = 0; i < n; i += LANES) {
            const V v = load_some(x + i, n - i);
            square = fma(v, v, square);
        }
        const float inverse = 1.0f / sqrtf(sum(square) / (float)n + s.eps);
        for (int64_t i = 0; i < n; i += LANES) {
            V v = load_some(x + i, n - i) * inverse;
            if (s.weight) v = v * load_some(s.weight + i, n - i);
            store_some(x + i, v, n - i);
        }
        settle<Y>(x, n);
    }
    if (s.rotation) {
        rotate(x + n - rope, s.rotation, s.pairs, false);
        settle<Y>(x + n - rope, rope);
    }
    if (s.rounding == 1) round_groups<false>(x, n - rope, CACHE_GROUP);
    if (s.rounding == 2) {
        hadamard(x, n);
        settle<Y>(x, n);
        round_groups<true>(x, n, INDEX_GROUP);
    }
}

template <class X, class Y> void norm_rope_as(const dg_norm_rope_args& a) {
    const int64_t n = a.size;
    parallel<KEEP>(a.rows, a.rows * n * 4, [&](int64_t r) {
        float* x = scratch<float, 35>(n);
        const X* from = (const X*)a.x + r * n;
        for (int64_t i = 0; i < n; i += LANES) store_some(x + i, load_some(from + i, n - i), n - i);
        const float* rotation = a.rotation ? a.rotation + r / a.rows_per_rotation * 2 * a.pairs : nullptr;
        finish_row<Y>(x, n, {a.weight, rotation, a.pairs, a.rounding, a.eps});
        Y* to = (Y*)a.y + r * n;
        for (int64_t i = 0; i < n; i += LANES) store_some(to + i, load_some(x + i, n - i), n - i);
    });
}
inline void norm_rope(const dg_norm_rope_args& a) {
    if (a.x_dtype == DG_BFLOAT16) norm_rope_as<bf16, bf16>(a);
    else norm_rope_as<float, float>(a);
}

inline void add(const dg_add_args& a) {
    for (int64_t i = 0; i < a.count; i += LANES) {
        const V sum = load_some(a.a + i, a.count - i) + load_some(a.b + i, a.count - i);
        if (a.y_dtype == DG_BFLOAT16) store_some((bf16*)a.y + i, sum, a.count - i);
        else store_some((float*)a.y + i, sum, a.count - i);
    }
}

inline void lookup(const dg_lookup_args& a) {
    for (int64_t t = 0; t < a.count; t++)
        std::copy(a.table + a.ids[t] * a.width, a.table + (a.ids[t] + 1) * a.width, a.out + t * a.width);
}

}  // namespace DG_PATH
