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
constexpr int64_t KB_BYTES = 4096;  // of K between saving accumulators: tiles of x and w fit in L1

DG_INLINE int64_t padded(int64_t columns) { return (columns + 63) / 64 * 64; }

// R x NR accumulators over `count` elements of K, kept in `acc` (stride PANEL) between blocks of K.
// AHEAD: brings the next tile's rows of x nearer meanwhile.
template <int R, bool AHEAD, class T>
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
            if (AHEAD) __builtin_prefetch(xr + R * ldx, 0, 2);
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
inline void tile_rows(int rows, bool ahead, const T* x, int64_t ldx, const T* const* w,
                      int64_t count, V* acc, bool first) {
    if (ahead && rows == MR) return tile<MR, true>(x, ldx, w, count, acc, first);
    switch (rows) {
        case 1: return tile<1, false>(x, ldx, w, count, acc, first);
        case 2: return tile<2, false>(x, ldx, w, count, acc, first);
#if DG_AVX512
        case 3: return tile<3, false>(x, ldx, w, count, acc, first);
        case 4: return tile<4, false>(x, ldx, w, count, acc, first);
        case 5: return tile<5, false>(x, ldx, w, count, acc, first);
        default: return tile<6, false>(x, ldx, w, count, acc, first);
#endif
    }
}

struct Output {  // where y goes; float or bf16
    void* data;
    int64_t stride;
    bool is_bf16;
    DG_METHOD void put(int64_t m, int64_t n, V values, int64_t count) const {
        if (is_bf16) store_some((bf16*)data + m * stride + n, values, count);
        else store_some((float*)data + m * stride + n, values, count);
    }
};

// Sums of `rows` x `columns` (at most 16) accumulators to y[m .., n ..].
inline void finish(const dg_matrix& w, V* acc, int rows, int columns, const Output& y, int64_t m,
                   int64_t n) {
    alignas(64) float sums[PANEL];
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int c = 0; c < PANEL; c += NR) sum4(acc + r * PANEL + c, sums + c);
        V value = load(sums);
        if (w.format == DG_INT8) value = value * load_some((const float*)w.scale + n, columns);
        y.put(m + r, n, value, columns);
    }
}

// The panel's rows of w as T: in place if they are stored so and not worth a copy, else decoded.
template <class T>
inline void open_panel(const dg_matrix& w, int64_t n, int count, bool reused, const T** rows) {
    const bool in_place = !reused && w.columns % STEP<T> == 0 &&
                          w.format == (sizeof(T) == 4 ? DG_F32 : DG_BF16);
    const int64_t width = padded(w.columns) + 64 / sizeof(T);  // rows apart in the cache's sets
    T* panel = in_place ? nullptr : scratch<T, 0>(PANEL * width);
    for (int r = 0; r < PANEL; r++) {
        const int real = std::min(r, count - 1);  // missing rows repeat the last one; never written
        if (in_place) {
            rows[r] = (const T*)row_of(w, n + real).data;
        } else {
            if (r < count) decode_row(w, n + r, panel + r * width, padded(w.columns));
            rows[r] = panel + real * width;
        }
    }
}

// Columns low .. high - 1 of y for all rows; x is T with zeros from w.columns to the next step.
template <class T>
void product_panels(const dg_matrix& w, const T* x, int64_t ldx, int64_t tokens, const Output& y,
                    int64_t low, int64_t high) {
    const int64_t depth = (w.columns + STEP<T> - 1) / STEP<T> * STEP<T>;
    constexpr int64_t block = KB_BYTES / sizeof(T);
    alignas(64) V acc[MR * PANEL] = {};  // what a narrow panel leaves untouched is never written
    for (int64_t n = low; n < high; n += PANEL) {
        const int count = (int)std::min<int64_t>(PANEL, high - n);
        const T* rows[PANEL];
        open_panel(w, n, count, tokens > MR, rows);
        for (int64_t m = 0; m < tokens; m += MR) {
            const int height = (int)std::min<int64_t>(MR, tokens - m);
            for (int64_t k = 0; k < depth; k += block) {
                const int64_t steps = std::min(block, depth - k);
                for (int c = 0; c < count; c += NR) {
                    const T* at[NR] = {rows[c] + k, rows[c + 1] + k, rows[c + 2] + k, rows[c + 3] + k};
                    tile_rows(height, c == 0, x + m * ldx + k, ldx, at, steps, acc + c, k == 0);
                }
            }
            finish(w, acc, height, count, y, m, n);
        }
    }
}

}  // namespace DG_PATH
