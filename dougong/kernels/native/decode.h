// Weights as stored, widened exactly: one row's elements to bf16 or float.
//
// Block scales are powers of two and folded into the values: an E2M1 or E4M3 value times its scale is
// a bf16 as long as the exponent fits, which the loader has checked.
#pragma once
#include "runtime.h"
#include "tables.h"

namespace DG_PATH {

inline bf16 narrow_exact(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bf16)(bits >> 16);
}
constexpr int PANEL = 16;  // rows of w decoded together

struct Row {  // one row of a stored matrix
    const uint8_t* data;
    const uint8_t* scale;
};
inline Row row_of(const dg_matrix& w, int64_t n) {
    const uint8_t* data = (const uint8_t*)w.data;
    const uint8_t* scale = (const uint8_t*)w.scale;
    switch (w.format) {
        case DG_F32: return {data + n * w.columns * 4, nullptr};
        case DG_BF16: return {data + n * w.columns * 2, nullptr};
        case DG_E4M3: return {data + n * w.columns, scale + n / 128 * ((w.columns + 127) / 128)};
        case DG_E2M1: return {data + n * w.columns / 2, scale + n * (w.columns / 32)};
        default: return {data + n * w.columns, scale + 4 * n};
    }
}

#if DG_AVX512
// 32 codes in 16 bytes. Word 2i must index by the low nibble of byte i, word 2i + 1 by the high one:
// of an index only five bits count, so shifting a copy up by 12 is all it takes.
DG_INLINE __m512i decode_e2m1(const uint8_t* codes, const bf16* table) {
    const __m512i byte = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)codes));
    const __m512i index = _mm512_or_si512(byte, _mm512_slli_epi32(byte, 12));
    return _mm512_permutexvar_epi16(index, _mm512_load_si512(table));
}
struct E4M3Tables {
    __m512i high0, high1, low0, low1;
};
DG_INLINE E4M3Tables load_tables(const uint8_t* t) {
    return {_mm512_load_si512(t), _mm512_load_si512(t + 64), _mm512_load_si512(t + 128),
            _mm512_load_si512(t + 192)};
}
// 64 codes to two vectors of 32 bf16 in order: high and low bytes are looked up apart, then
// interleaved, which works inside 16-byte lanes; permuting the codes first makes up for that.
DG_INLINE void decode_e4m3(__m512i codes, const E4M3Tables& t, __m512i& first, __m512i& second) {
    codes = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), codes);
    __m512i high = _mm512_permutex2var_epi8(t.high0, codes, t.high1);
    const __m512i low = _mm512_permutex2var_epi8(t.low0, codes, t.low1);
    high = _mm512_ternarylogic_epi64(high, codes, _mm512_set1_epi8((char)0x80), 0xf8);  // sign
    first = _mm512_unpacklo_epi8(low, high);
    second = _mm512_unpackhi_epi8(low, high);
}
DG_INLINE __m512i load_codes(const uint8_t* p, int64_t n) {
    if (n >= 64) return _mm512_loadu_si512(p);
    return _mm512_maskz_loadu_epi8(((__mmask64)1 << n) - 1, p);
}
DG_INLINE void put(bf16* out, __m512i pairs) { _mm512_store_si512(out, pairs); }
DG_INLINE void put(float* out, __m512i x) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(x));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(x, 1));
    _mm512_store_si512(out, _mm512_slli_epi32(low, 16));
    _mm512_store_si512(out + 16, _mm512_slli_epi32(high, 16));
}
// Meanwhile the row PANEL rows on comes nearer: it is decoded after this panel's products.
template <class T> void decode_quantized(const dg_matrix& w, const Row& row, T* out) {
    if (w.format == DG_E2M1) {
        for (int64_t k = 0; k < w.columns; k += 32) {
            _mm_prefetch((const char*)row.data + (k + PANEL * w.columns) / 2, _MM_HINT_T1);
            put(out + k, decode_e2m1(row.data + k / 2, tables.e2m1[row.scale[k / 32]]));
        }
        return;
    }
    for (int64_t k = 0; k < w.columns; k += 64) {
        const E4M3Tables t = load_tables(tables.e4m3[row.scale[k / 128]]);
        __m512i first, second;
        _mm_prefetch((const char*)row.data + k + PANEL * w.columns, _MM_HINT_T1);
        decode_e4m3(load_codes(row.data + k, w.columns - k), t, first, second);
        put(out + k, first);
        put(out + k + 32, second);
    }
}
#else
DG_INLINE void put(bf16* out, bf16 x) { *out = x; }
DG_INLINE void put(float* out, bf16 x) { *out = widen(x); }
template <class T> void decode_quantized(const dg_matrix& w, const Row& row, T* out) {
    if (w.format == DG_E2M1) {
        for (int64_t k = 0; k < w.columns; k++) {
            const int code = row.data[k / 2] >> (k & 1) * 4 & 15;
            put(out + k, tables.e2m1[row.scale[k / 32]][code]);
        }
        return;
    }
    for (int64_t k = 0; k < w.columns; k++) {
        const uint8_t code = row.data[k];
        const uint8_t* t = tables.e4m3[row.scale[k / 128]];
        put(out + k, (bf16)((t[code & 127] | (code & 128)) << 8 | t[128 + (code & 127)]));
    }
}
#endif

template <class A, class B> void convert(A* out, const B* in, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) {
        __builtin_prefetch(in + i + PANEL * n, 0, 2);
        if constexpr (sizeof(A) == sizeof(B)) memcpy(out + i, in + i, std::min<int64_t>(LANES, n - i) * sizeof(A));
        else store_some(out + i, load_some(in + i, n - i), n - i);
    }
}

// Row n as T, zeros from `columns` to `padded`. A float matrix is never asked for as bf16.
template <class T> void decode_row(const dg_matrix& w, int64_t n, T* out, int64_t padded) {
    const Row row = row_of(w, n);
    if (w.format == DG_F32) {
        convert(out, (const float*)row.data, w.columns);
    } else if (w.format == DG_BF16) {
        convert(out, (const bf16*)row.data, w.columns);
    } else if (w.format == DG_INT8) {  // eight significant bits: exact in bf16
        for (int64_t k = 0; k < w.columns; k++) {
            const float value = ((const int8_t*)row.data)[k];
            if constexpr (sizeof(T) == 4) out[k] = value;
            else out[k] = narrow_exact(value);
        }
    } else {
        decode_quantized(w, row, out);
    }
    std::fill(out + w.columns, out + padded, T(0));
}

}  // namespace DG_PATH
