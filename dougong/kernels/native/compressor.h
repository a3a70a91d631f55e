// The compressor step: tokens to entries, pending tokens to their ring.
#pragma once
#include "entries.h"
#include "streams.h"

namespace DG_PATH {

// Where tokens of a span are: those of this pass in value and score, earlier ones in the ring.
struct Token {
    const float *value, *score, *bias;  // bias is still to be added to the score
};
inline Token token_at(const dg_compress_args& a, const dg_span& s, int64_t position, const float* zeros) {
    if (position >= s.start) {
        const int64_t at = (s.low + position - s.start) * a.width;
        return {a.value + at, a.score + at, a.ape + position % a.ratio * a.width};
    }
    const float* row = (const float*)ring_row(*a.ring, s, position);
    return {row, row + a.width, zeros};
}

// Softmax over the scores of a block's tokens, channel by channel; with overlap a token's first half
// counts in the block after its own.
inline void pool_block(const dg_compress_args& a, const dg_span& s, int64_t entry, float* out) {
    const int64_t half = a.overlap ? a.width / 2 : a.width, own = entry * a.ratio;
    const int64_t low = a.overlap && own > 0 ? own - a.ratio : own, count = own + a.ratio - low;
    Token* token = scratch<Token, 46>(2 * a.ratio);
    float* zeros = scratch<float, 47>(a.width);
    std::fill(zeros, zeros + a.width, 0.0f);
    for (int64_t j = 0; j < count; j++) {
        const int64_t shift = a.overlap && low + j >= own ? half : 0;
        const Token t = token_at(a, s, low + j, zeros);
        token[j] = {t.value + shift, t.score + shift, t.bias + shift};
    }
    for (int64_t c = 0; c < half; c += LANES) {
        const int64_t left = half - c;
        V top = splat(-INFINITY), total = zero(), mean = zero();
        for (int64_t j = 0; j < count; j++)
            top = max(top, load_some(token[j].score + c, left) + load_some(token[j].bias + c, left));
        for (int64_t j = 0; j < count; j++) {
            const V score = load_some(token[j].score + c, left) + load_some(token[j].bias + c, left);
            const V p = exp(score - top);
            total = total + p;
            mean = fma(p, load_some(token[j].value + c, left), mean);
        }
        store_some(out + c, mean / total, left);
    }
}

template <class Y> void compress_as(const dg_compress_args& a) {
    int64_t entries = 0;
    for (int64_t i = 0; i < a.num_spans; i++)
        entries += (a.spans[i].start + a.spans[i].tokens) / a.ratio - a.spans[i].start / a.ratio;
    const int32_t* of = spans_of_rows(a.spans, a.num_spans, a.tokens);
    int64_t* last_row = scratch<int64_t, 48>(entries);  // the token that completes an entry
    for (int64_t t = 0, e = 0; t < a.tokens; t++) {
        const dg_span& s = a.spans[of[t]];
        if ((s.start + t - s.low + 1) % a.ratio == 0) last_row[e++] = t;
    }
    const int64_t size = a.overlap ? a.width / 2 : a.width;
    parallel<KEEP>(entries, entries * a.ratio * a.width * 16, [&](int64_t e) {
        const dg_span& s = a.spans[of[last_row[e]]];
        const int64_t end = s.start + last_row[e] - s.low + 1;
        if (end <= s.frozen) return;
        float* x = scratch<float, 35>(size);
        pool_block(a, s, end / a.ratio - 1, x);
        settle<Y>(x, size);  // cast before the norm
        finish_row<Y>(x, size, {a.weight, a.rotation + e * 2 * a.pairs, a.pairs, a.rounding, a.eps});
        write_row(*a.entries, x, Blocks(*a.entries, s).at(end / a.ratio - 1));
    });
    if (!a.ring) return;
    parallel<KEEP>(a.tokens, a.tokens * a.width * 4, [&](int64_t t) {
        const dg_span& s = a.spans[of[t]];
        const int64_t i = t - s.low, position = s.start + i;
        if (i < s.tokens - a.ring->count) return;  // a later token takes its slot
        float* row = (float*)ring_row(*a.ring, s, position);
        const Token token = token_at(a, s, position, nullptr);
        memcpy(row, token.value, a.width * sizeof(float));
        for (int64_t c = 0; c < a.width; c += LANES) {
            const int64_t left = a.width - c;
            store_some(row + a.width + c, load_some(token.score + c, left) + load_some(token.bias + c, left), left);
        }
    });
}
inline void compress(const dg_compress_args& a) {
    if (a.dtype == DG_BFLOAT16) compress_as<bf16>(a);
    else compress_as<float>(a);
}

}  // namespace DG_PATH
