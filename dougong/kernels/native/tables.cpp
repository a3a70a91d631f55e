#include "tables.h"
#include <math.h>
#include <string.h>

static uint16_t upper_half(float x) {  // exact: these values have at most four significant bits
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)(bits >> 16);
}

Tables::Tables() {
    static const float fp4[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    for (int code = 0; code < 32; code++) {
        const float value = (float)ldexp(fp4[code & 7], E2M1_TOP_SCALE - 127);
        e2m1[code] = upper_half(code & 8 && value ? -value : value);
    }
    for (int byte = 0; byte < 256; byte++) {
        for (int code = 0; code < 128; code++) {
            const int exponent = code >> 3, mantissa = code & 7;
            const double value = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
            const uint16_t bits = code == 127 ? 0x7fc0 : upper_half((float)ldexp(value, byte - 127));
            e4m3[byte][code] = (uint8_t)(bits >> 8);
            e4m3[byte][128 + code] = (uint8_t)bits;
        }
    }
}
const Tables tables;
