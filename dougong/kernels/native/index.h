// The lightning indexer: scores of compressed entries and the best k, in one pass over the keys.
//
// Sixteen entries lie across the lanes. Scores go straight into each query's list of candidates; no
// [queries, entries] matrix exists.
#pragma once
#include "attention.h"

namespace DG_PATH {

// Keys of sixteen entries with entries across lanes: float [D][16], or pairs of bf16 [D / 2][16].
inline void turn(const float* keys, int64_t count, int64_t size, float* out) {
    for (int64_t d = 0; d < size; d++)
        for (int64_t e = 0; e < LANES; e++) out[d * LANES + e] = e < count ? keys[e * size + d] : 0;
}
#if DG_AVX512
// Sixteen rows of sixteen 32-bit items, turned in registers: pairs, quads, then quarters of 128 bits.
DG_INLINE void turn16(const __m512i* in, __m512i* out) {
    __m512i a[16], b[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        a[2 * i] = _mm512_unpacklo_epi32(in[2 * i], in[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(in[2 * i], in[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512i p = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88);
        const __m512i q = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xdd);
        const __m512i r = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88);
        const __m512i s = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xdd);
        out[i] = _mm512_shuffle_i32x4(p, r, 0x88);
        out[i + 8] = _mm512_shuffle_i32x4(p, r, 0xdd);
        out[i + 4] = _mm512_shuffle_i32x4(q, s, 0x88);
        out[i + 12] = _mm512_shuffle_i32x4(q, s, 0xdd);
    }
}
#endif
inline void turn(const bf16* keys, int64_t count, int64_t size, bf16* out) {
    int64_t d = 0;
#if DG_AVX512
    for (; count == LANES && d + 32 <= size; d += 32) {
        __m512i rows[16];
        for (int e = 0; e < 16; e++) rows[e] = _mm512_loadu_si512(keys + e * size + d);
        turn16(rows, (__m512i*)(out + d * LANES));
    }
#endif
    for (; d < size; d += 2)
        for (int64_t e = 0; e < LANES; e++) {
            out[d * LANES + 2 * e] = e < count ? keys[e * size + d] : 0;
            out[d * LANES + 2 * e + 1] = e < count && d + 1 < size ? keys[e * size + d + 1] : 0;
        }
}

// One query's products with sixteen entries, N heads side by side: relu(q . key) * weight, summed
// in the order of the heads.
template <int N>
DG_INLINE V add_heads(V score, const float* q, int64_t size, const float* keys, const float* weight) {
    V acc[N] = {};
    for (int64_t d = 0; d < size; d++) {
        const V k = load(keys + d * LANES);
#pragma GCC unroll 8
        for (int h = 0; h < N; h++) acc[h] = fma(splat(q[h * size + d]), k, acc[h]);
    }
    for (int h = 0; h < N; h++) score = fma(splat(weight[h]), max(acc[h], zero()), score);
    return score;
}
template <int N>
DG_INLINE V add_heads(V score, const bf16* q, int64_t size, const bf16* keys, const float* weight) {
    V acc[N] = {};
    for (int64_t d = 0; d < size; d += 2) {
        const I k = pairs(keys + d * LANES);
#pragma GCC unroll 8
        for (int h = 0; h < N; h++) {
            int32_t both;
            memcpy(&both, q + h * size + d, 4);
            acc[h] = dot2(acc[h], I{} + both, k);
        }
    }
    for (int h = 0; h < N; h++) score = fma(splat(weight[h]), max(acc[h], zero()), score);
    return score;
}
template <class T>
inline V score_entries(const T* q, const float* weight, int64_t heads, int64_t size, const T* keys) {
    V score = zero();
    int64_t h = 0;
    for (; h + 8 <= heads; h += 8) score = add_heads<8>(score, q + h * size, size, keys, weight + h);
    for (; h + 4 <= heads; h += 4) score = add_heads<4>(score, q + h * size, size, keys, weight + h);
    for (; h < heads; h++) score = add_heads<1>(score, q + h * size, size, keys, weight + h);
    return score;
}

struct Candidate {
    float score;
    int32_t index;
};
DG_INLINE bool better(const Candidate& a, const Candidate& b) {
    return a.score > b.score || (a.score == b.score && a.index < b.index);
}
// The best k so far and up to k newcomers that beat the worst of them. Entries come in ascending
// order, so an equal newcomer loses: the lowest index wins.
struct Best {
    Candidate* list;
    int64_t count, k;
    float bar;
    void cut() {
        if (count <= k) return;
        std::nth_element(list, list + k - 1, list + count, better);
        count = k;
        bar = list[k - 1].score;
    }
    DG_METHOD void offer(V score, int64_t first, int64_t n) {
        I wins = score > splat(bar);
        float s[LANES];
        store(s, score);
#if DG_AVX512
        unsigned mask = _mm512_movepi32_mask((__m512i)wins);
#else
        unsigned mask = 0;
        for (int i = 0; i < LANES; i++) mask |= (unsigned)(wins[i] & 1) << i;
#endif
        if (n < LANES) mask &= (1u << n) - 1;
        for (; mask; mask &= mask - 1) {
            const int i = __builtin_ctz(mask);
            list[count++] = {s[i], (int32_t)(first + i)};
        }
        if (count > 2 * k) cut();
    }
};

// Queries low .. high - 1, all entries.
template <class T> inline void select_range(const dg_index_args& a, Range r) {
    const int64_t size = (a.size + 1) / 2 * 2, capacity = 2 * a.k + LANES;
    const int64_t queries = r.high - r.low;
    T* turned = scratch<T, 50>(size * LANES);
    T* q = scratch<T, 54>(queries * a.heads * size);
    float* weight = scratch<float, 51>(queries * a.heads);
    Candidate* lists = scratch<Candidate, 52>(queries * capacity);
    Best* best = scratch<Best, 53>(queries);
    for (int64_t i = 0; i < queries; i++) {
        best[i] = {lists + i * capacity, 0, a.k, -INFINITY};
        for (int64_t h = 0; h < a.heads; h++) {
            const int64_t at = (r.low + i) * a.heads + h;
            weight[i * a.heads + h] = a.weight_dtype == DG_BFLOAT16 ? widen(((const bf16*)a.weight)[at])
                                                                    : ((const float*)a.weight)[at];
            T* to = q + (i * a.heads + h) * size;
            std::copy((const T*)a.q + at * a.size, (const T*)a.q + (at + 1) * a.size, to);
            if (size > a.size) to[a.size] = T(0);
        }
    }
    const int64_t seen = std::min(a.num_keys, (a.start + r.high) / a.ratio);
    for (int64_t first = 0; first < seen; first += LANES) {
        turn((const T*)a.keys + first * a.size, std::min<int64_t>(LANES, seen - first), a.size, turned);
        for (int64_t i = 0; i < queries; i++) {
            const int64_t visible = (a.start + r.low + i + 1) / a.ratio - first;
            if (visible <= 0) continue;
            const V s = score_entries(q + i * a.heads * size, weight + i * a.heads, a.heads, size, turned);
            best[i].offer(s, first, std::min<int64_t>(visible, seen - first));
        }
    }
    for (int64_t i = 0; i < queries; i++) {
        best[i].cut();
        Candidate* list = best[i].list;
        std::sort(list, list + best[i].count,
                  [](const Candidate& x, const Candidate& y) { return x.index < y.index; });
        int64_t* out = a.selected + (r.low + i) * a.k;
        const int64_t none = a.k - best[i].count;  // -1 first, as a sort would put them
        for (int64_t j = 0; j < a.k; j++) out[j] = j < none ? -1 : list[j - none].index;
    }
}
template <class T> void index_as(const dg_index_args& a) {
    const int64_t block = a.tokens >= 64 ? 32 : (a.tokens + dg_threads() - 1) / dg_threads();
    const int64_t work = a.tokens * a.num_keys * a.heads * a.size;
    parallel((a.tokens + block - 1) / block, work, [&](int64_t i) {
        select_range<T>(a, {i * block, std::min(a.tokens, (i + 1) * block)});
    });
}
inline void index(const dg_index_args& a) {
    if (a.tokens == 0) return;
    if (a.dtype == DG_BFLOAT16) index_as<bf16>(a);
    else index_as<float>(a);
}

}  // namespace DG_PATH
