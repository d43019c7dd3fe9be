// CUDA C++ on the CPU, as far as the kernels use it, for tests: blocks run one after the other, and the threads of a
// block take turns. A thread runs until it ends or waits for others (barrier, warp collective); only then does
// another one get a stack of its own, so kernels that never wait run as plain loops. Every second block starts its
// threads from the last one, so that what depends on an order of threads shows.
// Reported as errors: a barrier that some never reach, a collective whose lanes disagree or have ended, a shuffle
// from a lane that takes no part, signed overflow (see shim_overflow), with the line.
#pragma once

#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace shim {

inline std::string problem;
inline char* dynamic_memory = nullptr;

inline void fail(const std::string& what) {
    if (problem.empty()) {
        problem = what + " in block " + std::to_string(blockIdx.x) + "," + std::to_string(blockIdx.y) + "," +
                  std::to_string(blockIdx.z) + ", thread " + std::to_string(threadIdx.x) + "," +
                  std::to_string(threadIdx.y) + "," + std::to_string(threadIdx.z);
    }
}

// ---- threads that take turns ---------------------------------------------------------------------------------------

constexpr size_t STACK_BYTES = 256 * 1024;

struct Fiber {
    ucontext_t begin;
    jmp_buf at;
    bool begun = false;
};

struct Gathering {  // the lanes of a warp that meet for one collective
    unsigned mask = 0, arrived = 0;
    int kind = 0;
    uint64_t incoming[32], result[32];
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline std::vector<Fiber*> idle;
inline std::vector<Fiber*> fiber_of;
inline std::vector<std::vector<Gathering>> gatherings;
inline std::vector<unsigned> at_barrier;
inline std::deque<unsigned> ready;
inline jmp_buf scheduler;
inline unsigned thread_count, next_thread, live, current;
inline bool backwards;
inline Fiber* running;
inline void (*body)(void**);
inline void** arguments;

inline void become(unsigned thread) {
    current = thread;
    threadIdx.x = thread % blockDim.x;
    threadIdx.y = thread / blockDim.x % blockDim.y;
    threadIdx.z = thread / blockDim.x / blockDim.y;
}

__attribute__((noinline)) inline void to_scheduler() {
    if (!_setjmp(running->at)) _longjmp(scheduler, 1);
}

__attribute__((noinline)) inline void to_fiber(Fiber* fiber) {
    running = fiber;
    if (_setjmp(scheduler)) return;
    if (fiber->begun) _longjmp(fiber->at, 1);
    fiber->begun = true;
    setcontext(&fiber->begin);
}

__attribute__((noinline)) inline void wait_for_others() {
    fiber_of[current] = running;
    to_scheduler();
}

inline void open_barrier() {
    if (at_barrier.empty() || at_barrier.size() < live) return;
    for (unsigned thread : at_barrier) ready.push_back(thread);
    at_barrier.clear();
}

inline void live_as_fiber() {
    for (;;) {
        while (next_thread < thread_count) {
            const unsigned thread = next_thread++;
            become(backwards ? thread_count - 1 - thread : thread);
            body(arguments);
            --live;
            open_barrier();
        }
        idle.push_back(running);
        to_scheduler();
        // A thread that waited goes on inside `body` above, not here; here a new block begins.
    }
}

inline Fiber* take_fiber() {
    if (idle.empty()) {
        fibers.push_back(std::make_unique<Fiber>());
        Fiber* fiber = fibers.back().get();
        getcontext(&fiber->begin);
        fiber->begin.uc_stack.ss_sp =
            mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        fiber->begin.uc_stack.ss_size = STACK_BYTES;
        fiber->begin.uc_link = nullptr;
        makecontext(&fiber->begin, live_as_fiber, 0);
        return fiber;
    }
    Fiber* fiber = idle.back();
    idle.pop_back();
    return fiber;
}

inline void run_block() {
    live = thread_count;
    next_thread = 0;
    at_barrier.clear();
    ready.clear();
    fiber_of.assign(thread_count, nullptr);
    gatherings.assign((thread_count + 31) / 32, {});
    while (live > 0) {
        if (next_thread < thread_count) {
            to_fiber(take_fiber());
        } else if (!ready.empty()) {
            const unsigned thread = backwards ? ready.back() : ready.front();
            backwards ? ready.pop_back() : ready.pop_front();
            become(thread);
            to_fiber(fiber_of[thread]);
        } else {
            fail("threads wait at a barrier or warp collective that others never reach");
            idle.clear();  // the stacks of the threads that wait are lost: the test has failed
            return;
        }
    }
}

// What every lane of the mask gave, once all have come.
inline const uint64_t* gather_lanes(unsigned mask, int kind, uint64_t value) {
    const unsigned lane = current % 32;
    auto& here = gatherings[current / 32];
    if (!(mask >> lane & 1u)) fail("a lane calls a warp collective with a mask that leaves it out");
    size_t i = 0;
    while (i < here.size() && here[i].mask != mask) ++i;
    if (i == here.size()) {
        here.emplace_back().mask = mask;
    }
    if (here[i].arrived == 0) here[i].kind = kind;
    if (here[i].kind != kind) fail("lanes of one mask meet in different warp collectives");
    here[i].incoming[lane] = value;
    here[i].arrived |= 1u << lane;
    if (here[i].arrived == mask) {
        std::memcpy(here[i].result, here[i].incoming, sizeof here[i].result);
        here[i].arrived = 0;
        for (unsigned other = 0; other < 32; ++other) {
            if (other != lane && (mask >> other & 1u)) ready.push_back(current - lane + other);
        }
    } else {
        wait_for_others();
    }
    return here[i].result;
}

template <class T>
uint64_t pack(T value) {
    static_assert(sizeof(T) <= 8);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
}

template <class T>
T unpack(uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T>
T lane_of(unsigned mask, const uint64_t* values, int lane) {
    if (!(mask >> lane & 1u)) fail("a shuffle reads a lane that its mask leaves out");
    return unpack<T>(values[lane]);
}

// ---- launching -----------------------------------------------------------------------------------------------------

template <class T>
std::string kind_of() {
    if constexpr (std::is_pointer_v<T>) {
        using Pointee = std::remove_cv_t<std::remove_pointer_t<T>>;
        if constexpr (std::is_void_v<Pointee>) {
            return "*";
        } else {
            return "*" + kind_of<Pointee>();
        }
    } else {
        const char* kind = std::is_same_v<T, bool> ? "b" : std::is_floating_point_v<T> ? "f" : std::is_signed_v<T> ? "i" : "u";
        return kind + std::to_string(sizeof(T));
    }
}

template <auto kernel>
struct Launcher;

template <class... A, void (*kernel)(A...)>
struct Launcher<kernel> {
    static std::string signature() {
        std::string text;
        ((text += kind_of<A>() + " "), ...);
        return text;
    }
    template <size_t... i>
    static void call(void** arguments, std::index_sequence<i...>) {
        kernel(*static_cast<A*>(arguments[i])...);
    }
    static void invoke(void** arguments) { call(arguments, std::index_sequence_for<A...>()); }
};

inline const char* launch(void (*kernel)(void**), const unsigned* grid, const unsigned* block, size_t shared_bytes,
                          void** args) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    thread_count = block[0] * block[1] * block[2];
    body = kernel;
    arguments = args;
    problem.clear();
    std::vector<char> memory(shared_bytes + 64);
    dynamic_memory = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    for (unsigned z = 0; z < grid[2]; ++z)
        for (unsigned y = 0; y < grid[1]; ++y)
            for (unsigned x = 0; x < grid[0] && problem.empty(); ++x) {
                blockIdx = {x, y, z};
                backwards = (x + y + z) & 1u;
                std::memset(dynamic_memory, 0xA5, shared_bytes);
                run_block();
            }
    return problem.c_str();
}

}  // namespace shim

// ---- barriers, votes, shuffles -------------------------------------------------------------------------------------

inline void __syncthreads() {
    shim::at_barrier.push_back(shim::current);
    const unsigned me = shim::current;
    if (shim::at_barrier.size() == shim::live) {
        shim::at_barrier.pop_back();
        for (unsigned thread : shim::at_barrier) shim::ready.push_back(thread);
        shim::at_barrier.clear();
    } else {
        shim::wait_for_others();
    }
    (void)me;
}

inline int __syncthreads_or(int predicate) {
    static int any;
    __syncthreads();
    any = 0;
    __syncthreads();
    any |= predicate != 0;
    __syncthreads();
    return any;
}

inline int __syncthreads_and(int predicate) { return !__syncthreads_or(!predicate); }

inline int __syncthreads_count(int predicate) {
    static int count;
    __syncthreads();
    count = 0;
    __syncthreads();
    count += predicate != 0;
    __syncthreads();
    return count;
}

inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::gather_lanes(mask, 1, 0); }

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const uint64_t* values = shim::gather_lanes(mask, 2, predicate != 0);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1u) votes |= static_cast<unsigned>(values[lane]) << lane;
    return votes;
}

inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

inline unsigned __activemask() { return 1u << (shim::current % 32); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const int lane = static_cast<int>(shim::current % 32);
    const uint64_t* values = shim::gather_lanes(mask, 3, shim::pack(value));
    return shim::lane_of<T>(mask, values, (lane & ~(width - 1)) + (source & (width - 1)));
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const int lane = static_cast<int>(shim::current % 32);
    const uint64_t* values = shim::gather_lanes(mask, 4, shim::pack(value));
    const int source = lane - static_cast<int>(delta);
    return source < (lane & ~(width - 1)) ? value : shim::lane_of<T>(mask, values, source);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const int lane = static_cast<int>(shim::current % 32);
    const uint64_t* values = shim::gather_lanes(mask, 5, shim::pack(value));
    const int source = lane + static_cast<int>(delta);
    return source > (lane | (width - 1)) ? value : shim::lane_of<T>(mask, values, source);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
    const int lane = static_cast<int>(shim::current % 32);
    const uint64_t* values = shim::gather_lanes(mask, 6, shim::pack(value));
    const int source = lane ^ lane_mask;
    return source > (lane | (width - 1)) ? value : shim::lane_of<T>(mask, values, source);
}

namespace shim {
template <class T, class F>
T reduce(unsigned mask, int kind, T value, F combine) {
    static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>, "__reduce_*_sync takes int or unsigned");
    const uint64_t* values = gather_lanes(mask, kind, pack(value));
    T result = value;
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1u) result = lane == current % 32 ? result : combine(result, unpack<T>(values[lane]));
    return result;
}
}  // namespace shim

template <class T>
T __reduce_min_sync(unsigned mask, T value) {
    return shim::reduce(mask, 7, value, [](T a, T b) { return a < b ? a : b; });
}
template <class T>
T __reduce_max_sync(unsigned mask, T value) {
    return shim::reduce(mask, 8, value, [](T a, T b) { return a > b ? a : b; });
}
template <class T>
T __reduce_add_sync(unsigned mask, T value) {
    return shim::reduce(mask, 9, value, [](T a, T b) { return a + b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
    return shim::reduce(mask, 10, value, [](unsigned a, unsigned b) { return a | b; });
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
    const uint64_t* values = shim::gather_lanes(mask, 11, shim::pack(value));
    unsigned same = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        if ((mask >> lane & 1u) && values[lane] == shim::pack(value)) same |= 1u << lane;
    return same;
}

inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- bits, arithmetic ----------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    unsigned result = 0;
    for (int i = 0; i < 32; ++i) result |= (x >> i & 1u) << (31 - i);
    return result;
}
inline double __dsqrt_rn(double x) { return std::sqrt(x); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __ll2double_rn(long long a) { return static_cast<double>(a); }
inline double __int2double_rn(int a) { return static_cast<double>(a); }
inline float __double2float_rn(double a) { return static_cast<float>(a); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}

template <class T>
T __ldg(const T* from) {
    return *from;
}
template <class T>
constexpr T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
    return a < b ? b : a;
}

// ---- atomics: the types CUDA has -----------------------------------------------------------------------------------

#define SHIM_ATOMIC(name, type, expression)            \
    inline type name(type* address, type value) {      \
        const type old = *address;                     \
        *address = static_cast<type>(expression);      \
        return old;                                    \
    }
#define SHIM_INTEGER_ATOMICS(type)                           \
    SHIM_ATOMIC(atomicExch, type, value)                     \
    SHIM_ATOMIC(atomicMin, type, value < old ? value : old)  \
    SHIM_ATOMIC(atomicMax, type, value > old ? value : old)  \
    SHIM_ATOMIC(atomicAnd, type, old & value)                \
    SHIM_ATOMIC(atomicOr, type, old | value)                 \
    inline type atomicCAS(type* address, type compare, type value) { \
        const type old = *address;                           \
        if (old == compare) *address = value;                \
        return old;                                          \
    }
SHIM_INTEGER_ATOMICS(int)
SHIM_INTEGER_ATOMICS(unsigned)
SHIM_INTEGER_ATOMICS(unsigned long long)
SHIM_ATOMIC(atomicMin, long long, value < old ? value : old)
SHIM_ATOMIC(atomicMax, long long, value > old ? value : old)
SHIM_ATOMIC(atomicAdd, int, old + value)
SHIM_ATOMIC(atomicAdd, unsigned, old + value)
SHIM_ATOMIC(atomicAdd, unsigned long long, old + value)
SHIM_ATOMIC(atomicSub, int, old - value)
SHIM_ATOMIC(atomicSub, unsigned, old - value)

// ---- signed overflow: what -fsanitize=signed-integer-overflow,shift,integer-divide-by-zero calls ------------------

struct shim_overflow {
    const char* file;
    unsigned line, column;
};

#define SHIM_HANDLER(name, what, ...)                                                                  \
    extern "C" inline __attribute__((used)) void name(shim_overflow* where, __VA_ARGS__) {             \
        shim::fail(std::string(where->file) + ":" + std::to_string(where->line) + ": " what);          \
    }
SHIM_HANDLER(__ubsan_handle_add_overflow, "signed overflow in +", void*, void*)
SHIM_HANDLER(__ubsan_handle_sub_overflow, "signed overflow in -", void*, void*)
SHIM_HANDLER(__ubsan_handle_mul_overflow, "signed overflow in *", void*, void*)
SHIM_HANDLER(__ubsan_handle_negate_overflow, "signed overflow in -", void*)
SHIM_HANDLER(__ubsan_handle_divrem_overflow, "division by zero or its overflow", void*, void*)
SHIM_HANDLER(__ubsan_handle_shift_out_of_bounds, "shift by too many bits", void*, void*)

#define SHIM_KERNEL(name)                                                                                   \
    extern "C" const char* shim_launch_##name(const unsigned* grid, const unsigned* block, size_t shared,   \
                                              void** args) {                                                \
        return shim::launch(&shim::Launcher<&name>::invoke, grid, block, shared, args);                     \
    }                                                                                                       \
    extern "C" const char* shim_signature_##name() {                                                        \
        static const std::string text = shim::Launcher<&name>::signature();                                 \
        return text.c_str();                                                                                \
    }
