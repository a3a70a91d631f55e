// Decoding tables: 64 KiB for the scale bytes of FP8, of which a model touches a few lines.
#pragma once
#include <stdint.h>

constexpr int E2M1_TOP_SCALE = 252;  // the largest scale byte with which 6 is a bf16

struct Tables {
    // bf16 of sixteen codes at the top scale, twice: bit 4 of an index is ignored. -0 is 0.
    alignas(64) uint16_t e2m1[32];
    alignas(64) uint8_t e4m3[256][256];  // bf16 of 128 magnitudes: the high bytes, then the low bytes
    Tables();
};
extern const Tables tables;
