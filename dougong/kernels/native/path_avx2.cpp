#define DG_PATH avx2
#include "path.inc"

DG_TABLE(avx2, "avx2");
