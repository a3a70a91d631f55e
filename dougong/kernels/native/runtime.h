// Threads, scratch memory and the floating-point mode of a worker.
#pragma once
#include <omp.h>
#include <stdlib.h>
#include <algorithm>
#include "lanes.h"

extern "C" int dg_threads(void);

namespace DG_PATH {

// Denormals count as zero while a product runs: vdpbf16ps cannot do otherwise, so no path does.
// Where a kernel rounds as the release does it keeps them. Either way the caller's mode comes back.
enum Denormals { FLUSH, KEEP };
template <Denormals denormals> class Mode {
   public:
#if defined(__x86_64__)
    Mode() : saved_(_mm_getcsr()) { _mm_setcsr(denormals == FLUSH ? saved_ | 0x8040 : saved_ & ~0x8040u); }
    ~Mode() { _mm_setcsr(saved_); }
    unsigned saved_;
#elif defined(__aarch64__)
    Mode() {
        constexpr uint64_t flush = 1ull << 24;
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" ::"r"(denormals == FLUSH ? saved_ | flush : saved_ & ~flush));
    }
    ~Mode() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }
    uint64_t saved_;
#endif
};

// Memory of one thread for one purpose: grows, is aligned to a cache line, and is kept.
template <class T, int slot> T* scratch(int64_t count) {
    struct Buffer {
        void* data = nullptr;
        size_t bytes = 0;
        ~Buffer() { free(data); }
    };
    static thread_local Buffer buffer;
    const size_t bytes = ((size_t)std::max<int64_t>(count, 1) * sizeof(T) + 4095) / 4096 * 4096;
    if (bytes > buffer.bytes) {
        free(buffer.data);
        buffer.data = aligned_alloc(4096, bytes);
        if (!buffer.data) abort();
        buffer.bytes = bytes;
    }
    return (T*)buffer.data;
}

// Runs body(i) for i = 0 .. count - 1; on several threads if `work` (multiply-adds) is worth it.
template <Denormals denormals = FLUSH, class F>
void parallel(int64_t count, int64_t work, F body) {
    const int threads = (int)std::min<int64_t>(dg_threads(), count);
    if (threads <= 1 || work < 100000 || omp_in_parallel()) {
        Mode<denormals> mode;
        for (int64_t i = 0; i < count; i++) body(i);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        Mode<denormals> mode;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; i++) body(i);
    }
}

// The i-th of `parts` ranges of [0, count) cut at multiples of `unit`.
struct Range {
    int64_t low, high;
};
DG_INLINE Range part(int64_t count, int64_t parts, int64_t i, int64_t unit) {
    const int64_t units = (count + unit - 1) / unit;
    return {std::min(count, units * i / parts * unit), std::min(count, units * (i + 1) / parts * unit)};
}

}  // namespace DG_PATH
