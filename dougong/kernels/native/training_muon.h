// Muon's update of a batch of matrices: momentum, Newton-Schulz and step while a matrix is in cache.
#pragma once
#include "gemm.h"

namespace DG_PATH {

// c = a @ b where that is symmetric: tiles below the diagonal are copied from above it.
inline void gemm_symmetric(Operand a, Operand b, float* c, int64_t n, int64_t k) {
    float* panel = scratch<float, 70>(GEMM_DEPTH * GEMM_COLUMNS);
    for (int64_t column = 0; column < n; column += GEMM_COLUMNS) {
        const int64_t width = std::min(GEMM_COLUMNS, n - column), last = std::min(n, column + GEMM_COLUMNS);
        for (int64_t at = 0; at < k; at += GEMM_DEPTH) {
            const int64_t depth = std::min(GEMM_DEPTH, k - at);
            pack_panel(b.at(at, column), depth, width, panel);
            for (int64_t r = 0; r < last; r += GEMM_ROWS)
                gemm_rows<GEMM_ROWS>(std::min<int64_t>(GEMM_ROWS, last - r), a.at(r, at), panel, depth,
                                     c + r * n + column, n, width, at > 0);
        }
    }
    for (int64_t i = 0; i < n; i += LANES)
        for (int64_t j = 0; j < i; j += LANES) {
            if (i + LANES <= n) {
                transpose16(c + j * n + i, n, c + i * n + j, n);
                continue;
            }
            for (int64_t r = i; r < n; r++)
                for (int64_t q = j; q < j + LANES; q++) c[r * n + q] = c[q * n + r];
        }
}

// x [n, m], n <= m, towards the nearest matrix with all singular values 1.
inline void newton_schulz(const dg_muon_args& a, float*& x, float*& next, int64_t n, int64_t m) {
    float* gram = scratch<float, 100>(n * n);
    float* poly = scratch<float, 101>(n * n);
    for (int64_t i = 0; i < a.rounds; i++) {
        const float *c = a.coefficients + 3 * i;
        gemm_symmetric(rows_of(x, m), rows_of(x, m).t(), gram, n, m);
        gemm_symmetric(rows_of(gram, n), rows_of(gram, n), poly, n, n);
        for (int64_t j = 0; j < n * n; j += LANES) {
            const int64_t left = n * n - j;
            const V linear = load_some(gram + j, left) * c[1];
            store_some(poly + j, fma(splat(c[2]), load_some(poly + j, left), linear), left);
        }
        for (int64_t r = 0; r < n; r++) poly[r * n + r] += c[0];
        gemm(rows_of(poly, n), rows_of(x, m), next, m, n, m, n);
        std::swap(x, next);
    }
}

inline void muon(const dg_muon_args& a) {
    const int64_t size = a.rows * a.columns, n = std::min(a.rows, a.columns), m = std::max(a.rows, a.columns);
    const bool tall = a.rows > a.columns;
    parallel(a.batch, a.batch * size * n * a.rounds, [&](int64_t b) {
        float *w = a.parameter + b * size, *momentum = a.momentum + b * size;
        const float* grad = a.gradient + b * size;
        float *x = scratch<float, 102>(size), *next = scratch<float, 103>(size);
        V square = zero();
        for (int64_t i = 0; i < size; i += LANES) {
            const int64_t left = size - i;
            const V g = load_some(grad + i, left), v = fma(load_some(momentum + i, left), splat(a.decay), g);
            const V direction = fma(v, splat(a.decay), g);  // Nesterov
            store_some(momentum + i, v, left);
            store_some(tall ? next + i : x + i, direction, left);
            square = fma(direction, direction, square);
        }
        const float norm = std::max(sqrtf(sum(square)), 1e-30f);
        if (tall)
            for (int64_t r = 0; r < n; r++)
                for (int64_t c = 0; c < m; c++) x[r * m + c] = next[c * n + r];
        for (int64_t i = 0; i < size; i += LANES) store_some(x + i, load_some(x + i, size - i) / norm, size - i);
        newton_schulz(a, x, next, n, m);
        if (tall) {
            for (int64_t r = 0; r < n; r++)
                for (int64_t c = 0; c < m; c++) next[c * n + r] = x[r * m + c];
            std::swap(x, next);
        }
        for (int64_t i = 0; i < size; i += LANES) {
            const int64_t left = size - i;
            const V kept = load_some(w + i, left) * a.kept;
            store_some(w + i, fma(splat(-a.step), load_some(x + i, left), kept), left);
        }
    });
}

}  // namespace DG_PATH
