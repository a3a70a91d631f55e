// y = x @ w^T with equal bits: a row of y depends on its row of x and on w alone.
//
// An element of y is sixteen sums. Of every 32 elements in their order lane i adds the odd one of
// its pair, then the even one, each by one fused multiply-add; where w has a float scale for a block
// of columns, the block's sums, begun at zero, are multiplied by it and added by one more. At the
// end the lanes are added in one tree. Nothing else ever decides an order, so one row or a thousand,
// one thread or many, decoded in registers or in cache: the bits are the same.
#pragma once
#include "pack.h"

namespace DG_PATH {

constexpr int64_t BLOCK_BYTES = 4096;        // of a row of x before sums are saved: a tile stays in L1
constexpr int64_t PANEL_BYTES = 512 * 1024;  // of decoded w, which stays in L2
constexpr int MAX_PANEL = 64;                // rows of w

// Memory that comes nearer meanwhile: `stride` bytes a step.
struct Ahead {
    const char* at;
    int64_t stride;
    DG_METHOD void step() {
        __builtin_prefetch(at, 0, 2);
        for (int64_t more = 64; __builtin_expect(more < stride, 0); more += 64)
            __builtin_prefetch(at + more, 0, 2);
        at += stride;
    }
};
struct Next {
    Ahead w;  // what the next panel will be decoded from
    Ahead x;  // the next block of x
};

// acc += x's step r of R . w's step c of NR, for all of both.
template <int R> DG_INLINE void step(const bf16* x, const bf16* w, V (*a)[NR]) {
    const I w0 = pairs(w), w1 = pairs(w + 32), w2 = pairs(w + 64), w3 = pairs(w + 96);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        const I v = pairs(x + r * 32);
        a[r][0] = dot2(a[r][0], v, w0);
        a[r][1] = dot2(a[r][1], v, w1);
        a[r][2] = dot2(a[r][2], v, w2);
        a[r][3] = dot2(a[r][3], v, w3);
    }
}
template <int R> DG_INLINE void half_step(const float* x, V w0, V w1, V w2, V w3, V (*a)[NR]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        const V v = load(x + r * LANES);
        a[r][0] = fma(v, w0, a[r][0]);
        a[r][1] = fma(v, w1, a[r][1]);
        a[r][2] = fma(v, w2, a[r][2]);
        a[r][3] = fma(v, w3, a[r][3]);
    }
}
template <int R> DG_INLINE void step(const float* x, const bf16* w, V (*a)[NR]) {
    const bf16 *w1 = w + 32, *w2 = w + 64, *w3 = w + 96;
    half_step<R>(x, odd(pairs(w)), odd(pairs(w1)), odd(pairs(w2)), odd(pairs(w3)), a);
    x += R * LANES;
    half_step<R>(x, even(pairs(w)), even(pairs(w1)), even(pairs(w2)), even(pairs(w3)), a);
}
template <int R> DG_INLINE void step(const float* x, const float* w, V (*a)[NR]) {
    half_step<R>(x, load(w), load(w + 16), load(w + 32), load(w + 48), a);
    half_step<R>(x + R * LANES, load(w + 64), load(w + 80), load(w + 96), load(w + 112), a);
}

// One block of columns of a tile: R rows of x, NR of w. `acc` keeps the sums between blocks.
struct Block {
    int64_t steps;
    const float* scale;  // of each row of w, or null
    bool first;
    float* sums;  // [R, MAX_PANEL]: where the lanes' totals go after the last block, else null
};
template <int R, class T, class W>
inline void tile(const T* x, const W* w, const Block& block, V* acc, Next& next) {
    const bool fresh = block.first || block.scale;
    V a[R][NR];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < NR; c++) a[r][c] = fresh ? zero() : acc[r * NR + c];
    for (int64_t s = 0; s < block.steps; s++) {
        next.w.step();
        next.x.step();
        step<R>(x, w, a);
        x += R * 32;
        w += NR * 32;
    }
    if (block.scale)
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int c = 0; c < NR; c++)
                a[r][c] = fma(a[r][c], splat(block.scale[c]), block.first ? zero() : acc[r * NR + c]);
    if (block.sums) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) sum4(a[r], block.sums + r * MAX_PANEL);
        return;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < NR; c++) acc[r * NR + c] = a[r][c];
}
template <class T, class W>
inline void tile_rows(int rows, const T* x, const W* w, const Block& block, V* acc, Next& next) {
    switch (rows) {
        case 1: return tile<1>(x, w, block, acc, next);
#if DG_AVX512
        case 2: return tile<2>(x, w, block, acc, next);
        case 3: return tile<3>(x, w, block, acc, next);
        case 4: return tile<4>(x, w, block, acc, next);
        case 5: return tile<5>(x, w, block, acc, next);
#endif
        default: return tile<MR>(x, w, block, acc, next);
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
    DG_METHOD Output from(int64_t m) const {
        return {(char*)data + m * stride * (is_bf16 ? 2 : 4), stride, is_bf16};
    }
};
// `count` sums of w's rows n .. to y[m, n ..].
inline void put_sums(const dg_matrix& w, const float* sums, int64_t count, const Output& y, int64_t m,
                     int64_t n) {
    const bool row_scales = w.group && !has_block_scales(w);
    for (int64_t c = 0; c < count; c += LANES) {
        V value = load(sums + c);
        if (row_scales) value = value * load_some((const float*)w.scale + n + c, count - c);
        y.put(m, n + c, value, count - c);
    }
}

// Rows n .. n + count - 1 of w: decoded, NR side by side, step by step.
template <class W> struct Panel {
    const W* data;
    int64_t n, count, depth;
    DG_METHOD const W* at(int64_t c, int64_t step) const { return data + c * depth + step * 32 * NR; }
};
template <class W> inline Panel<W> open_panel(const dg_matrix& w, int64_t n, int64_t count) {
    const int64_t depth = padded(w.columns);
    W* panel = scratch<W, 0>((count + NR - 1) / NR * NR * depth);
    for (int64_t c = 0; c < count; c += NR)
        decode_rows(w, n + c, std::min<int64_t>(NR, count - c), panel + c * depth);
    return {panel, n, count, depth};
}

// A tile of x with the whole panel.
template <class T, class W>
inline void tile_panel(const dg_matrix& w, const Panel<W>& panel, const T* x, int rows, const Output& y,
                       int64_t m, Next& next) {
    V* acc = scratch<V, 2>(MR * MAX_PANEL);
    float *sums = scratch<float, 3>(MR * MAX_PANEL), scale[NR];
    const bool scaled = has_block_scales(w);
    const int64_t steps = scaled ? (w.columns + 31) / 32 : panel.depth / 32;
    const int64_t at_once = scaled ? w.group / 32 : BLOCK_BYTES / (int64_t)(32 * sizeof(T));
    for (int64_t s = 0; s < steps; s += at_once) {
        const int64_t now = std::min(at_once, steps - s);
        const T* at = x + s * 32 * rows;
        next.x = {(const char*)(at + now * 32 * rows),
                  (int64_t)(32 * sizeof(T)) * rows * NR / std::max<int64_t>(panel.count, NR)};
        for (int64_t c = 0; c < panel.count; c += NR) {
            for (int64_t i = 0; scaled && i < NR; i++)
                scale[i] = scale_at(w, std::min(panel.n + c + i, w.rows - 1), s * 32);
            const Block block{now, scaled ? scale : nullptr, s == 0,
                              s + now == steps ? sums + c : nullptr};
            tile_rows(rows, at, panel.at(c, s), block, acc + c * MR, next);
        }
    }
    for (int r = 0; r < rows; r++) put_sums(w, sums + r * MAX_PANEL, panel.count, y, m + r, panel.n);
}

// Columns low .. high - 1 of y for all rows; w decoded as W.
template <class W, class T>
void product_panels(const dg_matrix& w, const Rows<T>& x, const Output& y, int64_t low, int64_t high) {
    const int64_t fits = PANEL_BYTES / (x.width * (int64_t)sizeof(W)) / 16 * 16;
    const int64_t size = std::clamp<int64_t>(fits, 16, MAX_PANEL), tiles = (x.count + MR - 1) / MR;
    for (int64_t n = low; n < high; n += size) {
        const Panel<W> panel = open_panel<W>(w, n, std::min(size, high - n));
        const int64_t end = n + panel.count, more = std::min(size, high - end) * row_bytes(w);
        const int64_t work = tiles * ((panel.count + NR - 1) / NR) * (x.width / 32);
        Next next{};
        next.w = {(const char*)row_of(w, end).data, (more + work - 1) / work};
        for (int64_t m = 0; m < x.count; m += MR) {
            const int rows = (int)std::min<int64_t>(MR, x.count - m);
            tile_panel(w, panel, x.data + m * x.width, rows, y, m, next);
        }
    }
}

}  // namespace DG_PATH
