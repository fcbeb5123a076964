// The threads of a block, or of the blocks of a cluster, as cooperative fibers that switch only where they wait for each
// other (grid.h runs them). What a GPU does in any order is done here in an order that differs from round to
// round, so that a missing barrier shows. A block whose threads wait for ever is an error that names it.
//
// Every thread of the host is a device of its own: grids of several run beside each other, and can wait for each other
// block by block.
#pragma once

#include <sched.h>
#include <setjmp.h>
#include <ucontext.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;

namespace emulator {

constexpr size_t STACK_BYTES = 256 * 1024;
constexpr unsigned char POISON = 0xee;

enum class State { READY, AT_BARRIER, AT_CLUSTER_BARRIER, IN_WARP, POLLING, DONE };

struct Copy { void *to; const void *from; size_t bytes; };  // from nothing: zeros

struct Thread {
    State state;
    unsigned rank;  // of its block in the cluster
    uint3 index, block;
    unsigned mask;     // while IN_WARP: the lanes that it waits for
    const char *name;  // and the operation
    void *data;
    std::function<bool()> until;            // while POLLING
    std::vector<std::vector<Copy>> copies;  // cp.async: groups, the last one still open
    std::vector<std::vector<std::function<void()>>> products;  // wgmma, likewise
    std::vector<std::function<void()>> stores;  // of tiles
    bool started;
    jmp_buf here;
    ucontext_t context;
};

inline thread_local std::vector<Thread *> threads;  // of the cluster; more may be left over from larger ones
inline thread_local unsigned num_threads, block_threads, current;
inline thread_local std::function<void()> body;
inline thread_local jmp_buf scheduler;
inline thread_local std::string misuse;   // of what is emulated, found by whom it cannot stop; ends the block
inline thread_local std::string failure;  // what cudaGetErrorString says of cudaErrorLaunchFailure
inline thread_local size_t round_number;

inline Thread &self() { return *threads[current]; }
inline Thread *warp_of(unsigned thread) { return threads[thread & ~31u]; }

inline __attribute__((noinline)) void suspend() {
    if (_setjmp(self().here) == 0) _longjmp(scheduler, 1);
}

inline void wait(State state) {
    self().state = state;
    suspend();
}

// Lets the block's other threads go on, and the host's, in a loop that waits for another device.
inline void pause() {
    sched_yield();
    suspend();
}

// Waits for what others do; `until` is asked whenever the thread's turn comes.
inline void wait_until(const char *name, std::function<bool()> until) {
    self().name = name, self().until = std::move(until);
    wait(State::POLLING);
}

inline void fiber() {
    for (;;) {
        body();
        wait(State::DONE);
    }
}

// Returns when the thread waits or has ended.
inline __attribute__((noinline)) void resume(unsigned thread) {
    current = thread;
    Thread &it = *threads[thread];
    threadIdx = it.index, blockIdx = it.block;
    if (_setjmp(scheduler)) return;
    if (it.started) _longjmp(it.here, 1);
    it.started = true;
    getcontext(&it.context);
    it.context.uc_stack.ss_sp = malloc(STACK_BYTES);
    it.context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&it.context, fiber, 0);
    setcontext(&it.context);
}

// A rendezvous of the lanes in `mask`: the last to come does `op` on all lanes' data (null: not in the mask).
template <typename Data, typename Op>
void collective(const char *name, unsigned mask, Data &data, Op op) {
    unsigned first = current & ~31u;
    Thread &me = self();
    me.state = State::IN_WARP, me.mask = mask, me.name = name, me.data = &data;
    Data *lanes[32] = {};
    bool complete = mask >> (current & 31) & 1;
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        if (first + lane >= num_threads) { complete = false; break; }
        Thread &other = *threads[first + lane];
        complete = complete && other.state == State::IN_WARP && other.mask == mask && other.name == name;
        lanes[lane] = static_cast<Data *>(other.data);
    }
    if (!complete) return suspend();
    op(lanes);
    for (unsigned lane = 0; lane < 32; ++lane)
        if (lanes[lane]) threads[first + lane]->state = State::READY;
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::State::AT_BARRIER); }
