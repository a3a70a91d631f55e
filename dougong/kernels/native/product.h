// y = x @ w^T with equal bits: a row of y depends on its row of x and on w alone.
//
// Lane i of an accumulator takes k = i, i + 16, ... (bf16: pairs 2i and 2i + 1 of every 32) in order;
// at the end the lanes are added in one tree. Nothing else ever decides an order, so one row or a
// thousand, one thread or many, decoded in registers or in cache: the bits are the same.
#pragma once
#include "decode.h"

namespace DG_PATH {

#if DG_AVX512
constexpr int MR = 6;  // rows of x in a tile: 24 accumulators, 4 vectors of w, and room for x
#else
constexpr int MR = 2;
#endif
constexpr int NR = 4;        // rows of w in a tile
constexpr int PANEL = 16;    // rows of w decoded together
constexpr int64_t KB = 1024; // elements of K between saving accumulators: x and w stay in L1

DG_INLINE int64_t padded(int64_t columns) { return (columns + 63) / 64 * 64; }

// rows x NR accumulators over `steps` vectors; kept in `acc` (stride PANEL) between blocks of K.
template <int R, class T>
inline void tile(const T* x, int64_t ldx, const T* const* w, int64_t count, V* acc, bool first) {
    V a[R][NR];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < NR; c++) a[r][c] = first ? zero() : acc[r * PANEL + c];
    const T *w0 = w[0], *w1 = w[1], *w2 = w[2], *w3 = w[3];
    for (int64_t k = 0; k < count; k += STEP<T>) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const T* xr = x + r * ldx + k;
            a[r][0] = multiply_add(a[r][0], xr, w0 + k);
            a[r][1] = multiply_add(a[r][1], xr, w1 + k);
            a[r][2] = multiply_add(a[r][2], xr, w2 + k);
            a[r][3] = multiply_add(a[r][3], xr, w3 + k);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < NR; c++) acc[r * PANEL + c] = a[r][c];
}
template <class T>
inline void tile_rows(int rows, const T* x, int64_t ldx, const T* const* w, int64_t count, V* acc,
                      bool first) {
    switch (rows) {
        case 1: return tile<1>(x, ldx, w, count, acc, first);
        case 2: return tile<2>(x, ldx, w, count, acc, first);
#if DG_AVX512
        case 3: return tile<3>(x, ldx, w, count, acc, first);
        case 4: return tile<4>(x, ldx, w, count, acc, first);
        case 5: return tile<5>(x, ldx, w, count, acc, first);
        default: return tile<6>(x, ldx, w, count, acc, first);
#endif
    }
}

struct Output {  // where y goes; float or bf16
    void* data;
    int64_t stride;
    bool is_bf16;
    DG_METHOD void put(int64_t m, int64_t n, float value) const {
        if (!is_bf16) {
            ((float*)data)[m * stride + n] = value;
            return;
        }
        uint32_t u;
        memcpy(&u, &value, 4);
        const bool nan = value != value;
        ((bf16*)data)[m * stride + n] = nan ? 0x7fc0 : (bf16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
};

// Sums of `rows` x `columns` accumulators to y[m .., n ..].
inline void finish(const dg_matrix& w, V* acc, int rows, int columns, const Output& y, int64_t m,
                   int64_t n) {
    const float* scale = w.format == DG_INT8 ? (const float*)w.scale : nullptr;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c += NR) {
            float sums[NR];
            sum4(acc + r * PANEL + c, sums);
            for (int i = 0; i < NR && c + i < columns; i++)
                y.put(m + r, n + c + i, scale ? sums[i] * scale[n + c + i] : sums[i]);
        }
}

// The panel's rows of w as T: in place if they are stored so, else decoded.
template <class T>
inline void open_panel(const dg_matrix& w, int64_t n, int count, const T** rows) {
    const bool in_place = w.format == (sizeof(T) == 4 ? DG_F32 : DG_BF16) && w.columns % STEP<T> == 0;
    const int64_t width = padded(w.columns);
    T* panel = in_place ? nullptr : scratch<T, 0>(PANEL * width);
    for (int r = 0; r < PANEL; r++) {
        const int real = std::min(r, count - 1);  // missing rows repeat the last one; never written
        if (in_place) {
            rows[r] = (const T*)row_of(w, n + real).data;
        } else {
            if (r < count) decode_row(w, n + r, panel + r * width, width);
            rows[r] = panel + real * width;
        }
    }
}

// Columns low .. high - 1 of y for all rows; x is T with zeros from w.columns to the next step.
template <class T>
void product_panels(const dg_matrix& w, const T* x, int64_t ldx, int64_t tokens, const Output& y,
                    int64_t low, int64_t high) {
    const int64_t depth = (w.columns + STEP<T> - 1) / STEP<T> * STEP<T>;
    alignas(64) V acc[MR * PANEL];
    for (int64_t n = low; n < high; n += PANEL) {
        const int count = (int)std::min<int64_t>(PANEL, high - n);
        const T* rows[PANEL];
        open_panel(w, n, count, rows);
        for (int64_t m = 0; m < tokens; m += MR) {
            const int height = (int)std::min<int64_t>(MR, tokens - m);
            for (int64_t k = 0; k < depth; k += KB) {
                const int64_t steps = std::min(KB, depth - k);
                for (int c = 0; c < count; c += NR) {
                    const T* at[NR] = {rows[c] + k, rows[c + 1] + k, rows[c + 2] + k, rows[c + 3] + k};
                    tile_rows(height, x + m * ldx + k, ldx, at, steps, acc + c, k == 0);
                }
            }
            finish(w, acc, height, count, y, m, n);
        }
    }
}

}  // namespace DG_PATH
