#define DG_PATH portable
#include "path.inc"

DG_TABLE(portable, "portable");
