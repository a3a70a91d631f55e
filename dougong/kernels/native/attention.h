// Attention over shared key-values: window, compressed entries and sink in one softmax.
//
// A query's keys come in one order, window first, then entries by index, whatever the chunk it
// arrived in; every sum runs along that order.
#pragma once
#include "entries.h"
#include "streams.h"

namespace DG_PATH {

constexpr int HEADS = 4, KEYS = 4;  // heads and keys that share their loads

DG_INLINE V multiply_add_some(V acc, const float* x, const float* w, int64_t n) {
    return fma(load_some(x, n), load_some(w, n), acc);
}
DG_INLINE V multiply_add_some(V acc, const bf16* x, const bf16* w, int64_t n) {
    bf16 a[32] = {}, b[32] = {};
    std::copy(x, x + n, a);
    std::copy(w, w + n, b);
    return multiply_add(acc, a, b);
}

// logits[h][i] = q[h] . key[i] * scale for four heads and four keys.
template <class T>
inline void score_keys(const T* const* q, const T* const* key, int64_t size, float scale,
                       float* logits, int64_t stride) {
    V acc[HEADS][KEYS] = {};
    int64_t c = 0;
    const T *k0 = key[0], *k1 = key[1], *k2 = key[2], *k3 = key[3];
    for (; c + STEP<T> <= size; c += STEP<T>) {
#pragma GCC unroll 4
        for (int h = 0; h < HEADS; h++) {
            acc[h][0] = multiply_add(acc[h][0], q[h] + c, k0 + c);
            acc[h][1] = multiply_add(acc[h][1], q[h] + c, k1 + c);
            acc[h][2] = multiply_add(acc[h][2], q[h] + c, k2 + c);
            acc[h][3] = multiply_add(acc[h][3], q[h] + c, k3 + c);
        }
    }
    if (c < size)
        for (int h = 0; h < HEADS; h++)
            for (int i = 0; i < KEYS; i++)
                acc[h][i] = multiply_add_some(acc[h][i], q[h] + c, key[i] + c, size - c);
#pragma GCC unroll 4
    for (int h = 0; h < HEADS; h++) {
        float sums[KEYS];
        sum4(acc[h], sums);
        for (int i = 0; i < KEYS; i++) logits[h * stride + i] = sums[i] * scale;
    }
}

// Softmax with the sink in the denominator; in bf16 the probabilities are rounded as the release's.
template <class T> inline void softmax(float* p, int64_t count, int64_t room, float sink) {
    V top = splat(sink), total = zero();
    for (int64_t i = count; i < room; i++) p[i] = -INFINITY;
    for (int64_t i = 0; i < room; i += LANES) top = max(load(p + i), top);
    const float peak = largest(top);
    for (int64_t i = 0; i < room; i += LANES) {
        const V e = exp(load(p + i) - peak);
        total = total + e;
        store(p + i, e);
    }
    alignas(64) float extra[LANES] = {sink - peak};
    store(extra, exp(load(extra)));
    const float inverse = 1.0f / (sum(total) + extra[0]);
    for (int64_t i = 0; i < room; i += LANES) store(p + i, load(p + i) * inverse);
    settle<T>(p, room);
}

// out[h][c ..] += sum over keys of p[h][key] * key[c ..], up to 64 channels at a time.
template <class T>
inline void mix_values(const float* p, int64_t stride, const T* const* key, int64_t count,
                       int64_t size, float* out, int64_t out_stride) {
    int64_t c = 0;
    for (; c + 4 * LANES <= size; c += 4 * LANES) {
        V acc[HEADS][4] = {};
        for (int64_t i = 0; i < count; i++) {
            const V v0 = load(key[i] + c), v1 = load(key[i] + c + 16);
            const V v2 = load(key[i] + c + 32), v3 = load(key[i] + c + 48);
#pragma GCC unroll 4
            for (int h = 0; h < HEADS; h++) {
                const V w = splat(p[h * stride + i]);
                acc[h][0] = fma(w, v0, acc[h][0]);
                acc[h][1] = fma(w, v1, acc[h][1]);
                acc[h][2] = fma(w, v2, acc[h][2]);
                acc[h][3] = fma(w, v3, acc[h][3]);
            }
        }
        for (int h = 0; h < HEADS; h++)
            for (int j = 0; j < 4; j++) store(out + h * out_stride + c + j * LANES, acc[h][j]);
    }
    for (; c < size; c += LANES) {
        V acc[HEADS] = {};
        for (int64_t i = 0; i < count; i++) {
            const V v = load_some(key[i] + c, size - c);
            for (int h = 0; h < HEADS; h++) acc[h] = fma(splat(p[h * stride + i]), v, acc[h]);
        }
        for (int h = 0; h < HEADS; h++) store_some(out + h * out_stride + c, acc[h], size - c);
    }
}

// What one query attends to: rows of kv, ring and blocks, those of another format decoded.
template <class T> struct Keys {
    const T** at;
    T* room;
    int64_t count, size;
    void add(const T* row) { at[count++] = row; }
    void add(const dg_place& place, const uint8_t* row) {
        add(read_row(place, row, room));
        if (at[count - 1] == room) room += size;
    }
};
DG_INLINE void prefetch(const uint8_t* row, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i);
}

// The keys of flat row t in order, at most window + visible (or selected) of them.
template <class T> void gather_keys(const dg_attention_args& a, const dg_span& s, int64_t t, Keys<T>& keys) {
    const int64_t position = s.start + t - s.low;
    int64_t j = std::max({position - a.window + 1, s.oldest, (int64_t)0});
    for (; j < s.start; j++) keys.add(*a.ring, ring_row(*a.ring, s, j));
    for (; j <= position; j++) keys.add((const T*)a.kv + (s.low + j - s.start) * a.size);
    if (!a.entries) return;
    const Blocks blocks(*a.entries, s);
    if (!a.selected) {
        for (int64_t i = 0; i < (position + 1) / a.ratio; i++) keys.add(*a.entries, blocks.at(i));
        return;
    }
    constexpr int64_t AHEAD = 8;  // selected entries lie anywhere: no hardware foresees them
    const int64_t *selected = a.selected + t * a.num_selected, *end = selected + a.num_selected;
    while (selected < end && *selected < 0) selected++;
    for (const int64_t* i = selected; i < end; i++) {
        if (i + AHEAD < end) prefetch(blocks.at(i[AHEAD]), blocks.bytes);
        keys.add(*a.entries, blocks.at(*i));
    }
}

// One query, four heads (fewer: the last one repeats and is not written).
template <class T> void attend(const dg_attention_args& a, int64_t t, int64_t head, const Keys<T>& keys) {
    const int64_t room = (keys.count + LANES - 1) / LANES * LANES;
    float* p = scratch<float, 41>(HEADS * room);
    float* out = scratch<float, 42>(HEADS * a.size);
    const T* q[HEADS];
    for (int h = 0; h < HEADS; h++)
        q[h] = (const T*)a.q + (t * a.heads + std::min(head + h, a.heads - 1)) * a.size;
    const float scale = (float)(1.0 / sqrt((double)a.size));
    for (int64_t i = 0; i < room; i += KEYS) score_keys(q, keys.at + i, a.size, scale, p + i, room);
    const int64_t real = std::min<int64_t>(HEADS, a.heads - head);
    for (int64_t h = 0; h < HEADS; h++)
        softmax<T>(p + h * room, keys.count, room, a.sink[std::min(head + h, a.heads - 1)]);
    mix_values(p, room, keys.at, keys.count, a.size, out, a.size);
    for (int64_t h = 0; h < real; h++) {
        float* o = out + h * a.size;
        settle<T>(o, a.size);
        rotate(o + a.size - 2 * a.pairs, a.rotation + t * 2 * a.pairs, a.pairs, true);
        T* to = (T*)a.out + (t * a.heads + head + h) * a.size;
        for (int64_t c = 0; c < a.size; c += LANES)
            store_some(to + c, load_some(o + c, a.size - c), a.size - c);
    }
}

// A task is a query; a few queries are cut further, into runs of heads that gather the keys anew.
template <class T> void attention_as(const dg_attention_args& a) {
    const int64_t groups = (a.heads + HEADS - 1) / HEADS, threads = dg_threads();
    const int64_t parts = a.tokens < 4 * threads ? std::min(groups, threads) : 1;
    const int32_t* of = spans_of_rows(a.spans, a.num_spans, a.tokens);
    int64_t most = a.selected ? a.num_selected : 0;
    for (int64_t s = 0; a.entries && !a.selected && s < a.num_spans; s++)
        most = std::max(most, (a.spans[s].start + a.spans[s].tokens) / a.ratio);
    most += a.window + LANES;
    const bool plain = (!a.ring || is_plain<T>(*a.ring)) && (!a.entries || is_plain<T>(*a.entries));
    parallel(a.tokens * parts, a.tokens * a.heads * a.size * most, [&](int64_t i) {
        const int64_t t = i / parts;
        Keys<T> keys{scratch<const T*, 40>(most), plain ? nullptr : scratch<T, 45>(most * a.size), 0, a.size};
        gather_keys(a, a.spans[of[t]], t, keys);
        for (int64_t k = keys.count; k % LANES; k++) keys.at[k] = keys.at[keys.count - 1];
        const Range r = part(groups, parts, i % parts, 1);
        for (int64_t g = r.low; g < r.high; g++) attend(a, t, g * HEADS, keys);
    });
}
inline void attention(const dg_attention_args& a) {
    if (a.dtype == DG_BFLOAT16) attention_as<bf16>(a);
    else attention_as<float>(a);
}

}  // namespace DG_PATH
