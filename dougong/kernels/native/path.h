// One instruction set's table of operators. Each path_*.cpp compiles all of them with its own flags.
#pragma once
#include "abi.h"
#include "training_abi.h"

struct Path {
    const char* name;
    void (*linear)(const dg_linear_args&);
    void (*experts)(const dg_experts_args&);
    void (*router)(const dg_router_args&);
    void (*mhc_mix)(const dg_mhc_args&);
    void (*mhc_post)(const dg_mhc_post_args&);
    void (*norm_rope)(const dg_norm_rope_args&);
    void (*compress)(const dg_compress_args&);
    void (*index)(const dg_index_args&);
    void (*attention)(const dg_attention_args&);
    void (*remember)(const dg_remember_args&);
    void (*add)(const dg_add_args&);
    void (*lookup)(const dg_lookup_args&);
    double (*stream)(const void*, int64_t);
#define DG_POINTER(name, arguments) void (*name)(const arguments&);
    DG_TRAINING(DG_POINTER)
#undef DG_POINTER
};
extern const Path path_portable;
#if defined(__x86_64__)
extern const Path path_avx2, path_avx512;
#endif
