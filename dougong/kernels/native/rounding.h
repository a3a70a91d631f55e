// The release's run-time rounding: FP8 and FP4 round trips with power-of-two scales.
#pragma once
#include "runtime.h"

namespace DG_PATH {

// Nearest even with `bits` of mantissa; below `smallest` in steps whose magic number is given
// (adding a number whose last place is the step rounds to it).
DG_INLINE V round_mantissa(V x, int bits, float smallest, float magic) {
    const U sign = (U)x & 0x80000000u;
    const V a = (V)((U)x ^ sign);
    const int drop = 23 - bits;
    U u = (U)a;
    u = (u + ((1u << (drop - 1)) - 1u) + ((u >> drop) & 1u)) & ~((1u << drop) - 1u);
    const V small = (a + magic) - magic;
    const I below = a < splat(smallest);
    return (V)(((U)below & (U)small) | (~(U)below & u) | sign);
}
DG_INLINE float pow2_ceil(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    u = ((u >> 23 & 0xff) + ((u & 0x7fffff) != 0)) << 23;
    memcpy(&x, &u, 4);
    return x;
}
// Rounds x[0 .. n) in place, `group` elements to a scale; group is a multiple of 16.
template <bool fp4> inline void round_groups(float* x, int64_t n, int64_t group) {
    const float top = fp4 ? 6.0f : 448.0f, floor = fp4 ? 6 * 0x1p-126f : 1e-4f;
    for (int64_t g = 0; g < n; g += group) {
        const int64_t end = std::min(n, g + group);
        V amax = splat(floor);
        for (int64_t i = g; i < end; i += LANES) {
            const V v = load_some(x + i, end - i);
            amax = max((V)((U)v & 0x7fffffffu), amax);
        }
        const float scale = pow2_ceil(largest(amax) * (float)(1.0 / top));
        const float inverse = 1.0f / scale;
        for (int64_t i = g; i < end; i += LANES) {
            V v = load_some(x + i, end - i) * inverse;
            v = min(splat(top), max(splat(-top), v));  // in this order NaN stays NaN
            v = fp4 ? round_mantissa(v, 1, 1.0f, 0x1p22f) : round_mantissa(v, 3, 0x1p-6f, 0x1p14f);
            store_some(x + i, v * scale, end - i);
        }
    }
}
constexpr int64_t LINEAR_GROUP = 128, CACHE_GROUP = 64, INDEX_GROUP = 32;

}  // namespace DG_PATH
