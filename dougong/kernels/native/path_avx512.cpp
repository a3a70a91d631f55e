#define DG_PATH avx512
#include "path.inc"

DG_TABLE(avx512, "avx512");
