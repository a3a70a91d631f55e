// Sixteen fp32 lanes, the same on every machine.
//
// All arithmetic of all paths is written in these: AVX-512 holds them in one register, AVX2 in two,
// the portable path wherever the compiler likes. Every operation rounds once and in one fixed order,
// so the paths agree bit for bit.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "abi.h"

#if defined(__AVX512F__) && defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#define DG_AVX512 1
#else
#define DG_AVX512 0
#endif
#define DG_INLINE static inline __attribute__((always_inline))
#define DG_METHOD inline __attribute__((always_inline))

namespace DG_PATH {

using V = float __attribute__((vector_size(64)));
using I = int32_t __attribute__((vector_size(64)));
using U = uint32_t __attribute__((vector_size(64)));
using H = uint16_t __attribute__((vector_size(32)));
using bf16 = uint16_t;

constexpr int LANES = 16;

DG_INLINE V zero() { return V{}; }
DG_INLINE V splat(float x) { return V{} + x; }
template <class T> DG_INLINE V load(const T* p);
template <> DG_METHOD V load<float>(const float* p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
template <> DG_METHOD V load<bf16>(const bf16* p) {
    H h;
    memcpy(&h, p, sizeof h);
    return (V)(__builtin_convertvector(h, U) << 16);
}
DG_INLINE void store(float* p, V v) { memcpy(p, &v, sizeof v); }
// Round to nearest even, as torch does; NaN stays NaN.
DG_INLINE void store(bf16* p, V v) {
    U u = (U)v;
    u = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    I nan = v != v;
    u = ((U)nan & 0x7fc0u) | (~(U)nan & u);
    H h = __builtin_convertvector(u, H);
    memcpy(p, &h, sizeof h);
}
// The first n lanes; the others read as zero and are not written.
template <class T> DG_INLINE V load_some(const T* p, int64_t n) {
    if (n >= LANES) return load(p);
    T part[LANES] = {};
    for (int64_t i = 0; i < n; i++) part[i] = p[i];
    return load(part);
}
template <class T> DG_INLINE void store_some(T* p, V v, int64_t n) {
    if (n >= LANES) return store(p, v);
    T part[LANES];
    store(part, v);
    for (int64_t i = 0; i < n; i++) p[i] = part[i];
}
DG_INLINE void store(bf16* p, I words) { memcpy(p, &words, sizeof words); }
// p[first], p[first + 2], .. of 32 floats.
DG_INLINE V every_second(const float* p, int first) {
#if defined(__AVX512F__)
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i wanted = _mm512_add_epi32(even, _mm512_set1_epi32(first));
    return (V)_mm512_permutex2var_ps(_mm512_loadu_ps(p), wanted, _mm512_loadu_ps(p + 16));
#else
    V v;
    for (int i = 0; i < LANES; i++) v[i] = p[2 * i + first];
    return v;
#endif
}
DG_INLINE float widen(float x) { return x; }
DG_INLINE float widen(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

DG_INLINE V fma(V a, V b, V c) {
#if defined(__AVX512F__)
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    V r;
    for (int i = 0; i < LANES; i++) r[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return r;
#endif
}
DG_INLINE V max(V a, V b) { return a > b ? a : b; }
DG_INLINE V min(V a, V b) { return a < b ? a : b; }

// The odd and the even ones of 32 bf16, widened.
DG_INLINE V odd(I words) { return (V)(words & (I{} + (int32_t)0xffff0000)); }
DG_INLINE V even(I words) { return (V)((U)words << 16); }
// acc + a[1] * b[1] + a[0] * b[0] for each lane's pair of bf16, odd one first: what vdpbf16ps does.
DG_INLINE V dot2(V acc, I a, I b) {
#if DG_AVX512
    return (V)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#else
    acc = fma(odd(a), odd(b), acc);
    return fma(even(a), even(b), acc);
#endif
}
// One step of a product: 16 floats or 32 bf16 of x and w.
DG_INLINE V multiply_add(V acc, const float* x, const float* w) { return fma(load(x), load(w), acc); }
DG_INLINE I pairs(const bf16* p) {
    I v;
    memcpy(&v, p, sizeof v);
    return v;
}
DG_INLINE V multiply_add(V acc, const bf16* x, const bf16* w) {
    return dot2(acc, pairs(x), pairs(w));
}
template <class T> constexpr int STEP = sizeof(T) == 4 ? 16 : 32;

// Lanes added in one fixed tree: i + (i + 8), then 4, 2, 1 apart.
DG_INLINE float sum(V v) {
#if defined(__AVX512F__)
    const __m512 x = (__m512)v;
    const __m256 high = _mm512_castps512_ps256(_mm512_shuffle_f32x4(x, x, 0x4e));
    const __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x), high);
    __m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    z = _mm_add_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_add_ss(z, _mm_movehdup_ps(z)));
#else
    float t[LANES];
    store(t, v);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) t[i] += t[i + half];
    return t[0];
#endif
}
// The sums of four at once.
DG_INLINE void sum4(const V* v, float* out) {
#if defined(__AVX512F__)
    const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    __m512 x = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    x = _mm512_add_ps(x, _mm512_permute_ps(x, 0x4e));
    x = _mm512_add_ps(x, _mm512_permute_ps(x, 0xb1));
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, x)));
#else
    for (int i = 0; i < 4; i++) out[i] = sum(v[i]);
#endif
}
DG_INLINE float largest(V v) {
    float t[LANES];
    store(t, v);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) t[i] = t[i] > t[i + half] ? t[i] : t[i + half];
    return t[0];
}

// e^x to about one unit in the last place; 0 below -86.6, infinity above 88.7.
// Cody-Waite reduction and a polynomial of degree 7 (Taylor coefficients; |r| <= ln 2 / 2).
DG_INLINE V exp(V x) {
    const V low = splat(-86.6f), high = splat(88.7f);
    const I under = x < low, over = x > high;
    V y = min(max(x, low), high);
    const V magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const V shifted = fma(y, splat(1.44269504f), magic);
    const V n = shifted - magic;
    V r = fma(n, splat(-0.693359375f), y);
    r = fma(n, splat(2.12194440e-4f), r);
    V p = splat(1.0f / 5040);
    p = fma(p, r, splat(1.0f / 720));
    p = fma(p, r, splat(1.0f / 120));
    p = fma(p, r, splat(1.0f / 24));
    p = fma(p, r, splat(1.0f / 6));
    p = fma(p, r, splat(0.5f));
    p = fma(p, r, splat(1.0f));
    p = fma(p, r, splat(1.0f));
    const I exponent = (((I)shifted - (I)magic) + 126) << 23;  // in two factors: 2^128 is no float
    y = p * (V)exponent * 2.0f;
    y = (V)((I)y & ~under);
    y = over ? splat(INFINITY) : y;
    return x != x ? x : y;
}
DG_INLINE V sigmoid(V x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }

}  // namespace DG_PATH
