// Memory of requests: where a row lies, how it is read and written. kernels/entries.py defines the
// formats, kernels/paged.py the places.
#pragma once
#include "rounding.h"

namespace DG_PATH {

DG_INLINE int64_t groups_of(int64_t channels, int64_t group) { return (channels + group - 1) / group; }
DG_INLINE uint8_t* ring_row(const dg_place& place, const dg_span& span, int64_t position) {
    return span.rings + place.offset + position % place.count * place.bytes;
}
// Entries in blocks; their number in a block is a power of two.
struct Blocks {
    uint8_t* const* blocks;
    int64_t shift, mask, offset, bytes;
    Blocks(const dg_place& place, const dg_span& span)
        : blocks(span.blocks), shift(__builtin_ctzll(place.count)), mask(place.count - 1),
          offset(place.offset), bytes(place.bytes) {}
    DG_METHOD uint8_t* at(int64_t i) const {
        return blocks[i >> shift] + offset + (i & mask) * bytes;
    }
};

DG_INLINE float power_of_two(uint8_t scale) {  // UE8M0; ours are never 0 or 255
    const uint32_t bits = (uint32_t)scale << 23;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
DG_INLINE float e4m3_value(uint8_t code) {
    const uint32_t magnitude = code & 127, normal = (magnitude << 20) + (120u << 23);
    float f;
    memcpy(&f, &normal, 4);
    if (magnitude < 8) f = (float)magnitude * 0x1p-9f;
    return code & 128 ? -f : f;
}
DG_INLINE float e2m1_value(uint8_t code) {
    static const float values[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    return code & 8 ? -values[code & 7] : values[code & 7];
}
// The codes of values that are exactly E4M3 and E2M1.
DG_INLINE uint8_t e4m3_code(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const float magnitude = fabsf(x);
    const uint32_t code = magnitude < 0x1p-6f ? (uint32_t)(magnitude * 512) : (bits >> 20 & 0x7ff) - 960;
    return (uint8_t)(code | (bits >> 24 & 128));
}
DG_INLINE uint8_t e2m1_code(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const float magnitude = fabsf(x);
    const uint32_t code = magnitude < 1 ? (uint32_t)(magnitude * 2) : (bits >> 22 & 0x1ff) - 252;
    return (uint8_t)(code | (bits >> 28 & 8));
}

DG_INLINE void put_exact(float* p, float x) { *p = x; }
DG_INLINE void put_exact(bf16* p, float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    *p = (bf16)(bits >> 16);
}
// n <= 64 codes times their scale.
template <class T> inline void read_e4m3(const uint8_t* code, int64_t n, uint8_t scale, T* out) {
    int64_t i = 0;
#if DG_AVX512
    if constexpr (sizeof(T) == 2) {
        // the bits of bf16: a normal number's exponent is moved, a subnormal one looked up
        const __m512i small = _mm512_castsi128_si512(
            _mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60));
        const __m512i base = _mm512_set1_epi16((short)((scale - 127 + 120) * 128));
        const __m512i down = _mm512_set1_epi16((short)((scale - 127) * 128));
        for (; i + 32 <= n; i += 32) {
            const __m512i c = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)(code + i)));
            const __m512i magnitude = _mm512_and_si512(c, _mm512_set1_epi16(127));
            const __mmask32 below = _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(8));
            const __mmask32 nonzero = _mm512_test_epi16_mask(magnitude, magnitude);
            __m512i v = _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), base);
            v = _mm512_mask_permutexvar_epi16(v, below, magnitude, small);
            v = _mm512_mask_add_epi16(v, (__mmask32)(below & nonzero), v, down);
            const __m512i sign = _mm512_slli_epi16(_mm512_andnot_si512(_mm512_set1_epi16(127), c), 8);
            _mm512_storeu_si512(out + i, _mm512_or_si512(v, sign));
        }
    }
#endif
    for (const float factor = power_of_two(scale); i < n; i++) put_exact(out + i, e4m3_value(code[i]) * factor);
}
// n <= 32 codes, two a byte.
template <class T> inline void read_e2m1(const uint8_t* code, int64_t n, uint8_t scale, T* out) {
#if DG_AVX512
    if constexpr (sizeof(T) == 2) {
        if (n == 32) {  // of an index five bits count, and the table is there twice
            const __m512i table = _mm512_broadcast_i64x4(_mm256_setr_epi16(
                0, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, (short)0x8000, (short)0xbf00,
                (short)0xbf80, (short)0xbfc0, (short)0xc000, (short)0xc040, (short)0xc080, (short)0xc0c0));
            const __m512i byte = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)code));
            const __m512i index = _mm512_or_si512(byte, _mm512_slli_epi32(byte, 12));
            const __m512i v = _mm512_permutexvar_epi16(index, table);
            const __mmask32 nonzero = _mm512_test_epi16_mask(v, _mm512_set1_epi16(0x7fff));
            const __m512i move = _mm512_set1_epi16((short)((scale - 127) * 128));
            _mm512_storeu_si512(out, _mm512_mask_add_epi16(v, nonzero, v, move));
            return;
        }
    }
#endif
    const float factor = power_of_two(scale);
    for (int64_t i = 0; i < n; i++)
        put_exact(out + i, e2m1_value(code[i / 2] >> (i & 1) * 4 & 15) * factor);
}

// Whether a row can be used where it lies.
template <class T> DG_INLINE bool is_plain(const dg_place& place) {
    return place.format == (sizeof(T) == 2 ? DG_ENTRY_BF16 : DG_ENTRY_F32);
}
// The channels of a row: in place, or decoded to `room`.
template <class T> inline const T* read_row(const dg_place& place, const uint8_t* row, T* room) {
    if (is_plain<T>(place)) return (const T*)row;
    if (place.format == DG_ENTRY_FP4) {
        const uint8_t* scale = row + place.width / 2;
        for (int64_t i = 0; i < place.width; i += INDEX_GROUP)
            read_e2m1(row + i / 2, std::min(INDEX_GROUP, place.width - i), scale[i / INDEX_GROUP], room + i);
        return room;
    }
    const int64_t codes = place.width - place.rope;
    const uint8_t *rope = row + codes, *scale = rope + 2 * place.rope;
    for (int64_t i = 0; i < codes; i += CACHE_GROUP)
        read_e4m3(row + i, std::min(CACHE_GROUP, codes - i), scale[i / CACHE_GROUP], room + i);
    for (int64_t i = 0; i < place.rope; i++) {
        bf16 x;
        memcpy(&x, rope + 2 * i, 2);
        if constexpr (sizeof(T) == 2) room[codes + i] = x;
        else room[codes + i] = widen(x);
    }
    return room;
}

// Divides a group by its scale; returns the scale's byte. The values are on its grid already.
template <bool fp4> inline uint8_t scale_down(const float* x, int64_t n, float* out) {
    float amax = fp4 ? 6 * 0x1p-126f : 1e-4f;
    for (int64_t i = 0; i < n; i++) amax = std::max(amax, fabsf(x[i]));
    const float scale = pow2_ceil(amax * (float)(1.0 / (fp4 ? 6.0f : 448.0f))), inverse = 1.0f / scale;
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * inverse;
    uint32_t bits;
    memcpy(&bits, &scale, 4);
    return (uint8_t)(bits >> 23);
}
// Writes a row of floats, which are values of the format.
inline void write_row(const dg_place& place, const float* x, uint8_t* row) {
    const int64_t n = place.width, codes = n - (place.format == DG_ENTRY_FP8 ? place.rope : 0);
    float part[CACHE_GROUP];
    if (place.format == DG_ENTRY_F32) {
        memcpy(row, x, n * 4);
    } else if (place.format == DG_ENTRY_BF16) {
        for (int64_t i = 0; i < n; i += LANES) store_some((bf16*)row + i, load_some(x + i, n - i), n - i);
    } else if (place.format == DG_ENTRY_FP4) {
        for (int64_t g = 0; g < n; g += INDEX_GROUP) {
            const int64_t count = std::min(INDEX_GROUP, n - g);
            row[n / 2 + g / INDEX_GROUP] = scale_down<true>(x + g, count, part);
            for (int64_t i = 0; i < count; i += 2)
                row[(g + i) / 2] = (uint8_t)(e2m1_code(part[i]) | e2m1_code(part[i + 1]) << 4);
        }
    } else {
        uint8_t *rope = row + codes, *scale = rope + 2 * place.rope;
        memset(scale, 0, row + place.bytes - scale);
        for (int64_t g = 0; g < codes; g += CACHE_GROUP) {
            const int64_t count = std::min(CACHE_GROUP, codes - g);
            scale[g / CACHE_GROUP] = scale_down<false>(x + g, count, part);
            for (int64_t i = 0; i < count; i++) row[g + i] = e4m3_code(part[i]);
        }
        for (int64_t i = 0; i < place.rope; i++) {
            bf16 half;
            put_exact(&half, x[codes + i]);
            memcpy(rope + 2 * i, &half, 2);
        }
    }
}

// The span of each row of a flat batch.
inline const int32_t* spans_of_rows(const dg_span* spans, int64_t num_spans, int64_t tokens) {
    int32_t* of = scratch<int32_t, 43>(tokens);
    for (int64_t s = 0; s < num_spans; s++)
        std::fill(of + spans[s].low, of + spans[s].low + spans[s].tokens, (int32_t)s);
    return of;
}

// Writes each span's newest rows of kv to its ring.
template <class T> void remember_as(const dg_remember_args& a) {
    const dg_place& ring = *a.ring;
    const int32_t* of = spans_of_rows(a.spans, a.num_spans, a.tokens);
    parallel<KEEP>(a.tokens, a.tokens * a.size * 4, [&](int64_t t) {
        const dg_span& span = a.spans[of[t]];
        const int64_t i = t - span.low;
        if (i < span.tokens - ring.count) return;  // a later row takes its slot
        uint8_t* row = ring_row(ring, span, span.start + i);
        const T* from = (const T*)a.kv + t * a.size;
        if (is_plain<T>(ring)) {
            memcpy(row, from, ring.bytes);
            return;
        }
        float* x = scratch<float, 44>(a.size);
        for (int64_t c = 0; c < a.size; c += LANES)
            store_some(x + c, load_some(from + c, a.size - c), a.size - c);
        write_row(ring, x, row);
    });
}
inline void remember(const dg_remember_args& a) {
    if (a.dtype == DG_BFLOAT16) remember_as<bf16>(a);
    else remember_as<float>(a);
}

}  // namespace DG_PATH
