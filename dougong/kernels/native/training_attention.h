// Attention of packed samples with gradients: window, compressed entries and sink in one softmax.
//
// A block of queries, all heads, meets its window and its entries in plain products; what a query may
// not see is left out of its softmax. A sample is one unit of work, so no two threads add to one row.
#pragma once
#include "streams.h"
#include "gemm16.h"

namespace DG_PATH {

constexpr int64_t QUERIES = 32;

// A block of queries of one sample: what it can reach, and its probabilities [queries, heads, keys].
struct QueryBlock {
    int64_t sample, first_row, first_entry;  // the sample's first token and entry
    int64_t low, count;                      // positions low .. low + count - 1
    int64_t oldest, recent, entries, keys;   // window keys from position `oldest`; entries; both
    float* p;
};

inline QueryBlock open_queries(const dg_pack_attention_args& a, int64_t first_row, int64_t first_entry,
                               int64_t low, int64_t length) {
    QueryBlock b{};
    b.first_row = first_row, b.first_entry = first_entry, b.low = low;
    b.count = std::min(QUERIES, length - low);
    b.oldest = std::max<int64_t>(low - a.window + 1, 0);
    b.recent = low + b.count - b.oldest;
    b.entries = a.entries ? (low + b.count) / a.ratio : 0;
    b.keys = b.recent + b.entries;
    b.p = scratch<float, 90>(b.count * a.heads * b.keys);
    return b;
}

// Which keys query i of the block sees: from, to (window), and the first `visible` entries, of which
// those with `chosen` 0 are left out if anything was selected.
struct Sight {
    int64_t from, to, visible;
    const float* chosen;
};
inline Sight sight_of(const dg_pack_attention_args& a, const QueryBlock& b, int64_t i, float* chosen) {
    const int64_t position = b.low + i;
    Sight s{std::max<int64_t>(position - a.window + 1, 0) - b.oldest, position - b.oldest + 1,
            a.entries ? (position + 1) / a.ratio : 0, nullptr};
    if (!a.selected || !s.visible) return s;
    std::fill(chosen, chosen + s.visible, 0.0f);
    const int64_t* picked = a.selected + (b.first_row + position) * a.num_selected;
    for (int64_t k = 0; k < a.num_selected; k++)
        if (picked[k] >= 0 && picked[k] < s.visible) chosen[picked[k]] = 1.0f;
    s.chosen = chosen;
    return s;
}

DG_INLINE V first_lanes(V v, int64_t n, float other) {
    if (n >= LANES) return v;
    for (int64_t i = std::max<int64_t>(n, 0); i < LANES; i++) v[i] = other;
    return v;
}
inline float largest_of(const float* x, int64_t n, float top) {
    V most = splat(top);
    for (int64_t i = 0; i < n; i += LANES) most = max(most, first_lanes(load_some(x + i, n - i), n - i, top));
    return largest(most);
}
// x = e^(x * scale - shift), times `chosen` where given; returns the sum.
inline float exponentials(float* x, int64_t n, float scale, float shift, const float* chosen) {
    V total = zero();
    for (int64_t i = 0; i < n; i += LANES) {
        V p = exp(fma(load_some(x + i, n - i), splat(scale), splat(-shift)));
        if (chosen) p = p * load_some(chosen + i, n - i);
        p = first_lanes(p, n - i, 0.0f);
        store_some(x + i, p, n - i);
        total = total + p;
    }
    return sum(total);
}

// Scores of all keys, then for each query and head e^(score - shift): in the forward pass normalized
// by their sum (whose logarithm is kept), in the backward pass by the logarithm kept before.
inline void probabilities(const dg_pack_attention_args& a, const QueryBlock& b, bool again) {
    const int64_t rows = b.count * a.heads, c = a.size, row0 = b.first_row + b.low;
    const Operand q = rows_of(a.q + row0 * a.heads * c, c);
    fast_gemm(q, rows_of(a.kv + (b.first_row + b.oldest) * c, c).t(), b.p, b.keys, rows, b.recent, c);
    if (b.entries)
        fast_gemm(q, rows_of(a.entries + b.first_entry * c, c).t(), b.p + b.recent, b.keys, rows, b.entries, c);
    const float scale = (float)(1.0 / sqrt((double)c));
    float* chosen = scratch<float, 91>(b.entries);
    for (int64_t i = 0; i < b.count; i++) {
        const Sight s = sight_of(a, b, i, chosen);
        for (int64_t h = 0; h < a.heads; h++) {
            float* p = b.p + (i * a.heads + h) * b.keys;
            float *window = p + s.from, *entries = p + b.recent;
            float& log_sum = a.log_sum[(row0 + i) * a.heads + h];
            float shift = log_sum;
            if (!again) {
                shift = largest_of(window, s.to - s.from, a.sink[h] / scale);
                shift = largest_of(entries, s.visible, shift) * scale;
            }
            float total = exponentials(window, s.to - s.from, scale, shift, nullptr);
            total += exponentials(entries, s.visible, scale, shift, s.chosen);
            std::fill(p, window, 0.0f);
            std::fill(p + s.to, entries, 0.0f);
            std::fill(entries + s.visible, p + b.keys, 0.0f);
            if (again) continue;
            total += expf(a.sink[h] - shift);
            log_sum = shift + logf(total);
            const V inverse = splat(1.0f / total);
            for (int64_t k = 0; k < b.keys; k += LANES)
                store_some(p + k, load_some(p + k, b.keys - k) * inverse, b.keys - k);
        }
    }
}

// body(block) for every block of queries; samples run side by side.
template <class F> void each_block(const dg_pack_attention_args& a, F body) {
    int64_t* row = scratch<int64_t, 92>(2 * (a.samples + 1));
    int64_t* entry = row + a.samples + 1;
    row[0] = entry[0] = 0;
    for (int64_t i = 0; i < a.samples; i++) {
        row[i + 1] = row[i] + a.lengths[i];
        entry[i + 1] = entry[i] + (a.entries ? a.lengths[i] / a.ratio : 0);
    }
    parallel(a.samples, row[a.samples] * a.heads * a.size * a.window, [&](int64_t i) {
        for (int64_t low = 0; low < a.lengths[i]; low += QUERIES) {
            QueryBlock b = open_queries(a, row[i], entry[i], low, a.lengths[i]);
            b.sample = i;
            body(b);
        }
    });
}

inline void attend_forward(const dg_pack_attention_args& a) {
    const int64_t c = a.size;
    each_block(a, [&](const QueryBlock& b) {
        const int64_t rows = b.count * a.heads, row0 = b.first_row + b.low;
        float* out = a.out + row0 * a.heads * c;
        probabilities(a, b, false);
        fast_gemm(rows_of(b.p, b.keys), rows_of(a.kv + (b.first_row + b.oldest) * c, c), out, c, rows, c, b.recent);
        if (b.entries)
            fast_gemm(rows_of(b.p + b.recent, b.keys), rows_of(a.entries + b.first_entry * c, c), out, c, rows, c,
                 b.entries, true);
        for (int64_t i = 0; i < rows; i++)
            rotate(out + i * c + c - 2 * a.pairs, a.rotation + (row0 + i / a.heads) * 2 * a.pairs, a.pairs,
                   true);
    });
}

// d_p becomes the gradient in the scores: p (d_p - sum p d_p), scaled; the sink's share is kept.
inline void softmax_back(const dg_pack_attention_args& a, const QueryBlock& b, float* d_p, float* d_sink) {
    const float scale = (float)(1.0 / sqrt((double)a.size));
    for (int64_t i = 0; i < b.count * a.heads; i++) {
        const float* p = b.p + i * b.keys;
        float* d = d_p + i * b.keys;
        V dot = zero();
        for (int64_t k = 0; k < b.keys; k += LANES)
            dot = fma(load_some(p + k, b.keys - k), load_some(d + k, b.keys - k), dot);
        const int64_t h = i % a.heads;
        const float mean = sum(dot), log_sum = a.log_sum[(b.first_row + b.low) * a.heads + i];
        d_sink[h] -= expf(a.sink[h] - log_sum) * mean;
        for (int64_t k = 0; k < b.keys; k += LANES) {
            const V slope = load_some(d + k, b.keys - k) - splat(mean);
            store_some(d + k, load_some(p + k, b.keys - k) * slope * scale, b.keys - k);
        }
    }
}

inline void attend_backward(const dg_pack_attention_args& a) {
    const int64_t c = a.size;
    float* sinks = scratch<float, 93>(a.samples * a.heads);
    std::fill(sinks, sinks + a.samples * a.heads, 0.0f);
    each_block(a, [&](const QueryBlock& b) {
        const int64_t rows = b.count * a.heads, row0 = b.first_row + b.low, kv0 = (b.first_row + b.oldest) * c;
        const int64_t entry0 = b.first_entry * c;
        probabilities(a, b, true);
        float* d_out = scratch<float, 94>(rows * c);
        float* d_p = scratch<float, 95>(rows * b.keys);
        std::copy(a.d_out + row0 * a.heads * c, a.d_out + (row0 + b.count) * a.heads * c, d_out);
        for (int64_t i = 0; i < rows; i++)
            rotate(d_out + i * c + c - 2 * a.pairs, a.rotation + (row0 + i / a.heads) * 2 * a.pairs, a.pairs,
                   false);
        const Operand d = rows_of(d_out, c), q = rows_of(a.q + row0 * a.heads * c, c);
        const Operand p = rows_of(b.p, b.keys), d_s = rows_of(d_p, b.keys);
        float* d_q = a.d_q + row0 * a.heads * c;
        fast_gemm(d, rows_of(a.kv + kv0, c).t(), d_p, b.keys, rows, b.recent, c);
        if (b.entries) fast_gemm(d, rows_of(a.entries + entry0, c).t(), d_p + b.recent, b.keys, rows, b.entries, c);
        softmax_back(a, b, d_p, sinks + b.sample * a.heads);
        fast_gemm(d_s, rows_of(a.kv + kv0, c), d_q, c, rows, c, b.recent);
        fast_gemm(p.t(), d, a.d_kv + kv0, c, b.recent, c, rows, true);
        fast_gemm(d_s.t(), q, a.d_kv + kv0, c, b.recent, c, rows, true);
        if (!b.entries) return;
        fast_gemm(d_s.at(0, b.recent), rows_of(a.entries + entry0, c), d_q, c, rows, c, b.entries, true);
        fast_gemm(p.at(0, b.recent).t(), d, a.d_entries + entry0, c, b.entries, c, rows, true);
        fast_gemm(d_s.at(0, b.recent).t(), q, a.d_entries + entry0, c, b.entries, c, rows, true);
    });
    for (int64_t h = 0; h < a.heads; h++) {
        float total = 0;
        for (int64_t i = 0; i < a.samples; i++) total += sinks[i * a.heads + h];
        a.d_sink[h] = total;
    }
}

}  // namespace DG_PATH
