// Products of one or two rows of x: weights go from memory through registers, never to a buffer.
#pragma once
#include "product.h"

namespace DG_PATH {

#if DG_AVX512
// Rows of w read side by side: enough to hide the latency of their sums, and no more, for memory is
// fastest when it is read in order.
template <int FORMAT> constexpr int STREAMS = FORMAT == DG_E2M1 ? 4 : 2;
constexpr int64_t AHEAD_BYTES = 6144;  // what memory delivers while one line is on its way

// acc += x's step . one of w's, for M rows of x.
template <int M> DG_INLINE void add_step(const bf16* x, I words, V* acc) {
#pragma GCC unroll 2
    for (int m = 0; m < M; m++) acc[m] = dot2(acc[m], pairs(x + m * 32), words);
}
template <int M> DG_INLINE void add_step(const float* x, V odds, V evens, V* acc) {
#pragma GCC unroll 2
    for (int m = 0; m < M; m++) {
        acc[m] = fma(load(x + m * LANES), odds, acc[m]);
        acc[m] = fma(load(x + (M + m) * LANES), evens, acc[m]);
    }
}
template <int M> DG_INLINE void add_step(const float* x, I words, V* acc) {
    add_step<M>(x, odd(words), even(words), acc);
}

// The part low .. high of each of S rows of w from row n on, in bytes; acc[r] has the sums of M rows
// of x. The lines behind these rows are fetched in the order of their addresses.
template <int M, int FORMAT, class T, int S>
inline void stream(const dg_matrix& w, int64_t n, const T* x, int64_t low, int64_t high, V (*acc)[M]) {
    using Codes = Unit<FORMAT>;
    const Row row = row_of(w, n);
    const int64_t bytes = row_bytes(w), scales = w.columns / 32;
    const char* ahead = (const char*)row.data + low * S + (S - 1) * bytes + AHEAD_BYTES;
    int64_t step = low * Codes::STEPS / 64;
    for (int64_t at = low; at < high; at += 64, step += Codes::STEPS, ahead += 64 * S) {
        const Codes codes(row, step * 32);
#pragma GCC unroll 4
        for (int r = 0; r < S; r++) {
            I words[Codes::STEPS];
            _mm_prefetch(ahead + r * 64, _MM_HINT_T0);
            const uint8_t* scale = FORMAT == DG_E2M1 ? row.scale + r * scales + step : nullptr;
            codes.decode(row.data + r * bytes + at, scale, high - at, words);
#pragma GCC unroll 4
            for (int j = 0; j < Codes::STEPS; j++) {
                // half a unit: a group of 32 ends here, and behind the last one there is no x
                if (FORMAT == DG_INT8 && j > 0 && high - at <= 32 * j) break;
                add_step<M>(x + (step + j) * 32 * M, words[j], acc[r]);
            }
        }
    }
}
template <int M, int S>
inline void stream_floats(const dg_matrix& w, int64_t n, const float* x, V (*acc)[M]) {
    const float* row = (const float*)row_of(w, n).data;
    const char* ahead = (const char*)(row + (S - 1) * w.columns) + AHEAD_BYTES;
    for (int64_t k = 0; k < w.columns; k += 32, ahead += 128 * S) {
#pragma GCC unroll 2
        for (int r = 0; r < S; r++) {
            float part[32];
            _mm_prefetch(ahead + r * 128, _MM_HINT_T0);
            _mm_prefetch(ahead + r * 128 + 64, _MM_HINT_T0);
            const float* p = whole_step(row + r * w.columns + k, w.columns - k, part);
            add_step<M>(x + k * M, every_second(p, 1), every_second(p, 0), acc[r]);
        }
    }
}

// Sums of S rows of w from row n on, blocks of columns times their scales.
template <int M, int FORMAT, class T, int S>
inline void stream_rows(const dg_matrix& w, int64_t n, const T* x, V (*acc)[M]) {
    if constexpr (FORMAT == DG_F32) {
        stream_floats<M, S>(w, n, x, acc);
    } else {
        const int64_t bytes = row_bytes(w);
        if (!has_block_scales(w)) return stream<M, FORMAT, T, S>(w, n, x, 0, bytes, acc);
        for (int64_t k = 0; k < w.columns; k += w.group) {
            V block[S][M] = {};
            stream<M, FORMAT, T, S>(w, n, x, k, std::min(k + w.group, bytes), block);
            for (int r = 0; r < S; r++)
                for (int m = 0; m < M; m++)
                    acc[r][m] = fma(block[r][m], splat(scale_at(w, n + r, k)), acc[r][m]);
        }
    }
}

// Columns low .. high - 1 of y for the M rows of x; low is a multiple of 16.
template <int M, int FORMAT, class W, class T>
void product_streams(const dg_matrix& w, const Rows<T>& x, const Output& y, int64_t low, int64_t high) {
    constexpr int S = STREAMS<FORMAT>, BATCH = 16;  // rows of w whose sums are written together
    const int64_t whole = low + (high - low) / S * S;
    alignas(64) float sums[M][BATCH];
    for (int64_t n = low; n < whole; n += BATCH) {
        const int64_t count = std::min<int64_t>(BATCH, whole - n);
        for (int64_t c = 0; c < count; c += S) {
            V acc[S][M] = {};
            stream_rows<M, FORMAT, T, S>(w, n + c, x.data, acc);
            for (int m = 0; m < M; m++)
                for (int r = 0; r < S; r++) sums[m][c + r] = sum(acc[r][m]);
        }
        for (int m = 0; m < M; m++) put_sums(w, sums[m], count, y, m, n);
    }
    if (whole < high) product_panels<W>(w, x, y, whole, high);
}
template <int M, class T>
void product_streams(const dg_matrix& w, const Rows<T>& x, const Output& y, int64_t low, int64_t high) {
    switch (w.format) {
        case DG_E4M3: return product_streams<M, DG_E4M3, bf16>(w, x, y, low, high);
        case DG_E2M1: return product_streams<M, DG_E2M1, bf16>(w, x, y, low, high);
        case DG_INT8: return product_streams<M, DG_INT8, bf16>(w, x, y, low, high);
        case DG_BF16: return product_streams<M, DG_BF16, bf16>(w, x, y, low, high);
    }
    if constexpr (sizeof(T) == 4) product_streams<M, DG_F32, float>(w, x, y, low, high);
}
#endif

// Columns low .. high - 1 of y; low is a multiple of 16. A float matrix takes float rows only.
template <class T>
inline void product(const dg_matrix& w, const Rows<T>& x, const Output& y, int64_t low, int64_t high) {
#if DG_AVX512
    if (x.count == 1) return product_streams<1>(w, x, y, low, high);
    if (x.count == 2) return product_streams<2>(w, x, y, low, high);
#endif
    if constexpr (sizeof(T) == 4)
        if (w.format == DG_F32) return product_panels<float>(w, x, y, low, high);
    product_panels<bf16>(w, x, y, low, high);
}

}  // namespace DG_PATH
