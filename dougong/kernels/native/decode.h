// Weights as stored, widened exactly: a step is 32 elements of a row, as bf16 words or as floats.
//
// UE8M0 scales are powers of two and folded into the values: an E2M1 or E4M3 value times its scale
// is a bf16 as long as the exponent fits, which the loader has checked. INT8 values have eight
// significant bits and are bf16 as they are. Float scales multiply sums (product.h).
// FP4 is taken in the order of its nibbles: see `Unit<DG_E2M1>`.
#pragma once
#include "runtime.h"
#include "tables.h"

namespace DG_PATH {

constexpr int NR = 4;           // rows of w in a tile, decoded side by side
constexpr int64_t GROUP = 128;  // elements that rows of x and w are padded to, with zeros

DG_INLINE int64_t padded(int64_t columns) { return (columns + GROUP - 1) / GROUP * GROUP; }

// Where element p of a padded row of x is multiplied, by the order of w's format.
DG_INLINE int64_t nibble_order(int64_t p) { return p / 128 * 128 + p % 32 * 4 + p % 128 / 32; }

DG_INLINE bf16 narrow_exact(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bf16)(bits >> 16);
}
struct Row {  // one row of a stored matrix
    const uint8_t* data;
    const uint8_t* scale;  // UE8M0, else null
};
DG_INLINE int64_t row_bytes(const dg_matrix& w) {
    switch (w.format) {
        case DG_F32: return 4 * w.columns;
        case DG_BF16: return 2 * w.columns;
        case DG_E2M1: return w.columns / 2;
        default: return w.columns;
    }
}
DG_INLINE Row row_of(const dg_matrix& w, int64_t n) {
    const uint8_t* scale = w.group ? nullptr : (const uint8_t*)w.scale;
    if (scale) scale += w.format == DG_E4M3 ? n / 128 * ((w.columns + 127) / 128) : n * (w.columns / 32);
    return {(const uint8_t*)w.data + n * row_bytes(w), scale};
}
// The float scale of row n's columns k .. k + group - 1.
DG_INLINE float scale_at(const dg_matrix& w, int64_t n, int64_t k) {
    const int64_t row = w.format == DG_E4M3 ? n / 128 : n;
    return ((const float*)w.scale)[row * ((w.columns + w.group - 1) / w.group) + k / w.group];
}
// One float scale a row multiplies the row's sum, several multiply their blocks' sums.
DG_INLINE bool has_block_scales(const dg_matrix& w) {
    return w.group && (w.format == DG_E4M3 || w.group < w.columns);
}

#if DG_AVX512
DG_INLINE __m512i load_bytes(const uint8_t* p, int64_t n) {
    if (n >= 64) return _mm512_loadu_si512(p);
    return _mm512_maskz_loadu_epi8(n <= 0 ? 0 : ((__mmask64)1 << n) - 1, p);
}

// What 64 bytes of a row hold: `decode` gives their STEPS steps; `bytes` are left of the row.
template <int FORMAT> struct Unit;

template <> struct Unit<DG_BF16> {
    static constexpr int STEPS = 1;
    DG_METHOD Unit(const Row&, int64_t) {}
    DG_METHOD void decode(const uint8_t* p, const uint8_t*, int64_t bytes, I* out) const {
        out[0] = (I)load_bytes(p, bytes);
    }
};

// Word i of step j is element 4i + j of 128, that is nibble j of the 16 bits at 2i: three shifts and
// four look-ups, for of an index only five bits count and the table's halves are equal. Step words
// 8b .. 8b + 7 belong to scale b. They are subtracted as exponents, with saturation: zero stays.
template <> struct Unit<DG_E2M1> {
    static constexpr int STEPS = 4;
    DG_METHOD Unit(const Row&, int64_t) {}
    DG_METHOD void decode(const uint8_t* p, const uint8_t* scale, int64_t bytes, I* out) const {
        const __m512i table = _mm512_load_si512(tables.e2m1), codes = load_bytes(p, bytes);
        const __m512i high_byte = _mm512_set_epi64(
            0x0380038003800380, 0x0380038003800380, 0x0280028002800280, 0x0280028002800280,
            0x0180018001800180, 0x0180018001800180, 0x0080008000800080, 0x0080008000800080);
        uint32_t four = 0;
        if (bytes >= 64) memcpy(&four, scale, 4);
        else memcpy(&four, scale, bytes / 16);
        __m512i down = _mm512_sub_epi8(_mm512_set1_epi8((char)E2M1_TOP_SCALE), _mm512_set1_epi32((int)four));
        down = _mm512_srli_epi16(_mm512_shuffle_epi8(down, high_byte), 1);
        for (int j = 0; j < 4; j++) {
            const __m512i value = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4 * j), table);
            out[j] = (I)_mm512_subs_epu16(value, down);
        }
    }
};

// High and low bytes are looked up apart, then interleaved, which works inside 16-byte lanes;
// permuting the codes first makes up for that.
template <> struct Unit<DG_E4M3> {
    static constexpr int STEPS = 2;
    __m512i high0, high1, low0, low1;
    DG_METHOD Unit(const Row& row, int64_t k) {
        const uint8_t* t = tables.e4m3[row.scale ? row.scale[k / 128] : 127];
        high0 = _mm512_load_si512(t), high1 = _mm512_load_si512(t + 64);
        low0 = _mm512_load_si512(t + 128), low1 = _mm512_load_si512(t + 192);
    }
    DG_METHOD void decode(const uint8_t* p, const uint8_t*, int64_t bytes, I* out) const {
        const __m512i lanes = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
        const __m512i codes = _mm512_permutexvar_epi64(lanes, load_bytes(p, bytes));
        __m512i high = _mm512_permutex2var_epi8(high0, codes, high1);
        const __m512i low = _mm512_permutex2var_epi8(low0, codes, low1);
        high = _mm512_ternarylogic_epi64(high, codes, _mm512_set1_epi8((char)0x80), 0xf8);  // sign
        out[0] = (I)_mm512_unpacklo_epi8(low, high);
        out[1] = (I)_mm512_unpackhi_epi8(low, high);
    }
};

template <> struct Unit<DG_INT8> {
    static constexpr int STEPS = 2;
    DG_METHOD Unit(const Row&, int64_t) {}
    DG_METHOD static __m512 floats(__m128i codes) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
    }
    DG_METHOD void decode(const uint8_t* p, const uint8_t*, int64_t bytes, I* out) const {
        const __m512i codes = load_bytes(p, bytes);
        const __m512 a = floats(_mm512_castsi512_si128(codes));
        const __m512 b = floats(_mm512_extracti32x4_epi32(codes, 1));
        const __m512 c = floats(_mm512_extracti32x4_epi32(codes, 2));
        const __m512 d = floats(_mm512_extracti32x4_epi32(codes, 3));
        out[0] = (I)_mm512_cvtne2ps_pbh(b, a);
        out[1] = (I)_mm512_cvtne2ps_pbh(d, c);
    }
};

// R rows from row n on, step by step; a step has NR rows' places.
template <int FORMAT, int R> inline void decode_units(const dg_matrix& w, int64_t n, bf16* out) {
    using Codes = Unit<FORMAT>;
    const Row row = row_of(w, n);
    const int64_t bytes = row_bytes(w), scales = w.columns / 32;
    for (int64_t k = 0; k < w.columns; k += Codes::STEPS * 32, out += Codes::STEPS * 32 * NR) {
        const int64_t at = k / 32 * (64 / Codes::STEPS);
        const Codes codes(row, k);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            I words[Codes::STEPS];
            const uint8_t* scale = FORMAT == DG_E2M1 ? row.scale + r * scales + k / 32 : nullptr;
            codes.decode(row.data + r * bytes + at, scale, bytes - at, words);
#pragma GCC unroll 4
            for (int j = 0; j < Codes::STEPS; j++) store(out + (j * NR + r) * 32, words[j]);
        }
    }
}
template <int R> inline void decode_words(const dg_matrix& w, int64_t n, bf16* out) {
    if (w.format == DG_E2M1) decode_units<DG_E2M1, R>(w, n, out);
    else if (w.format == DG_E4M3) decode_units<DG_E4M3, R>(w, n, out);
    else if (w.format == DG_INT8) decode_units<DG_INT8, R>(w, n, out);
    else decode_units<DG_BF16, R>(w, n, out);
}
#else
DG_INLINE bf16 word_at(const dg_matrix& w, const Row& row, int64_t k) {
    if (k >= w.columns) return 0;
    if (w.format == DG_BF16) return ((const bf16*)row.data)[k];
    if (w.format == DG_E2M1) {
        const int value = tables.e2m1[row.data[k / 2] >> (k & 1) * 4 & 15];
        const int down = (E2M1_TOP_SCALE - row.scale[k / 32]) << 7;
        return (bf16)std::max(value - down, 0);
    }
    const uint8_t code = row.data[k];
    if (w.format == DG_INT8) return narrow_exact((int8_t)code);
    const uint8_t* t = tables.e4m3[row.scale ? row.scale[k / 128] : 127];
    return (bf16)((t[code & 127] | (code & 128)) << 8 | t[128 + (code & 127)]);
}
template <int R> inline void decode_words(const dg_matrix& w, int64_t n, bf16* out) {
    for (int r = 0; r < R; r++, out += 32) {
        const Row row = row_of(w, n + r);
        for (int64_t p = 0; p < padded(w.columns); p++) {
            const int64_t k = w.format == DG_E2M1 ? nibble_order(p) : p;
            out[p / 32 * 32 * NR + p % 32] = word_at(w, row, k);
        }
    }
}
#endif

// The 32 floats at p, of which `left` are the row's: where they are, or in `part` with zeros behind.
DG_INLINE const float* whole_step(const float* p, int64_t left, float* part) {
    if (left >= 32) return p;
    std::fill(part, part + 32, 0.0f);
    std::copy(p, p + std::max<int64_t>(left, 0), part);
    return part;
}
// A float matrix's: the odd elements of a step of all NR rows, then the even ones.
template <int R> inline void decode_words(const dg_matrix& w, int64_t n, float* out) {
    const float* row = (const float*)row_of(w, n).data;
    for (int64_t k = 0; k < padded(w.columns); k += 32, out += 32 * NR)
        for (int r = 0; r < R; r++) {
            float part[32];
            const float* from = whole_step(row + r * w.columns + k, w.columns - k, part);
            store(out + r * LANES, every_second(from, 1));
            store(out + (NR + r) * LANES, every_second(from, 0));
        }
}
// At most NR rows of w from row n on, side by side, step by step; zeros behind the columns.
template <class W> inline void decode_rows(const dg_matrix& w, int64_t n, int64_t count, W* out) {
    std::fill(out + w.columns / 32 * 32 * NR, out + padded(w.columns) * NR, W(0));
    if (count == NR && n % NR == 0) return decode_words<NR>(w, n, out);
    for (int64_t r = 0; r < count; r++) decode_words<1>(w, n + r, out + r * (64 / sizeof(W)));
}

}  // namespace DG_PATH
