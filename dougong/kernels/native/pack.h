// Rows of x as products read them: in tiles of MR rows, step by step, in the order of w's format.
#pragma once
#include "decode.h"
#include "rounding.h"

namespace DG_PATH {

#if DG_AVX512
constexpr int MR = 6;  // rows of x in a tile: 24 accumulators, 4 vectors of w, and room for x
#else
constexpr int MR = 2;
#endif

// `count` rows of T padded to `width`. Rows m .. m + R - 1, m a multiple of MR, are the tile at m
// times width: of each 32 elements R vectors of bf16, or R vectors of the sixteen odd floats and then
// R of the even ones.
template <class T> struct Rows {
    const T* data;
    int64_t count, width;
    DG_METHOD Rows from(int64_t m, int64_t rows) const { return {data + m * width, rows, width}; }
};

inline void place(const float* row, int64_t width, bool nibbles, float* out, int rows) {
    for (int64_t k = 0; k < width; k += 32, out += 32 * rows) {
        float order[32];
        if (nibbles)
            for (int i = 0; i < 32; i++) order[i] = row[nibble_order(k + i)];
        const float* from = nibbles ? order : row + k;
        store(out, every_second(from, 1));
        store(out + LANES * rows, every_second(from, 0));
    }
}
inline void place(const bf16* row, int64_t width, bool nibbles, bf16* out, int rows) {
    const int64_t step = 32 * rows;
    if (!nibbles) {
        for (int64_t k = 0; k < width; k += 32, out += step) store(out, pairs(row + k));
        return;
    }
#if DG_AVX512
    bf16 index[32];  // words 4i of 64, then words 4i + 1
    for (int i = 0; i < 32; i++) index[i] = (bf16)(i % 16 * 4 + i / 16);
    const __m512i two = _mm512_loadu_si512(index);
    const __m512i next = _mm512_add_epi16(two, _mm512_set1_epi16(2));
    for (int64_t k = 0; k < width; k += 128, out += 4 * step) {
        const __m512i a = (__m512i)pairs(row + k), b = (__m512i)pairs(row + k + 32);
        const __m512i c = (__m512i)pairs(row + k + 64), d = (__m512i)pairs(row + k + 96);
        for (int j = 0; j < 4; j += 2) {
            const __m512i low = _mm512_permutex2var_epi16(a, j ? next : two, b);
            const __m512i high = _mm512_permutex2var_epi16(c, j ? next : two, d);
            store(out + j * step, (I)_mm512_shuffle_i64x2(low, high, 0x44));
            store(out + (j + 1) * step, (I)_mm512_shuffle_i64x2(low, high, 0xee));
        }
    }
#else
    for (int64_t p = 0; p < width; p++) out[p / 32 * step + p % 32] = row[nibble_order(p)];
#endif
}

// A row as T, rounded if asked, zeros behind its columns: where it is, or in a buffer.
template <class T, class X>
inline const T* widened(const X* x, int64_t columns, int64_t width, bool rounded) {
    if constexpr (sizeof(T) == sizeof(X))
        if (!rounded && columns == width) return x;
    T* out = scratch<T, 11>(width);
    if (rounded) {
        float* row = scratch<float, 10>(width);
        for (int64_t i = 0; i < columns; i += LANES)
            store_some(row + i, load_some(x + i, columns - i), columns - i);
        round_groups<false>(row, columns, LINEAR_GROUP);
        for (int64_t i = 0; i < columns; i += LANES)
            store_some(out + i, load_some(row + i, columns - i), columns - i);
    } else {
        for (int64_t i = 0; i < columns; i += LANES)
            store_some(out + i, load_some(x + i, columns - i), columns - i);
    }
    std::fill(out + columns, out + width, T(0));
    return out;
}

// What rows must look like to meet a matrix.
struct Layout {
    int64_t columns;
    bool rounded, nibbles;
};
DG_INLINE Layout layout_for(const dg_matrix& w, int64_t rounded) {
    return {w.columns, rounded != 0, w.format == DG_E2M1};
}
// Rows m .. m + rows - 1, of which row m is at source(m), as a tile at `out`.
template <class T, class F>
inline void pack_tile(F source, int64_t m, int rows, const Layout& layout, T* out) {
    const int64_t width = padded(layout.columns);
    for (int r = 0; r < rows; r++) {
        const T* row = widened<T>(source(m + r), layout.columns, width, layout.rounded);
        place(row, width, layout.nibbles, out + r * (64 / sizeof(T)), rows);
    }
}
template <class T, int slot, class X>
inline Rows<T> pack(const X* x, int64_t tokens, int64_t stride, const Layout& layout) {
    const int64_t width = padded(layout.columns), tiles = (tokens + MR - 1) / MR;
    if constexpr (sizeof(T) == 2 && sizeof(X) == 2)
        if (tokens == 1 && !layout.rounded && !layout.nibbles && layout.columns == width)
            return {x, 1, width};
    T* out = scratch<T, slot>(tokens * width);
    parallel(tiles, tokens * width, [&](int64_t i) {
        const int64_t m = i * MR;
        pack_tile([&](int64_t r) { return x + r * stride; }, m, (int)std::min<int64_t>(MR, tokens - m),
                  layout, out + m * width);
    });
    return {out, tokens, width};
}
template <class T, int slot>
inline Rows<T> pack(const void* x, int64_t x_dtype, int64_t tokens, int64_t stride,
                    const Layout& layout) {
    if (x_dtype == DG_BFLOAT16) return pack<T, slot>((const bf16*)x, tokens, stride, layout);
    return pack<T, slot>((const float*)x, tokens, stride, layout);
}
// bf16 products where nothing is lost by them: bf16 or FP8-rounded rows, weights that fit in bf16.
DG_INLINE bool in_bf16(const dg_matrix& w, int64_t x_dtype, int64_t rounded) {
    return w.format != DG_F32 && (x_dtype == DG_BFLOAT16 || rounded);
}

}  // namespace DG_PATH
