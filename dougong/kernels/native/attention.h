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

// Softmax of logits p with the sink in the denominator; in bf16 rounded as the release's. `out` may
// be p; it is zero from count to room.
template <class T> inline void softmax(float* p, int64_t count, int64_t room, float sink, T* out) {
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
    for (int64_t i = 0; i < room; i += LANES) store(out + i, load(p + i) * inverse);
}

// Sixteen channels of as many keys as one instruction multiplies: one in float, two in bf16.
template <class T> constexpr int TOGETHER = 4 / sizeof(T);
DG_INLINE V channels(const float* const* key, int64_t c) { return load(key[0] + c); }
DG_INLINE I channels(const bf16* const* key, int64_t c) {
#if DG_AVX512
    const __m512i order = _mm512_setr_epi32(
        0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007, 0x180008, 0x190009,
        0x1a000a, 0x1b000b, 0x1c000c, 0x1d000d, 0x1e000e, 0x1f000f);
    const __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)(key[0] + c)));
    const __m256i second = _mm256_loadu_si256((const __m256i*)(key[1] + c));
    return (I)_mm512_permutexvar_epi16(order, _mm512_inserti64x4(first, second, 1));
#else
    H first, second;
    memcpy(&first, key[0] + c, sizeof first);
    memcpy(&second, key[1] + c, sizeof second);
    return (I)(__builtin_convertvector(first, U) | __builtin_convertvector(second, U) << 16);
#endif
}
DG_INLINE V add_weighted(V acc, const float* p, V values) { return fma(splat(*p), values, acc); }
DG_INLINE V add_weighted(V acc, const bf16* p, I values) {
    int32_t both;
    memcpy(&both, p, sizeof both);
    return dot2(acc, I{} + both, values);
}

// out[h][c ..] += sum over keys of p[h][key] * key[c ..], up to 64 channels at a time; of two keys
// in bf16 the second comes first. count is a multiple of sixteen.
template <class T>
inline void mix_values(const T* p, int64_t count, const T* const* key, int64_t size, float* out) {
    int64_t c = 0;
    for (; c + 4 * LANES <= size; c += 4 * LANES) {
        V acc[HEADS][4] = {};
        for (int64_t i = 0; i < count; i += TOGETHER<T>) {
            const auto v0 = channels(key + i, c), v1 = channels(key + i, c + 16);
            const auto v2 = channels(key + i, c + 32), v3 = channels(key + i, c + 48);
#pragma GCC unroll 4
            for (int h = 0; h < HEADS; h++) {
                const T* w = p + h * count + i;
                acc[h][0] = add_weighted(acc[h][0], w, v0);
                acc[h][1] = add_weighted(acc[h][1], w, v1);
                acc[h][2] = add_weighted(acc[h][2], w, v2);
                acc[h][3] = add_weighted(acc[h][3], w, v3);
            }
        }
        for (int h = 0; h < HEADS; h++)
            for (int j = 0; j < 4; j++) store(out + h * size + c + j * LANES, acc[h][j]);
    }
    for (; c < size; c += LANES) {
        const int64_t n = std::min<int64_t>(LANES, size - c);
        V acc[HEADS] = {};
        T part[TOGETHER<T>][LANES] = {};
        const T* parts[TOGETHER<T>];
        for (int j = 0; j < TOGETHER<T>; j++) parts[j] = part[j];
        for (int64_t i = 0; i < count; i += TOGETHER<T>) {
            for (int j = 0; j < TOGETHER<T>; j++) std::copy(key[i + j] + c, key[i + j] + c + n, part[j]);
            const auto v = channels(parts, 0);
            for (int h = 0; h < HEADS; h++) acc[h] = add_weighted(acc[h], p + h * count + i, v);
        }
        for (int h = 0; h < HEADS; h++) store_some(out + h * size + c, acc[h], n);
    }
}

DG_INLINE void prefetch(const void* row, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)row + i);
}
// What one query attends to: `ring` rows of the ring, rows of kv, then entries from `entries` on; at
// most window + visible (or selected) of them.
template <class T> struct Keys {
    const T** at;
    int64_t ring = 0, entries = 0, count = 0;
    void add(const void* row) { at[count++] = (const T*)row; }
    // The keys of flat row t in order, as they are stored.
    void find(const dg_attention_args& a, const dg_span& s, int64_t t) {
        const int64_t position = s.start + t - s.low;
        int64_t j = std::max({position - a.window + 1, s.oldest, (int64_t)0});
        for (; j < s.start; j++) add(ring_row(*a.ring, s, j));
        ring = count;
        for (; j <= position; j++) add((const T*)a.kv + (s.low + j - s.start) * a.size);
        entries = count;
        if (!a.entries) return;
        const Blocks blocks(*a.entries, s);
        const int64_t* selected = a.selected + t * a.num_selected;
        if (!a.selected)
            for (int64_t i = 0; i < (position + 1) / a.ratio; i++) add(blocks.at(i));
        else
            for (int64_t i = 0; i < a.num_selected; i++)
                if (selected[i] >= 0) add(blocks.at(selected[i]));
    }
    // Of keys low .. high - 1 those of another format are decoded to `room`.
    void decode(const dg_attention_args& a, int64_t low, int64_t high, T* room) const {
        constexpr int64_t AHEAD = 8;  // selected entries lie anywhere: no hardware foresees them
        for (int64_t i = low; i < high; i++) {
            if (a.selected && i >= entries && i + AHEAD < count) prefetch(at[i + AHEAD], a.entries->bytes);
            const dg_place* place = i < ring ? a.ring : i < entries ? nullptr : a.entries;
            if (place) at[i] = read_row(*place, (const uint8_t*)at[i], room + i * a.size);
        }
    }
    // Repeats the last key up to whole vectors.
    void fill() const {
        for (int64_t k = count; k % LANES; k++) at[k] = at[count - 1];
    }
};

// One query, four heads (fewer: the last one repeats and is not written).
template <class T> void attend(const dg_attention_args& a, int64_t t, int64_t head, const Keys<T>& keys) {
    const int64_t room = (keys.count + LANES - 1) / LANES * LANES;
    float* logits = scratch<float, 41>(HEADS * room);
    T* p = sizeof(T) == 4 ? (T*)logits : scratch<T, 46>(HEADS * room);
    float* out = scratch<float, 42>(HEADS * a.size);
    const T* q[HEADS];
    for (int h = 0; h < HEADS; h++)
        q[h] = (const T*)a.q + (t * a.heads + std::min(head + h, a.heads - 1)) * a.size;
    const float scale = (float)(1.0 / sqrt((double)a.size));
    for (int64_t i = 0; i < room; i += KEYS) score_keys(q, keys.at + i, a.size, scale, logits + i, room);
    const int64_t real = std::min<int64_t>(HEADS, a.heads - head);
    for (int64_t h = 0; h < HEADS; h++) {
        const float sink = a.sink[std::min(head + h, a.heads - 1)];
        softmax(logits + h * room, keys.count, room, sink, p + h * room);
    }
    mix_values(p, room, keys.at, a.size, out);
    for (int64_t h = 0; h < real; h++) {
        float* o = out + h * a.size;
        settle<T>(o, a.size);
        rotate(o + a.size - 2 * a.pairs, a.rotation + t * 2 * a.pairs, a.pairs, true);
        T* to = (T*)a.out + (t * a.heads + head + h) * a.size;
        for (int64_t c = 0; c < a.size; c += LANES)
            store_some(to + c, load_some(o + c, a.size - c), a.size - c);
    }
}

// A few queries, one after the other: threads share the decoding of a query's keys, then its heads.
template <class T>
void attend_together(const dg_attention_args& a, const int32_t* of, int64_t most, int64_t decoded) {
    T* room = scratch<T, 45>(decoded);
    const int64_t groups = (a.heads + HEADS - 1) / HEADS, threads = dg_threads();
    for (int64_t t = 0; t < a.tokens; t++) {
        Keys<T> keys{scratch<const T*, 40>(most)};
        keys.find(a, a.spans[of[t]], t);
        parallel(threads, decoded ? keys.count * a.size * 8 : 0, [&](int64_t i) {
            const Range r = part(keys.count, threads, i, 8);
            keys.decode(a, r.low, r.high, room);
        });
        keys.fill();
        parallel(groups, keys.count * a.heads * a.size, [&](int64_t g) { attend(a, t, g * HEADS, keys); });
    }
}
// Many queries: each is a task.
template <class T> void attention_as(const dg_attention_args& a) {
    const int32_t* of = spans_of_rows(a.spans, a.num_spans, a.tokens);
    int64_t most = a.selected ? a.num_selected : 0;
    for (int64_t s = 0; a.entries && !a.selected && s < a.num_spans; s++)
        most = std::max(most, (a.spans[s].start + a.spans[s].tokens) / a.ratio);
    most += a.window + LANES;
    const bool plain = (!a.ring || is_plain<T>(*a.ring)) && (!a.entries || is_plain<T>(*a.entries));
    const int64_t decoded = plain ? 0 : most * a.size;
    if (a.tokens < 4 * dg_threads()) return attend_together<T>(a, of, most, decoded);
    parallel(a.tokens, a.tokens * a.heads * a.size * most, [&](int64_t t) {
        Keys<T> keys{scratch<const T*, 40>(most)};
        keys.find(a, a.spans[of[t]], t);
        keys.decode(a, 0, keys.count, scratch<T, 45>(decoded));
        keys.fill();
        for (int64_t head = 0; head < a.heads; head += HEADS) attend(a, t, head, keys);
    });
}
inline void attention(const dg_attention_args& a) {
    if (a.dtype == DG_BFLOAT16) attention_as<bf16>(a);
    else attention_as<float>(a);
}

}  // namespace DG_PATH
