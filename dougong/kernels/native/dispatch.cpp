// Which path runs: the best this machine has, or the one asked for (DOUGONG_CPU_PATH, dg_set_path).
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <atomic>
#include "path.h"

namespace {

bool available([[maybe_unused]] const Path& path) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (&path == &path_avx2) return avx2;
    if (&path == &path_avx512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bf16");
#endif
    return true;
}

const Path* find(const char* name) {
#if defined(__x86_64__)
    const Path* const all[] = {&path_avx512, &path_avx2, &path_portable};
#else
    const Path* const all[] = {&path_portable};
#endif
    for (const Path* path : all)
        if (available(*path) && (!name || !strcmp(name, "auto") || !strcmp(name, path->name)))
            return path;
    return nullptr;
}

std::atomic<const Path*> chosen{nullptr};
std::atomic<int> fixed_threads{0};
std::atomic<int> narrow_products{0};

// A forked child has none of OpenMP's threads, and libgomp would wait for them forever.
struct AfterFork {
    AfterFork() {
        pthread_atfork(nullptr, nullptr, [] { fixed_threads.store(1); });
    }
} after_fork;

const Path& path() {
    const Path* now = chosen.load(std::memory_order_acquire);
    if (!now) {
        now = find(getenv("DOUGONG_CPU_PATH"));
        if (!now) now = find(nullptr);
        chosen.store(now, std::memory_order_release);
    }
    return *now;
}

}  // namespace

extern "C" {

int dg_abi(void) { return DG_ABI; }
const char* dg_path(void) { return path().name; }
int dg_set_path(const char* name) {
    const Path* wanted = find(name);
    if (wanted) chosen.store(wanted, std::memory_order_release);
    return wanted ? 0 : -1;
}
void dg_set_threads(int threads) { fixed_threads.store(threads); }
void dg_set_products(int bfloat16) { narrow_products.store(bfloat16); }
int dg_products(void) { return narrow_products.load(std::memory_order_relaxed); }
int dg_threads(void) {
    const int fixed = fixed_threads.load(std::memory_order_relaxed);
    return fixed > 0 ? fixed : omp_get_max_threads();
}
void dg_linear(const dg_linear_args* a) { path().linear(*a); }
void dg_experts(const dg_experts_args* a) { path().experts(*a); }
void dg_router(const dg_router_args* a) { path().router(*a); }
void dg_mhc_mix(const dg_mhc_args* a) { path().mhc_mix(*a); }
void dg_mhc_post(const dg_mhc_post_args* a) { path().mhc_post(*a); }
void dg_norm_rope(const dg_norm_rope_args* a) { path().norm_rope(*a); }
void dg_compress(const dg_compress_args* a) { path().compress(*a); }
void dg_index(const dg_index_args* a) { path().index(*a); }
void dg_attention(const dg_attention_args* a) { path().attention(*a); }
void dg_remember(const dg_remember_args* a) { path().remember(*a); }
void dg_add(const dg_add_args* a) { path().add(*a); }
void dg_lookup(const dg_lookup_args* a) { path().lookup(*a); }
void dg_run(const dg_call* calls, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        const void* a = calls[i].arguments;
        switch (calls[i].operation) {
            case DG_LINEAR: dg_linear((const dg_linear_args*)a); break;
            case DG_EXPERTS: dg_experts((const dg_experts_args*)a); break;
            case DG_ROUTER: dg_router((const dg_router_args*)a); break;
            case DG_MHC_MIX: dg_mhc_mix((const dg_mhc_args*)a); break;
            case DG_MHC_POST: dg_mhc_post((const dg_mhc_post_args*)a); break;
            case DG_NORM_ROPE: dg_norm_rope((const dg_norm_rope_args*)a); break;
            case DG_COMPRESS: dg_compress((const dg_compress_args*)a); break;
            case DG_INDEX: dg_index((const dg_index_args*)a); break;
            case DG_ATTENTION: dg_attention((const dg_attention_args*)a); break;
            case DG_REMEMBER: dg_remember((const dg_remember_args*)a); break;
            case DG_ADD: dg_add((const dg_add_args*)a); break;
            case DG_LOOKUP: dg_lookup((const dg_lookup_args*)a); break;
        }
    }
}
#define DG_FORWARD(name, arguments) \
    DG_API void dg_##name(const arguments* a) { path().name(*a); }
DG_TRAINING(DG_FORWARD)
#undef DG_FORWARD
double dg_stream(const void* data, int64_t bytes) { return path().stream(data, bytes); }

}
