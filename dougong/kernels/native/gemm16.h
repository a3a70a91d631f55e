// The same products with operands rounded to BF16 and sums in fp32, where that is asked for.
//
// Two neighbours along k share 32 bits. Operands stay fp32 in memory: a is rounded once into scratch,
// b panel by panel. vdpbf16ps adds two products a step, so the order along k is fixed here as well.
#pragma once
#include "gemm.h"

extern "C" int dg_products(void);

namespace DG_PATH {

// Pair (i, k / 2) lies at data[i * row + k / 2 * column].
struct Pairs {
    const uint32_t* data;
    int64_t row, column;
};

// Sixteen pairs (low, high), each rounded to BF16; low in the lower half.
DG_INLINE void store_pairs(uint32_t* to, V low, V high) {
#if DG_AVX512
    alignas(64) static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(order), both));
#else
    bf16 a[LANES], b[LANES];
    store(a, low);
    store(b, high);
    for (int i = 0; i < LANES; i++) to[i] = a[i] | (uint32_t)b[i] << 16;
#endif
}
// A row of n floats as (n + 1) / 2 pairs; room for a multiple of 16.
DG_INLINE void store_row(uint32_t* to, const float* from, int64_t n) {
    int64_t i = 0;
#if DG_AVX512
    for (; i + 32 <= n; i += 32) {
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16), _mm512_loadu_ps(from + i));
        _mm512_storeu_si512(to + i / 2, both);
    }
#endif
    for (; i < n; i += LANES) store((bf16*)to + i, load_some(from + i, n - i));
}
// Pairs of rows k and k + 1 of a matrix whose columns are contiguous (the last may be alone).
DG_INLINE void store_two_rows(uint32_t* to, const float* row, int64_t stride, bool alone, int64_t width) {
    for (int64_t i = 0; i < width; i += LANES) {
        const V high = alone ? zero() : load_some(row + stride + i, width - i);
        const V low = load_some(row + i, width - i);
        store_pairs(to + i, low, high);
    }
}

// All of a [m, k] as pairs in scratch memory, laid out as a is.
inline Pairs narrow(Operand a, int64_t m, int64_t k) {
    const int64_t half = (k + 1) / 2;
    if (a.column == 1) {
        const int64_t width = (half + LANES - 1) / LANES * LANES;
        uint32_t* to = scratch<uint32_t, 120>(m * width);
        parallel((m + 31) / 32, m * k, [&](int64_t block) {
            for (int64_t i = block * 32; i < std::min(m, block * 32 + 32); i++)
                store_row(to + i * width, a.data + i * a.row, k);
        });
        return {to, width, 1};
    }
    const int64_t width = (m + LANES - 1) / LANES * LANES;
    uint32_t* to = scratch<uint32_t, 120>(half * width);
    parallel((half + 15) / 16, m * k, [&](int64_t block) {
        for (int64_t j = block * 16; j < std::min(half, block * 16 + 16); j++)
            store_two_rows(to + j * width, a.data + 2 * j * a.column, a.column, 2 * j + 1 == k, m);
    });
    return {to, 1, width};
}

// b's rows 0 .. depth - 1 as pairs: [depth / 2, 32].
inline void narrow_panel(Operand b, int64_t depth, int64_t width, uint32_t* panel) {
    const int64_t half = (depth + 1) / 2;
    if (b.column == 1) {
        std::fill(panel, panel + half * GEMM_COLUMNS, 0u);
        for (int64_t j = 0; j < half; j++)
            store_two_rows(panel + j * GEMM_COLUMNS, b.data + 2 * j * b.row, b.row, 2 * j + 1 == depth, width);
        return;
    }
    constexpr int64_t room = GEMM_DEPTH / 2;
    uint32_t* rows = scratch<uint32_t, 121>(GEMM_COLUMNS * room);
    for (int64_t n = 0; n < GEMM_COLUMNS; n++) {
        if (n < width) store_row(rows + n * room, b.data + n * b.column, depth);
        else std::fill(rows + n * room, rows + n * room + half, 0u);
    }
    const int64_t whole = half / LANES * LANES;
    for (int64_t j = 0; j < whole; j += LANES)
        for (int64_t n = 0; n < GEMM_COLUMNS; n += LANES)
            transpose16((const float*)rows + n * room + j, room, (float*)panel + j * GEMM_COLUMNS + n, GEMM_COLUMNS);
    for (int64_t j = whole; j < half; j++)
        for (int64_t n = 0; n < GEMM_COLUMNS; n++) panel[j * GEMM_COLUMNS + n] = rows[n * room + j];
}

DG_INLINE I repeat(uint32_t x) {
    const int32_t i = (int32_t)x;
    return I{i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i};
}

// As gemm_tile, over `half` pairs.
template <int R, int N>
inline void narrow_tile(Pairs a, const uint32_t* panel, int64_t half, float* c, int64_t ldc, int64_t width,
                        bool add) {
    V acc[R][N];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int n = 0; n < N; n++) acc[r][n] = zero();
    const int64_t row = a.row, two = 2 * row, three = 3 * row;
    const uint32_t* p[(R + 3) / 4];
    for (int r = 0; r < R; r += 4) p[r / 4] = a.data + r * row;
    for (int r = 0; r < R; r++) {
        __builtin_prefetch(c + r * ldc, 1);
        if (N == 2) __builtin_prefetch(c + r * ldc + LANES, 1);
    }
    const uint32_t* ahead = a.data + (a.column == 1 ? R * row : 16 * a.column);
    const int64_t step = a.column == 1 ? R * row / half : a.column;
    for (int64_t k = 0; k < half; k++, panel += GEMM_COLUMNS, ahead += step) {
        __builtin_prefetch(ahead);
        I b[N];
#pragma GCC unroll 2
        for (int n = 0; n < N; n++) memcpy(&b[n], panel + n * LANES, sizeof(I));
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            const int of4 = r % 4;
            const I x = repeat(p[r / 4][of4 == 0 ? 0 : of4 == 1 ? row : of4 == 2 ? two : three]);
#pragma GCC unroll 2
            for (int n = 0; n < N; n++) acc[r][n] = dot2(acc[r][n], x, b[n]);
        }
#pragma GCC unroll 3
        for (int r = 0; r < R; r += 4) p[r / 4] += a.column;
    }
    finish_tile<R, N>(acc, c, ldc, width, add);
}
template <int R>
inline void narrow_rows(int64_t rows, Pairs a, const uint32_t* panel, int64_t half, float* c, int64_t ldc,
                        int64_t width, bool add) {
    if constexpr (R > 0) {
        if (rows < R) return narrow_rows<R - 1>(rows, a, panel, half, c, ldc, width, add);
        if (width > LANES) narrow_tile<R, 2>(a, panel, half, c, ldc, width, add);
        else narrow_tile<R, 1>(a, panel, half, c, ldc, width, add);
    }
}

inline void gemm16(Operand a, Operand b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k, bool add) {
    const Pairs pairs = narrow(a, m, k);
    each_panel(m, n, k, [&](int64_t low, int64_t high, int64_t column, int64_t width) {
        uint32_t* panel = scratch<uint32_t, 122>(GEMM_DEPTH / 2 * GEMM_COLUMNS);
        for (int64_t at = 0; at < k; at += GEMM_DEPTH) {
            const int64_t depth = std::min(GEMM_DEPTH, k - at), half = (depth + 1) / 2;
            narrow_panel(b.at(at, column), depth, width, panel);
            for (int64_t r = low; r < high; r += GEMM_ROWS) {
                const uint32_t* start = pairs.data + r * pairs.row + at / 2 * pairs.column;
                narrow_rows<GEMM_ROWS>(std::min<int64_t>(GEMM_ROWS, high - r), {start, pairs.row, pairs.column},
                                       panel, half, c + r * ldc + column, ldc, width, add || at > 0);
            }
        }
    });
}

// In fp32, or with operands in BF16 where dg_set_products said so and both are big enough to gain.
inline void fast_gemm(Operand a, Operand b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                      bool add = false) {
    const bool aligned = (a.column == 1 || a.row == 1) && (b.column == 1 || b.row == 1);
    if (dg_products() && aligned && m >= 8 && n >= LANES && k >= LANES) gemm16(a, b, c, ldc, m, n, k, add);
    else gemm(a, b, c, ldc, m, n, k, add);
}

inline void matmul(const dg_gemm_args& a) {
    (a.wide ? gemm : fast_gemm)({a.a, a.a_row, a.a_column}, {a.b, a.b_row, a.b_column}, a.c, a.c_row, a.m, a.n,
                                a.k, a.add);
}

}  // namespace DG_PATH
