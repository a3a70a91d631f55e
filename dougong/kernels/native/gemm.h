// c = a @ b in fp32 for training: any strides, so that a transpose is never copied.
//
// Tiles of GEMM_ROWS x 32 accumulators run along k; b is copied panel by panel into the cache, a is
// read where it lies. Every element of c adds its products in the order of k, whatever the number of
// threads, so the bits depend on the shapes alone.
#pragma once
#include "runtime.h"
#include "training_abi.h"

namespace DG_PATH {

#if DG_AVX512
constexpr int GEMM_ROWS = 12;  // 24 accumulators, 2 vectors of b: 26 of 32 registers
#else
constexpr int GEMM_ROWS = 2;
#endif
constexpr int64_t GEMM_COLUMNS = 2 * LANES;
constexpr int64_t GEMM_DEPTH = 256;  // a panel of b is 32 KB: it stays in the L1 cache

// Element (i, j) lies at data[i * row + j * column].
struct Operand {
    const float* data;
    int64_t row, column;
    DG_METHOD Operand t() const { return {data, column, row}; }
    DG_METHOD Operand at(int64_t i, int64_t j) const { return {data + i * row + j * column, row, column}; }
};
DG_INLINE Operand rows_of(const float* data, int64_t width) { return {data, width, 1}; }

DG_INLINE V broadcast(float x) { return V{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

// Transposes 16 x 16 floats: from[i * stride + j] to to[j * to_stride + i].
DG_INLINE void transpose16(const float* from, int64_t stride, float* to, int64_t to_stride) {
#if DG_AVX512
    __m512 r[16], s[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_ps(from + i * stride);
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_shuffle_ps(s[i], s[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(s[i], s[i + 2], 0xee);
        r[i + 2] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        s[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        s[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        s[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        s[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_ps(to + i * to_stride, _mm512_shuffle_f32x4(s[i], s[i + 8], 0x88));
        _mm512_storeu_ps(to + (i + 4) * to_stride, _mm512_shuffle_f32x4(s[i + 4], s[i + 12], 0x88));
        _mm512_storeu_ps(to + (i + 8) * to_stride, _mm512_shuffle_f32x4(s[i], s[i + 8], 0xdd));
        _mm512_storeu_ps(to + (i + 12) * to_stride, _mm512_shuffle_f32x4(s[i + 4], s[i + 12], 0xdd));
    }
#else
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) to[j * to_stride + i] = from[i * stride + j];
#endif
}

// Rows 0 .. depth - 1 and columns 0 .. width - 1 of b as [depth, 32], the missing columns zero.
inline void pack_panel(Operand b, int64_t depth, int64_t width, float* panel) {
    if (b.column == 1) {
        for (int64_t k = 0; k < depth; k++)
            for (int64_t n = 0; n < GEMM_COLUMNS; n += LANES)
                store(panel + k * GEMM_COLUMNS + n,
                      n < width ? load_some(b.data + k * b.row + n, width - n) : zero());
        return;
    }
    int64_t whole = b.row == 1 && width == GEMM_COLUMNS ? depth / LANES * LANES : 0;
    for (int64_t k = 0; k < whole; k += LANES)
        for (int64_t n = 0; n < GEMM_COLUMNS; n += LANES)
            transpose16(b.data + n * b.column + k, b.column, panel + k * GEMM_COLUMNS + n, GEMM_COLUMNS);
    for (int64_t k = whole; k < depth; k++)
        for (int64_t n = 0; n < GEMM_COLUMNS; n++)
            panel[k * GEMM_COLUMNS + n] = n < width ? b.data[k * b.row + n * b.column] : 0.0f;
}

// A tile's sums to c, or added to it.
template <int R, int N>
DG_INLINE void finish_tile(V (&acc)[R][N], float* c, int64_t ldc, int64_t width, bool add) {
    if (width == N * LANES) {
#pragma GCC unroll 12
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int n = 0; n < N; n++) {
                float* to = c + r * ldc + n * LANES;
                store(to, add ? load(to) + acc[r][n] : acc[r][n]);
            }
        return;
    }
    V kept[R][N];  // a copy: indexing `acc` by a variable would keep it out of the registers
    memcpy(kept, acc, sizeof kept);
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) {
            float* to = c + r * ldc + n * LANES;
            const int64_t left = width - n * LANES;
            store_some(to, add ? load_some(to, left) + kept[r][n] : kept[r][n], left);
        }
}

// R rows of a times N vectors of the panel.
template <int R, int N>
inline void gemm_tile(Operand a, const float* panel, int64_t depth, float* c, int64_t ldc,
                      int64_t width, bool add) {
    V acc[R][N];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int n = 0; n < N; n++) acc[r][n] = zero();
    const int64_t row = a.row, two = 2 * row, three = 3 * row;
    const float* p[(R + 3) / 4];  // every fourth row: the others are one address away
    for (int r = 0; r < R; r += 4) p[r / 4] = a.data + r * row;
    for (int r = 0; r < R; r++) {
        __builtin_prefetch(c + r * ldc, 1);
        if (N == 2) __builtin_prefetch(c + r * ldc + LANES, 1);
    }
    // the next rows of a: behind these ones, or (transposed) farther along k
    const float* ahead = a.data + (a.column == 1 ? R * row : 16 * a.column);
    const int64_t step = a.column == 1 ? R * row / depth : a.column;
    for (int64_t k = 0; k < depth; k++, panel += GEMM_COLUMNS, ahead += step) {
        __builtin_prefetch(ahead);
        V b[N];
#pragma GCC unroll 2
        for (int n = 0; n < N; n++) b[n] = load(panel + n * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            const int of4 = r % 4;
            const float* q = p[r / 4] + (of4 == 0 ? 0 : of4 == 1 ? row : of4 == 2 ? two : three);
            const V x = broadcast(*q);
#pragma GCC unroll 2
            for (int n = 0; n < N; n++) acc[r][n] = fma(x, b[n], acc[r][n]);
        }
#pragma GCC unroll 3
        for (int r = 0; r < R; r += 4) p[r / 4] += a.column;
    }
    finish_tile<R, N>(acc, c, ldc, width, add);
}
template <int R>
inline void gemm_rows(int64_t rows, Operand a, const float* panel, int64_t depth, float* c,
                      int64_t ldc, int64_t width, bool add) {
    if constexpr (R > 0) {
        if (rows < R) return gemm_rows<R - 1>(rows, a, panel, depth, c, ldc, width, add);
        if (width > LANES) gemm_tile<R, 2>(a, panel, depth, c, ldc, width, add);
        else gemm_tile<R, 1>(a, panel, depth, c, ldc, width, add);
    }
}

// body(first row, last row + 1, first column, columns) for every piece of c that one thread computes.
template <class F> void each_panel(int64_t m, int64_t n, int64_t k, F body) {
    const int64_t panels = (n + GEMM_COLUMNS - 1) / GEMM_COLUMNS;
    const int64_t heights = dg_threads() > 1 ? (m + 503) / 504 : 1;  // 504 = 42 tiles of 12
    parallel(panels * heights, m * n * k, [&](int64_t i) {
        const int64_t low = i / panels * 504, high = heights == 1 ? m : std::min(m, low + 504);
        const int64_t column = i % panels * GEMM_COLUMNS;
        body(low, high, column, std::min(GEMM_COLUMNS, n - column));
    });
}

// c[m, n] (rows ldc apart) = a[m, k] @ b[k, n], added to what is there if `add`.
inline void gemm(Operand a, Operand b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                 bool add = false) {
    each_panel(m, n, k, [&](int64_t low, int64_t high, int64_t column, int64_t width) {
        float* panel = scratch<float, 70>(GEMM_DEPTH * GEMM_COLUMNS);
        for (int64_t at = 0; at < k; at += GEMM_DEPTH) {
            const int64_t depth = std::min(GEMM_DEPTH, k - at);
            pack_panel(b.at(at, column), depth, width, panel);
            for (int64_t r = low; r < high; r += GEMM_ROWS)
                gemm_rows<GEMM_ROWS>(std::min<int64_t>(GEMM_ROWS, high - r), a.at(r, at), panel, depth,
                                     c + r * ldc + column, ldc, width, add || at > 0);
        }
    });
}

}  // namespace DG_PATH
