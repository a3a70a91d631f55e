// Decoding tables for every scale byte, 80 KiB in all, of which a model touches a few lines.
#pragma once
#include <stdint.h>

struct Tables {
    alignas(64) uint16_t e2m1[256][32];  // bf16 of sixteen codes, twice: bit 4 of an index is ignored
    alignas(64) uint8_t e4m3[256][256];  // bf16 of 128 magnitudes: the high bytes, then the low bytes
    Tables();
};
extern const Tables tables;
