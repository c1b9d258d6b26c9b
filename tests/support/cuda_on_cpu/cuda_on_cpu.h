// Platform of the kernel on a CPU: its threads are fibers of one thread, or threads of the system.
//
// Fibers run in a chosen order from barrier to barrier: results that depend on the order show a race. Threads
// are for the thread sanitizer. A barrier is known by its line. Each checks that all of its threads have come
// to the same line; a test can leave out the barrier of one line.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

using std::erf;
using std::exp;
using std::fabs;
using std::floor;
using std::log;
using std::pow;
using std::sqrt;
using std::tanh;

#ifndef LANES
#define LANES 4
#endif
#define DEVICE static inline
#define PART static
#define TABLE static const
#define KERNEL static void
#define THREAD (cpu::now->thread)
#define BLOCK (cpu::now->block)
#define LEARNER (cpu::now->learner)
#define BARRIER() cpu::wait(cpu::now->of_block, __LINE__)
#define LANE_BARRIER() cpu::wait(cpu::now->of_lanes, __LINE__)
#define CLUSTER_BARRIER() cpu::wait(cpu::now->of_cluster, __LINE__)

struct Learner;
static void run_rows(const Learner* const*, const double*, double*, int, int, int);

namespace cpu {

enum Failure { FINE, DIVERGED, STUCK, UNEQUAL };

struct Barrier {
    int members = 0, arrived = 0, line = 0;
    unsigned turn = 0;
    std::mutex mutex;
    std::condition_variable opened;
};

struct Fiber {
    int learner = 0, block = 0, thread = 0;
    Barrier *of_block = nullptr, *of_lanes = nullptr, *of_cluster = nullptr;
    Barrier* waits = nullptr;  // fibers only
    unsigned until = 0;
    bool started = false, done = false;
    long barriers = 0, cluster_barriers = 0;
    double* memory = nullptr;
    double* slots = nullptr;  // of its lanes
    jmp_buf place;
    ucontext_t start;
    std::vector<char> stack;
};

static thread_local Fiber* now = nullptr;
static jmp_buf scheduler;
static int failure = FINE, left_out = 0;
static bool as_threads = false;

static inline void fail(int kind, int line) {
    if (failure == FINE) std::fprintf(stderr, "barrier of line %d: failure %d\n", line, kind);
    failure = kind;
}

__attribute__((noinline)) static void wait(Barrier* barrier, int line) {
    if (line == left_out) return;
    now->barriers += barrier == now->of_block;
    now->cluster_barriers += barrier == now->of_cluster;
    if (as_threads) {
        std::unique_lock<std::mutex> lock(barrier->mutex);
        if (barrier->arrived > 0 && barrier->line != line) fail(DIVERGED, line);
        barrier->line = line;
        const unsigned turn = barrier->turn;
        if (++barrier->arrived == barrier->members) {
            barrier->arrived = 0;
            barrier->turn++;
            barrier->opened.notify_all();
        } else {
            barrier->opened.wait(lock, [&] { return barrier->turn != turn; });
        }
        return;
    }
    if (barrier->arrived > 0 && barrier->line != line) fail(DIVERGED, line);
    barrier->line = line;
    now->waits = barrier;
    now->until = barrier->turn;
    if (++barrier->arrived == barrier->members) {
        barrier->arrived = 0;
        barrier->turn++;
    }
    if (_setjmp(now->place) == 0) _longjmp(scheduler, 1);
}

struct Launch {
    const Learner* const* learners;
    const double* rows;
    double* results;
    int number, count, learns, late;
};
static Launch launched;

static void body() {
    run_rows(launched.learners, launched.rows, launched.results, launched.count, launched.learns, launched.late);
    now->done = true;
    if (!as_threads) _longjmp(scheduler, 1);
}

// Run a fiber up to its next barrier.
__attribute__((noinline)) static void resume(Fiber& fiber) {
    fiber.waits = nullptr;
    now = &fiber;
    if (_setjmp(scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    fiber.stack.resize(1 << 17);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.data();
    fiber.start.uc_stack.ss_size = fiber.stack.size();
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, body, 0);
    setcontext(&fiber.start);
}

static void run_fibers(std::vector<Fiber>& fibers, int order) {
    std::vector<Fiber*> turns;
    for (Fiber& each : fibers) turns.push_back(&each);
    if (order == 1) std::reverse(turns.begin(), turns.end());
    std::mt19937 random(order);
    for (bool moved = true; moved;) {
        moved = false;
        if (order > 1) std::shuffle(turns.begin(), turns.end(), random);
        for (Fiber* each : turns) {
            if (each->done || (each->waits && each->waits->turn == each->until)) continue;
            moved = true;
            resume(*each);
        }
    }
    for (Fiber& each : fibers)
        if (!each.done) fail(STUCK, each.waits ? each.waits->line : 0);
}

static void run_threads(std::vector<Fiber>& fibers) {
    std::vector<std::thread> threads;
    for (Fiber& each : fibers)
        threads.emplace_back([&each] {
            now = &each;
            body();
        });
    for (std::thread& each : threads) each.join();
}

// Run the kernel; return 0, or what failed.
static int launch(Launch what, int shared_bytes, int order, int skipped, bool threads) {
    launched = what;
    failure = FINE;
    left_out = skipped;
    as_threads = threads;
    const int number = what.number, groups = THREADS / LANES;
    std::vector<Barrier> clusters(number), blocks(number * BLOCKS), lanes(number * BLOCKS * groups);
    for (Barrier& each : clusters) each.members = BLOCKS * THREADS;
    for (Barrier& each : blocks) each.members = THREADS;
    for (Barrier& each : lanes) each.members = LANES;
    std::vector<std::vector<double>> memory(number * BLOCKS);
    for (auto& each : memory) each.assign(shared_bytes / 8 + 1, std::numeric_limits<double>::quiet_NaN());
    std::vector<double> slots(number * BLOCKS * THREADS);
    std::vector<Fiber> fibers(number * BLOCKS * THREADS);
    for (int i = 0; i < number * BLOCKS * THREADS; i++) {
        Fiber& each = fibers[i];
        each.learner = i / (BLOCKS * THREADS);
        each.block = i / THREADS % BLOCKS;
        each.thread = i % THREADS;
        each.of_block = &blocks[i / THREADS];
        each.of_lanes = &lanes[i / LANES];
        each.of_cluster = &clusters[each.learner];
        each.memory = memory[i / THREADS].data();
        each.slots = &slots[i / LANES * LANES];
    }
    if (threads) run_threads(fibers);
    else run_fibers(fibers, order);
    for (int i = 0; i < number * BLOCKS * THREADS; i++) {
        if (fibers[i].barriers != fibers[i / THREADS * THREADS].barriers) fail(UNEQUAL, 0);
        const int first = fibers[i].learner * BLOCKS * THREADS;
        if (fibers[i].cluster_barriers != fibers[first].cluster_barriers) fail(UNEQUAL, 0);
    }
    return failure;
}

}  // namespace cpu

template <typename T>
static inline T exchange(T value, int distance) {
    const int lane = cpu::now->thread % LANES;
    cpu::now->slots[lane] = double(value);
    cpu::wait(cpu::now->of_lanes, -1);
    const T other = T(cpu::now->slots[lane ^ distance]);
    cpu::wait(cpu::now->of_lanes, -2);
    return other;
}
static inline double* shared() { return cpu::now->memory; }
static inline double infinity() { return std::numeric_limits<double>::infinity(); }
static inline double not_a_number() { return std::numeric_limits<double>::quiet_NaN(); }

extern "C" int launch(const Learner* const* learners, const double* rows, double* results, int number, int count, int learns, int late, int shared_bytes, int order, int skipped) {
    return cpu::launch({learners, rows, results, number, count, learns, late}, shared_bytes, order, skipped, false);
}

#ifdef PROGRAM
// Read arguments and buffers of a learner from a file, and run the kernel on threads of the system.
//
// The file has a number of arguments; for each the number of bytes of its buffer, or −1 for a number; then
// the 8 bytes of the number, or the bytes of the buffer. The last two are rows and results.
int main(int count, char** arguments) {
    if (count != 7) return 2;
    std::FILE* file = std::fopen(arguments[1], "rb");
    std::int64_t fields = 0;
    if (!file || std::fread(&fields, 8, 1, file) != 1) return 2;
    std::vector<std::int64_t> values(fields);
    std::vector<std::vector<double>> buffers(fields);
    for (int i = 0; i < fields; i++) {
        std::int64_t bytes = 0;
        if (std::fread(&bytes, 8, 1, file) != 1) return 2;
        if (bytes < 0) {
            if (std::fread(&values[i], 8, 1, file) != 1) return 2;
            continue;
        }
        buffers[i].resize(bytes / 8 + 1);
        if (bytes && std::fread(buffers[i].data(), bytes, 1, file) != 1) return 2;
        values[i] = std::int64_t(buffers[i].data());
    }
    std::fclose(file);
    const auto* learner = reinterpret_cast<const Learner*>(values.data());
    const double* rows = buffers[fields - 2].data();
    double* results = buffers[fields - 1].data();
    int rest[5];  // rows, learns, late, bytes of shared memory, line of the barrier to leave out
    for (int i = 0; i < 5; i++) rest[i] = std::atoi(arguments[2 + i]);
    return cpu::launch({&learner, rows, results, 1, rest[0], rest[1], rest[2]}, rest[3], 0, rest[4], true);
}
#endif
