// The indexer's loss with its gradients: KL of the attention over entries to the softmax of scores.
#pragma once
#include "training_attention.h"

namespace DG_PATH {

// What a block of queries works on: products [queries, J, M] and scores [queries, M].
struct IndexBlock {
    const float *q, *weight, *keys;
    float *products, *scores;
};

// scores[i, m] = sum_j weight[i, j] relu(product[i, j, m])
inline void block_scores(const dg_alignment_args& a, const QueryBlock& b, const IndexBlock& x) {
    gemm(rows_of(x.q, a.index_size), rows_of(x.keys, a.index_size).t(), x.products, b.entries,
         b.count * a.index_heads, b.entries, a.index_size);
    for (int64_t i = 0; i < b.count; i++)
        for (int64_t m = 0; m < b.entries; m += LANES) {
            const int64_t left = b.entries - m;
            V total = zero();
            for (int64_t j = 0; j < a.index_heads; j++) {
                const int64_t row = i * a.index_heads + j;
                const V product = load_some(x.products + row * b.entries + m, left);
                total = fma(broadcast(x.weight[row]), max(product, zero()), total);
            }
            store_some(x.scores + i * b.entries + m, total, left);
        }
}

// The best `top_k` of the first `visible` scores, the lowest index of equals: written, -1 behind them.
inline void choose(const float* scores, int64_t visible, int64_t top_k, int64_t* selected) {
    const int64_t count = std::min(visible, top_k);
    int64_t* order = scratch<int64_t, 110>(visible);
    for (int64_t m = 0; m < visible; m++) order[m] = m;
    if (visible > top_k)
        std::nth_element(order, order + top_k, order + visible, [&](int64_t p, int64_t q) {
            return scores[p] > scores[q] || (scores[p] == scores[q] && p < q);
        });
    std::copy(order, order + count, selected);
    std::fill(selected + count, selected + top_k, -1);
}

// One query's divergence; its scores become their gradient. `target` sums over heads, then to 1;
// `chosen` (null: all) names the entries that count.
inline double query_divergence(float* scores, float* target, const float* chosen, int64_t n, float share) {
    float top = -INFINITY, total = 0, all = 0;
    for (int64_t m = 0; m < n; m++) {
        if (chosen && chosen[m] == 0.0f) continue;
        top = std::max(top, scores[m]);
        total += target[m];
    }
    const float inverse = 1.0f / std::max(total, 1e-30f);
    float* p = scratch<float, 111>(n + LANES);
    std::copy(scores, scores + n, p);
    all = exponentials(p, n, 1.0f, top, chosen);
    const double log_all = log((double)all) + top;
    const float scale = total * inverse / all;
    double loss = 0;
    for (int64_t m = 0; m < n; m++) {
        const bool counts = !chosen || chosen[m] != 0.0f;
        const float t = counts ? target[m] * inverse : 0.0f;
        if (t > 0) loss += t * (log((double)t) - (scores[m] - log_all));
        scores[m] = counts ? share * (p[m] * scale - t) : 0.0f;
    }
    return loss;
}

// Gradients of one block from those in its scores.
inline void block_back(const dg_alignment_args& a, const QueryBlock& b, const IndexBlock& x, int64_t row0,
                       float* d_keys) {
    const int64_t heads = a.index_heads, size = a.index_size;
    for (int64_t i = 0; i < b.count; i++)
        for (int64_t j = 0; j < heads; j++) {
            const int64_t row = i * heads + j;
            float* product = x.products + row * b.entries;
            const V weight = broadcast(x.weight[row]);
            V d_weight = zero();
            for (int64_t m = 0; m < b.entries; m += LANES) {
                const int64_t left = b.entries - m;
                const V v = load_some(product + m, left), d = load_some(x.scores + i * b.entries + m, left);
                d_weight = fma(d, max(v, zero()), d_weight);
                store_some(product + m, v > zero() ? d * weight : zero(), left);
            }
            a.d_weight[row0 * heads + row] = sum(d_weight);
        }
    const Operand d = rows_of(x.products, b.entries);
    gemm(d, rows_of(x.keys, size), a.d_index_q + row0 * heads * size, size, b.count * heads, size, b.entries);
    gemm(d.t(), rows_of(x.q, size), d_keys, size, b.entries, size, b.count * heads, true);
}

inline void alignment(const dg_alignment_args& a) {
    const dg_pack_attention_args& main = *a.attention;
    double* losses = scratch<double, 112>(main.samples);
    int64_t used = 0;
    for (int64_t i = 0; i < main.samples; i++) {
        losses[i] = 0;
        used += main.lengths[i] >= a.shortest;
    }
    each_block(main, [&](QueryBlock& b) {
        const int64_t row0 = b.first_row + b.low, heads = a.index_heads, length = main.lengths[b.sample];
        const int64_t first = main.ratio - 1;  // the first position that sees an entry
        if (length < a.shortest || !b.entries) return;
        const int64_t entry0 = b.first_entry * a.index_size;
        const IndexBlock x{a.index_q + row0 * heads * a.index_size, a.weight + row0 * heads, a.keys + entry0,
                           scratch<float, 113>(b.count * heads * b.entries),
                           scratch<float, 114>(b.count * b.entries)};
        block_scores(a, b, x);
        dg_pack_attention_args own = main;
        if (a.top_k && length / main.ratio > a.top_k) {
            int64_t* selected = scratch<int64_t, 115>(b.count * a.top_k);
            for (int64_t i = 0; i < b.count; i++)
                choose(x.scores + i * b.entries, (b.low + i + 1) / main.ratio, a.top_k, selected + i * a.top_k);
            own.selected = selected - row0 * a.top_k;  // as if it held every token's
            own.num_selected = a.top_k;
        }
        probabilities(own, b, false);
        const float share = 1.0f / ((float)(length - first) * (float)used);
        float *target = scratch<float, 116>(b.entries), *chosen = scratch<float, 117>(b.entries + LANES);
        for (int64_t i = 0; i < b.count; i++) {
            const Sight s = sight_of(own, b, i, chosen);
            float* scores = x.scores + i * b.entries;
            std::fill(target, target + b.entries, 0.0f);
            for (int64_t h = 0; h < main.heads; h++) {
                const float* p = b.p + (i * main.heads + h) * b.keys + b.recent;
                for (int64_t m = 0; m < s.visible; m++) target[m] += p[m];
            }
            std::fill(scores + s.visible, scores + b.entries, 0.0f);
            if (s.visible) losses[b.sample] += query_divergence(scores, target, s.chosen, s.visible, share);
        }
        block_back(a, b, x, row0, a.d_keys + entry0);
    });
    double total = 0;
    for (int64_t i = 0; i < main.samples; i++)
        if (main.lengths[i] >= a.shortest && main.lengths[i] >= main.ratio)
            total += losses[i] / (double)(main.lengths[i] - main.ratio + 1);
    *a.loss = used ? (float)(total / (double)used) : 0.0f;
}

}  // namespace DG_PATH
