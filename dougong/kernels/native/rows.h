// Products of one or two rows of x: weights go from memory through registers, never to a buffer.
#pragma once
#include "product.h"

namespace DG_PATH {

#if DG_AVX512
constexpr int STREAMS = 8;           // rows of w read side by side
constexpr int64_t AHEAD = STREAMS;   // rows from here to what is prefetched

DG_INLINE __m512i load_pairs(const bf16* p, int64_t n) {
    if (n >= 32) return _mm512_loadu_si512(p);
    return _mm512_maskz_loadu_epi16(((__mmask32)1 << n) - 1, p);
}
DG_INLINE V dot2(V acc, __m512i a, __m512i b) { return dot2(acc, (I)a, (I)b); }

// acc[m][r] += x[m] . w[r] for M rows of x and STREAMS rows of w, each in its stored format.
template <int M, int FORMAT>
inline void stream_rows(const dg_matrix& w, int64_t n, const bf16* x, int64_t ldx, V (*acc)[STREAMS]) {
    const int64_t row_bytes = FORMAT == DG_BF16 ? w.columns * 2 : FORMAT == DG_E4M3 ? w.columns : w.columns / 2;
    const Row row = row_of(w, n);
    const int64_t scales = FORMAT == DG_E2M1 ? w.columns / 32 : 0;
    constexpr int64_t CHUNK = FORMAT == DG_E2M1 ? 128 : 64;  // 64 bytes of codes
    for (int64_t k = 0; k < w.columns; k += CHUNK) {
        E4M3Tables t;
        if constexpr (FORMAT == DG_E4M3) t = load_tables(tables.e4m3[row.scale[k / 128]]);
#pragma GCC unroll 8
        for (int r = 0; r < STREAMS; r++) {
            const uint8_t* p = row.data + r * row_bytes;
            if constexpr (FORMAT == DG_E4M3) {
                _mm_prefetch((const char*)p + k + AHEAD * row_bytes, _MM_HINT_T0);
                __m512i a, b;
                decode_e4m3(load_codes(p + k, w.columns - k), t, a, b);
#pragma GCC unroll 2
                for (int m = 0; m < M; m++) {
                    acc[m][r] = dot2(acc[m][r], _mm512_loadu_si512(x + m * ldx + k), a);
                    acc[m][r] = dot2(acc[m][r], _mm512_loadu_si512(x + m * ldx + k + 32), b);
                }
            } else if constexpr (FORMAT == DG_E2M1) {
                _mm_prefetch((const char*)p + k / 2 + AHEAD * row_bytes, _MM_HINT_T0);
                const uint8_t* s = row.scale + r * scales + k / 32;
#pragma GCC unroll 4
                for (int b = 0; b < 4; b++) {
                    if (k + b * 32 >= w.columns) break;
                    const __m512i a = decode_e2m1(p + k / 2 + b * 16, tables.e2m1[s[b]]);
#pragma GCC unroll 2
                    for (int m = 0; m < M; m++)
                        acc[m][r] = dot2(acc[m][r], _mm512_loadu_si512(x + m * ldx + k + b * 32), a);
                }
            } else {
                const bf16* q = (const bf16*)p + k;
                _mm_prefetch((const char*)p + 2 * k + AHEAD * row_bytes, _MM_HINT_T0);
                _mm_prefetch((const char*)p + 2 * k + 64 + AHEAD * row_bytes, _MM_HINT_T0);
#pragma GCC unroll 2
                for (int h = 0; h < 2; h++) {
                    if (k + h * 32 >= w.columns) break;
                    const __m512i a = load_pairs(q + h * 32, w.columns - k - h * 32);
#pragma GCC unroll 2
                    for (int m = 0; m < M; m++)
                        acc[m][r] = dot2(acc[m][r], _mm512_loadu_si512(x + m * ldx + k + h * 32), a);
                }
            }
        }
    }
}

// Columns low .. high - 1 (multiples of STREAMS) of y for M rows of x, which are padded to 128.
template <int M, int FORMAT>
void product_streams(const dg_matrix& w, const bf16* x, int64_t ldx, const Output& y, int64_t low,
                     int64_t high) {
    for (int64_t n = low; n < high; n += STREAMS) {
        V acc[M][STREAMS] = {};
        stream_rows<M, FORMAT>(w, n, x, ldx, acc);
        for (int m = 0; m < M; m++) {
            alignas(64) float sums[LANES] = {};
            for (int r = 0; r < STREAMS; r += 4) sum4(acc[m] + r, sums + r);
            y.put(m, n, load(sums), STREAMS);
        }
    }
}

template <int M>
bool product_streams(const dg_matrix& w, const bf16* x, int64_t ldx, const Output& y, int64_t low,
                     int64_t high) {
    const int64_t whole = low + (high - low) / STREAMS * STREAMS;
    if (w.format == DG_E4M3) product_streams<M, DG_E4M3>(w, x, ldx, y, low, whole);
    else if (w.format == DG_E2M1) product_streams<M, DG_E2M1>(w, x, ldx, y, low, whole);
    else if (w.format == DG_BF16) product_streams<M, DG_BF16>(w, x, ldx, y, low, whole);
    else return false;
    if (whole < high) product_panels(w, x, ldx, M, y, whole, high);
    return true;
}
#endif

// Columns low .. high - 1 of y; low is a multiple of 16.
template <class T>
inline void product(const dg_matrix& w, const T* x, int64_t ldx, int64_t tokens, const Output& y,
                    int64_t low, int64_t high) {
#if DG_AVX512
    if constexpr (sizeof(T) == 2) {
        if (tokens == 1 && product_streams<1>(w, x, ldx, y, low, high)) return;
        if (tokens == 2 && product_streams<2>(w, x, ldx, y, low, high)) return;
    }
#endif
    product_panels(w, x, ldx, tokens, y, low, high);
}

}  // namespace DG_PATH
