// Operators made of products: linear, grouped projection, experts, router.
#pragma once
#include "rows.h"

namespace DG_PATH {

// Columns low .. high - 1 of y, split over threads; rows in blocks, so that x stays in cache while
// the panels of w go by. Both cuts leave every element's order alone.
template <class T>
void product_parallel(const dg_matrix& w, const Rows<T>& x, const Output& y, int64_t low, int64_t high) {
    const int64_t columns = high - low, threads = dg_threads();
    const int64_t parts = std::min<int64_t>(threads, (columns + 15) / 16);
    const int64_t cuts = std::max<int64_t>(1, (x.count + 575) / 576);
    const int64_t block = ((x.count + cuts - 1) / cuts + MR - 1) / MR * MR;
    for (int64_t m = 0; m < x.count; m += block) {
        const int64_t rows = std::min(block, x.count - m);
        parallel(parts, columns * x.width * rows, [&](int64_t i) {
            const Range r = part(columns, parts, i, 16);
            if (r.low < r.high) product(w, x.from(m, rows), y.from(m), low + r.low, low + r.high);
        });
    }
}
template <class T> void linear_as(const dg_linear_args& a) {
    const dg_matrix& w = *a.weight;
    const int64_t size = a.x_dtype == DG_BFLOAT16 ? 2 : 4, rows = w.rows / a.groups;
    const Output y{a.y, w.rows, a.y_dtype == DG_BFLOAT16};
    for (int64_t g = 0; g < a.groups; g++) {
        const char* x = (const char*)a.x + g * w.columns * size;
        const Rows<T> tiles =
            pack<T, 1>(x, a.x_dtype, a.tokens, w.columns * a.groups, layout_for(w, a.rounded));
        product_parallel(w, tiles, y, g * rows, (g + 1) * rows);
    }
}
inline void linear(const dg_linear_args& a) {
    if (a.tokens == 0) return;
    if (in_bf16(*a.weight, a.x_dtype, a.rounded)) linear_as<bf16>(a);
    else linear_as<float>(a);
}

// silu(min(g, limit)) * clamp(u, -limit, limit)
DG_INLINE V swiglu(V g, V u, float limit) {
    if (limit > 0) {
        g = min(g, splat(limit));
        u = max(min(u, splat(limit)), splat(-limit));
    }
    return g * sigmoid(g) * u;
}

struct Grouping {  // slots sorted by expert, stably
    int64_t *slot, *first, *active, num_active;
};
inline Grouping group_slots(const dg_experts_args& a, int64_t slots) {
    Grouping s{scratch<int64_t, 20>(slots), scratch<int64_t, 21>(a.num_experts + 1),
               scratch<int64_t, 22>(a.num_experts), 0};
    std::fill(s.first, s.first + a.num_experts + 1, 0);
    for (int64_t i = 0; i < slots; i++) s.first[(a.experts ? a.experts[i] : 0) + 1]++;
    for (int64_t e = 0; e < a.num_experts; e++) {
        if (s.first[e + 1]) s.active[s.num_active++] = e;
        s.first[e + 1] += s.first[e];
    }
    int64_t* next = scratch<int64_t, 23>(a.num_experts);
    std::copy(s.first, s.first + a.num_experts, next);
    for (int64_t i = 0; i < slots; i++) s.slot[next[a.experts ? a.experts[i] : 0]++] = i;
    return s;
}

// Cuts (expert, columns) into tasks, at least four a thread where the matrices are large enough.
template <class F> void over_experts(const Grouping& s, int64_t columns, int64_t work, F body) {
    const int64_t wanted = (4 * dg_threads() + s.num_active - 1) / std::max<int64_t>(s.num_active, 1);
    const int64_t parts = std::max<int64_t>(std::min<int64_t>(wanted, columns / 64), (columns + 511) / 512);
    parallel(s.num_active * parts, work, [&](int64_t i) {
        const int64_t e = s.active[i / parts];
        const Range r = part(columns, parts, i % parts, 16);
        if (r.low < r.high) body(e, r);
    });
}

// Rows of x by expert, as the tiles of its products: expert e's begin at row s.first[e].
template <class T, int slot, class F>
Rows<T> pack_by_expert(const Grouping& s, int64_t slots, const Layout& layout, F source) {
    const int64_t width = padded(layout.columns);
    T* out = scratch<T, slot>(slots * width);
    int64_t *at = scratch<int64_t, 24>(slots), *rows = scratch<int64_t, 25>(slots), tiles = 0;
    for (int64_t i = 0; i < s.num_active; i++) {
        const int64_t end = s.first[s.active[i] + 1];
        for (int64_t m = s.first[s.active[i]]; m < end; m += MR, tiles++) {
            at[tiles] = m;
            rows[tiles] = std::min<int64_t>(MR, end - m);
        }
    }
    parallel(tiles, slots * width, [&](int64_t i) {
        pack_tile(source, at[i], (int)rows[i], layout, out + at[i] * width);
    });
    return {out, slots, width};
}

// Gate, up and activation of one expert's columns r for its rows: hidden[row, r].
template <class T, class X>
void expert_hidden(const dg_experts_args& a, const Grouping& s, int64_t e, Range r, const Rows<T>& x,
                   X* hidden) {
    constexpr int64_t BLOCK = 16 * MR;  // rows at a time: gate and up stay in cache
    const int64_t columns = r.high - r.low, stride = (columns + 15) / 16 * 16, inner = a.w1[0].rows;
    float* gate = scratch<float, 32>(BLOCK * stride);
    float* up = scratch<float, 33>(BLOCK * stride);
    for (int64_t row = s.first[e]; row < s.first[e + 1]; row += BLOCK) {
        const int64_t rows = std::min(BLOCK, s.first[e + 1] - row);
        product(a.w1[e], x.from(row, rows), Output{gate - r.low, stride, false}, r.low, r.high);
        product(a.w3[e], x.from(row, rows), Output{up - r.low, stride, false}, r.low, r.high);
        for (int64_t i = 0; i < rows; i++) {
            const float weight = a.weights ? a.weights[s.slot[row + i]] : 1.0f;
            for (int64_t c = 0; c < columns; c += LANES) {
                const int64_t left = columns - c;
                const V g = load_some(gate + i * stride + c, left);
                const V h = swiglu(g, load_some(up + i * stride + c, left), a.limit) * weight;
                store_some(hidden + (row + i) * inner + r.low + c, h, left);
            }
        }
    }
}

template <class T, class X> void experts_as(const dg_experts_args& a) {
    const int64_t size = a.w1[0].columns, inner = a.w1[0].rows, slots = a.tokens * a.top_k;
    const Grouping s = group_slots(a, slots);
    X* hidden = scratch<X, 27>(slots * inner);
    const X* from = (const X*)a.x;
    const Rows<T> x = pack_by_expert<T, 26>(s, slots, layout_for(a.w1[0], a.rounded), [&](int64_t i) {
        return from + s.slot[i] / a.top_k * size;
    });
    over_experts(s, inner, 2 * slots * size * inner, [&](int64_t e, Range r) {
        expert_hidden<T, X>(a, s, e, r, x, hidden);
    });
    const Rows<T> h = pack_by_expert<T, 28>(s, slots, layout_for(a.w2[0], a.rounded),
                                            [&](int64_t i) { return hidden + i * inner; });
    const bool direct = a.top_k == 1 && (!a.experts || a.tokens == 1);
    float* y = direct ? a.y : scratch<float, 29>(slots * size);
    over_experts(s, size, slots * size * inner, [&](int64_t e, Range r) {
        const int64_t row = s.first[e];
        product(a.w2[e], h.from(row, s.first[e + 1] - row), Output{y + row * size, size, false}, r.low,
                r.high);
    });
    if (direct) return;
    int64_t* place = scratch<int64_t, 30>(slots);
    for (int64_t i = 0; i < slots; i++) place[s.slot[i]] = i;
    parallel(a.tokens, slots * size, [&](int64_t t) {
        for (int64_t c = 0; c < size; c += LANES) {
            V total = load_some(y + place[t * a.top_k] * size + c, size - c);
            for (int64_t k = 1; k < a.top_k; k++)
                total = total + load_some(y + place[t * a.top_k + k] * size + c, size - c);
            store_some(a.y + t * size + c, total, size - c);
        }
    });
}
inline void experts(const dg_experts_args& a) {
    if (a.tokens == 0) return;
    const bool bf16_rows = in_bf16(a.w1[0], a.x_dtype, a.rounded);
    if (a.x_dtype == DG_BFLOAT16) bf16_rows ? experts_as<bf16, bf16>(a) : experts_as<float, bf16>(a);
    else bf16_rows ? experts_as<bf16, float>(a) : experts_as<float, float>(a);
}

// The k best of n values by repeated search: of equals the lowest index.
inline void best_of(const float* score, int64_t n, int64_t k, int64_t* chosen, bool* taken) {
    std::fill(taken, taken + n, false);
    for (int64_t j = 0; j < k; j++) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++)
            if (!taken[i] && (best < 0 || score[i] > score[best])) best = i;
        chosen[j] = best;
        taken[best] = true;
    }
}
template <class T> void router_as(const dg_router_args& a) {
    const int64_t n = a.weight->rows, columns = a.weight->columns;
    float* logits = scratch<float, 31>(a.tokens * n);
    const Rows<T> x = pack<T, 1>(a.x, a.x_dtype, a.tokens, columns, layout_for(*a.weight, false));
    product_parallel(*a.weight, x, Output{logits, n, false}, 0, n);
    parallel(a.tokens, a.tokens * n * 100, [&](int64_t t) {
        float *s = logits + t * n, *biased = scratch<float, 35>(n), sum = 0;
        for (int64_t i = 0; i < n; i++) {
            const double z = s[i];
            s[i] = (float)sqrt(z > 20 ? z : log1p(::exp(z)));
            biased[i] = a.bias ? s[i] + a.bias[i] : s[i];
        }
        int64_t* chosen = a.experts + t * a.top_k;
        if (a.hashed) std::copy(a.hashed + t * a.top_k, a.hashed + (t + 1) * a.top_k, chosen);
        else best_of(biased, n, a.top_k, chosen, scratch<bool, 36>(n));
        for (int64_t k = 0; k < a.top_k; k++) sum += s[chosen[k]];
        for (int64_t k = 0; k < a.top_k; k++)
            a.weights[t * a.top_k + k] = s[chosen[k]] / sum * a.route_scale;
    });
}
inline void router(const dg_router_args& a) {
    if (in_bf16(*a.weight, a.x_dtype, 0)) router_as<bf16>(a);
    else router_as<float>(a);
}

}  // namespace DG_PATH
