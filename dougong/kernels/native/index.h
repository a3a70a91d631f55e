// The lightning indexer: scores of compressed entries and the best k, in one pass over the keys.
//
// Sixteen entries lie across the lanes. Scores go straight into each query's list of candidates; no
// [queries, entries] matrix exists.
#pragma once
#include "attention.h"

namespace DG_PATH {

// Keys of sixteen entries with entries across lanes: float [D][16], or pairs of bf16 [D / 2][16]. D
// is `size` padded to pairs, with zeros.
inline void turn(const float* const* keys, int64_t size, float* out) {
    for (int64_t d = 0; d < size; d++)
        for (int64_t e = 0; e < LANES; e++) out[d * LANES + e] = keys[e][d];
    if (size % 2) std::fill_n(out + size * LANES, LANES, 0.0f);
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
inline void turn(const bf16* const* keys, int64_t size, bf16* out) {
    int64_t d = 0;
#if DG_AVX512
    for (; d + 32 <= size; d += 32) {
        __m512i rows[16];
        for (int e = 0; e < 16; e++) rows[e] = _mm512_loadu_si512(keys[e] + d);
        turn16(rows, (__m512i*)(out + d * LANES));
    }
#endif
    for (; d < size; d += 2)
        for (int64_t e = 0; e < LANES; e++) {
            out[d * LANES + 2 * e] = keys[e][d];
            out[d * LANES + 2 * e + 1] = d + 1 < size ? keys[e][d + 1] : 0;
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

// Some queries of one span over some of its entries: rows low .. high - 1 of the batch, entries
// from .. to - 1 (from is a multiple of 16).
struct IndexTask {
    const dg_span* span;
    int64_t low, high, from, to;
};
DG_INLINE int64_t visible_to(const dg_index_args& a, const dg_span& s, int64_t row) {
    return (s.start + row - s.low + 1) / a.ratio;
}

// The task's queries and weights side by side, size padded to pairs.
template <class T> void copy_queries(const dg_index_args& a, const IndexTask& task, T* q, float* weight) {
    const int64_t size = (a.size + 1) / 2 * 2;
    for (int64_t at = task.low * a.heads; at < task.high * a.heads; at++) {
        *weight++ = a.weight_dtype == DG_BFLOAT16 ? widen(((const bf16*)a.weight)[at])
                                                  : ((const float*)a.weight)[at];
        std::copy((const T*)a.q + at * a.size, (const T*)a.q + (at + 1) * a.size, q);
        if (size > a.size) q[a.size] = T(0);
        q += size;
    }
}
// Streams the task's entries past its queries; best[i] are those of row low + i.
template <class T> void score_task(const dg_index_args& a, const IndexTask& task, Best* best) {
    const int64_t size = (a.size + 1) / 2 * 2, queries = task.high - task.low;
    T* turned = scratch<T, 50>(size * LANES);
    T* room = scratch<T, 55>(a.size * LANES);
    T* q = scratch<T, 54>(queries * a.heads * size);
    float* weight = scratch<float, 51>(queries * a.heads);
    copy_queries(a, task, q, weight);
    const Blocks blocks(*a.keys, *task.span);
    for (int64_t first = task.from; first < task.to; first += LANES) {
        const T* keys[LANES];
        for (int64_t e = 0; e < LANES; e++)  // behind the last one it repeats and is not offered
            keys[e] = read_row(*a.keys, blocks.at(std::min(first + e, task.to - 1)), room + e * a.size);
        turn(keys, a.size, turned);
        for (int64_t i = 0; i < queries; i++) {
            const int64_t visible = visible_to(a, *task.span, task.low + i) - first;
            if (visible <= 0) continue;
            const V s = score_entries(q + i * a.heads * size, weight + i * a.heads, a.heads, size, turned);
            best[i].offer(s, first, std::min(visible, task.to - first));
        }
    }
    for (int64_t i = 0; i < queries; i++) best[i].cut();
}
// One query's choice: ascending, -1 first, as a sort would put them.
inline void write_choice(const dg_index_args& a, int64_t row, Candidate* list, int64_t count) {
    std::sort(list, list + count,
              [](const Candidate& x, const Candidate& y) { return x.index < y.index; });
    int64_t* out = a.selected + row * a.k;
    std::fill(out, out + a.k - count, -1);
    for (int64_t j = 0; j < count; j++) out[a.k - count + j] = list[j].index;
}
// Every visible entry of a span that has too few to choose from.
inline void choose_all(const dg_index_args& a, const dg_span& s) {
    for (int64_t row = s.low; row < s.low + s.tokens; row++) {
        int64_t* out = a.selected + row * a.k;
        const int64_t visible = visible_to(a, s, row);
        std::fill(out, out + a.k - visible, -1);
        for (int64_t j = 0; j < visible; j++) out[a.k - visible + j] = j;
    }
}

// Cuts the spans into tasks of up to 32 queries; where these are fewer than the threads need, their
// entries into `parts`. Of each (row, part) the best k are kept, and joined in the end: what beats
// what does not depend on the cut.
inline int64_t cut_tasks(const dg_index_args& a, int64_t parts, IndexTask* tasks) {
    constexpr int64_t QUERIES = 32;
    int64_t count = 0;
    for (int64_t i = 0; i < a.num_spans; i++) {
        const dg_span& s = a.spans[i];
        const int64_t seen = (s.start + s.tokens) / a.ratio;
        if (seen <= a.k) {
            if (tasks && a.k) choose_all(a, s);
            continue;
        }
        for (int64_t low = s.low; low < s.low + s.tokens; low += QUERIES) {
            const int64_t high = std::min(low + QUERIES, s.low + s.tokens);
            for (int64_t p = 0; p < parts; p++, count++) {
                const Range r = part(visible_to(a, s, high - 1), parts, p, LANES);
                if (tasks) tasks[count] = {&s, low, high, r.low, r.high};
            }
        }
    }
    return count;
}
template <class T> void index_as(const dg_index_args& a) {
    const int64_t blocks = cut_tasks(a, 1, nullptr), threads = dg_threads();
    const bool enough = threads == 1 || blocks == 0 || blocks >= 4 * threads;
    const int64_t parts = enough ? 1 : (4 * threads + blocks - 1) / blocks;
    IndexTask* tasks = scratch<IndexTask, 56>(blocks * parts);
    const int64_t count = cut_tasks(a, parts, tasks), capacity = 2 * a.k + LANES;
    int64_t work = 0;
    for (int64_t i = 0; i < count; i++)
        work += (tasks[i].high - tasks[i].low) * (tasks[i].to - tasks[i].from) * a.heads * a.size;
    Candidate* kept = parts > 1 ? scratch<Candidate, 57>(a.tokens * parts * a.k) : nullptr;
    int64_t* counts = parts > 1 ? scratch<int64_t, 58>(a.tokens * parts) : nullptr;
    parallel(count, work, [&](int64_t i) {
        const IndexTask& task = tasks[i];
        const int64_t queries = task.high - task.low;
        Candidate* lists = scratch<Candidate, 52>(queries * capacity);
        Best* best = scratch<Best, 53>(queries);
        for (int64_t j = 0; j < queries; j++) best[j] = {lists + j * capacity, 0, a.k, -INFINITY};
        score_task<T>(a, task, best);
        for (int64_t j = 0; j < queries; j++) {
            const int64_t at = (task.low + j) * parts + i % parts;
            if (parts == 1) write_choice(a, task.low + j, best[j].list, best[j].count);
            else std::copy(best[j].list, best[j].list + (counts[at] = best[j].count), kept + at * a.k);
        }
    });
    for (int64_t i = 0; parts > 1 && i < count; i += parts)
        for (int64_t row = tasks[i].low; row < tasks[i].high; row++) {
            Candidate* list = scratch<Candidate, 59>(parts * a.k);
            Best all{list, 0, a.k, -INFINITY};
            for (int64_t p = row * parts; p < (row + 1) * parts; p++)
                all.count = std::copy(kept + p * a.k, kept + p * a.k + counts[p], list + all.count) - list;
            all.cut();
            write_choice(a, row, list, all.count);
        }
}
inline void index(const dg_index_args& a) {
    if (a.dtype == DG_BFLOAT16) index_as<bf16>(a);
    else index_as<float>(a);
}

}  // namespace DG_PATH
