/* The thread pool: workers that join one job at a time, and the phases inside a job.
 *
 * Nobody waits for a thread that has not come, or does not run just now: its shares are taken by the
 * others.  Waiting is a short spin, some yields, then a futex: a plan's ops are microseconds apart, its
 * epochs are not.  A forked child starts with an empty pool; a second Python thread that comes while the pool is
 * busy computes alone.  The bits are the same in any case. */
#define _GNU_SOURCE
#include "fastnn.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define STORE(x, v) __atomic_store_n(&(x), v, __ATOMIC_RELEASE)
#define ADD(x, v) __atomic_add_fetch(&(x), v, __ATOMIC_SEQ_CST)

/* Waiting: pauses (some us), then giving way to whoever wants this processor, then sleep. */
enum { PAUSES = 400, YIELDS = 200, PATIENCE = 40, NAP = 1000000 /* ns */ };

/* How often a long job asks for Ctrl-C, ns. */
enum { POLL = 20000000 };

static struct {
    int busy;    /* somebody's job is running; who sets it owns what follows */
    int wanted;  /* threads, the caller's included; 0: not set yet */
    int workers; /* running */
    int quit;
    uint32_t jobs;   /* futex: counts jobs handed out */
    int sleepers;    /* workers asleep on it */
    int open;        /* workers may join the job */
    uint32_t inside; /* futex: workers that have joined it */
    fnn_job job;
    void *context;
    fnn_team *team;
    pthread_t ids[FNN_MAX_THREADS];
    int places[FNN_MAX_THREADS];      /* the processor that each thread was last seen on */
    int64_t moved[FNN_MAX_THREADS];   /* when it last left one, ns */
} pool;

int64_t fnn_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* At most for so long; 0: for ever. */
static void sleep_while(uint32_t *word, uint32_t value, long ns) {
#ifdef __linux__
    const struct timespec limit = {0, ns};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, ns ? &limit : NULL, NULL, 0);
#else
    (void)word, (void)value, (void)ns;
    sched_yield();
#endif
}

static void wake_all(uint32_t *word) {
#ifdef __linux__
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#else
    (void)word;
#endif
}

/* Waits until *word differs from value; returns what it then holds.  Sleeps for so long at a time. */
static uint32_t wait_change(uint32_t *word, uint32_t value, int *sleepers, long ns) {
    uint32_t now;
    for (int i = 0; i < PAUSES; i++) {
        if ((now = LOAD(*word)) != value) return now;
        relax();
    }
    for (int i = 0; i < YIELDS; i++) {
        if ((now = LOAD(*word)) != value) return now;
        sched_yield();
    }
    ADD(*sleepers, 1);
    while ((now = __atomic_load_n(word, __ATOMIC_SEQ_CST)) == value) sleep_while(word, value, ns);
    ADD(*sleepers, -1);
    return now;
}

/* Notes where this thread runs, and moves it off the processor of a thread before it.  Schedulers
 * like to wake a thread beside its waker, and some keep both there for as long as they share. */
static void take_place(int thread, int n) {
#ifdef __linux__
    const int here = sched_getcpu();
    if (LOAD(pool.places[thread]) != here) STORE(pool.places[thread], here);
    bool shared = false;
    for (int i = 0; i < thread; i++) shared |= LOAD(pool.places[i]) == here;
    if (!shared) return;
    const int64_t now = fnn_now();
    if (now - pool.moved[thread] < 1000000 || n > fnn_cpu_count()) return;
    pool.moved[thread] = now;
    cpu_set_t allowed, others;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    others = allowed;
    for (int i = 0; i < n; i++) CPU_CLR(LOAD(pool.places[i]), &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
    STORE(pool.places[thread], sched_getcpu());
    sched_setaffinity(0, sizeof allowed, &allowed); /* where to go from there is the scheduler's choice */
#else
    (void)thread, (void)n;
#endif
}

/* ---- phases --------------------------------------------------------------------------------- */

void fnn_team_init(fnn_team *team, int (*poll)(void)) {
    team->n = 1;
    team->halt = team->interrupted = 0;
    team->poll = poll;
    team->next_poll = poll ? fnn_now() + POLL : 0;
}

static void seat(fnn_team *team, int n) {
    team->n = n;
    team->sleepers = 0;
    for (int i = 0; i < n; i++) team->taken[i].phase = team->done[i].phase = 0;
}

static bool take(fnn_team *team, int share, uint32_t phase) {
    uint32_t before = LOAD(team->taken[share].phase);
    return before < phase &&
           __atomic_compare_exchange_n(&team->taken[share].phase, &before, phase, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static bool is_done(const fnn_team *team, int share, uint32_t phase) { return LOAD(team->done[share].phase) >> 1 >= phase; }

bool fnn_phase(fnn_team *team, int thread, uint32_t phase, int shares, void (*run)(void *context, fnn_part part), void *context) {
    fnn_part part = {thread, shares, thread, team};
    if (team->n == 1) {
        for (part.share = 0; part.share < shares; part.share++) run(context, part);
        return LOAD(team->halt);
    }
    take_place(thread, team->n);
    for (int turn = 0; turn < shares; turn++) {
        part.share = (thread + turn) % shares;
        if (part.share != thread) {
            /* its thread has it in its caches: it may be only a little late, or waiting for this processor */
            for (int i = 0; i < PATIENCE && !is_done(team, part.share, phase); i++) relax();
            if (is_done(team, part.share, phase)) continue;
            if (LOAD(team->taken[part.share].phase) < phase) sched_yield();
        }
        if (!take(team, part.share, phase)) continue;
        run(context, part);
        STORE(team->done[part.share].phase, phase << 1 | (LOAD(team->halt) ? 1 : 0));
        if (LOAD(team->sleepers)) wake_all(&team->done[part.share].phase);
    }
    bool over = false;
    for (int share = 0; share < shares; share++) {
        uint32_t *word = &team->done[share].phase, done;
        /* a thread that falls asleep just now may be overlooked above, so it does not sleep for long */
        while ((done = LOAD(*word)) >> 1 < phase) wait_change(word, done, &team->sleepers, NAP);
        if (done >> 1 > phase) return false; /* somebody has gone on */
        over |= done & 1;
    }
    return over;
}

bool fnn_interrupted(fnn_part part) {
    fnn_team *team = part.team;
    if (part.n > 1) take_place(part.thread, part.n);
    if (!team || !team->poll) return false;
    if (part.thread == 0) {
        int64_t now = fnn_now();
        if (now >= team->next_poll) {
            team->next_poll = now + POLL;
            if (team->poll()) {
                STORE(team->interrupted, 1);
                STORE(team->halt, 1);
            }
        }
    }
    /* not halt: the end of a run sets that, too, where others may still be computing */
    return LOAD(team->interrupted);
}

/* ---- pool ----------------------------------------------------------------------------------- */

static _Thread_local float workspace[FNN_WORKSPACE / sizeof(float)] __attribute__((aligned(64)));

float *fnn_workspace(void) { return workspace; }

int fnn_cpu_count(void) {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

static void *worker(void *thread) {
    uint32_t seen = 0; /* workers start before the first job, with pool.jobs == 0 */
    for (;;) {
        seen = wait_change(&pool.jobs, seen, &pool.sleepers, 0);
        if (LOAD(pool.quit)) return NULL;
        ADD(pool.inside, 1);
        if (__atomic_load_n(&pool.open, __ATOMIC_SEQ_CST) && (intptr_t)thread < pool.team->n)
            pool.job(pool.context, pool.team, (int)(intptr_t)thread);
        if (ADD(pool.inside, -1) == 0) wake_all(&pool.inside);
    }
}

static void hand_out(void) {
    ADD(pool.jobs, 1);
    if (__atomic_load_n(&pool.sleepers, __ATOMIC_SEQ_CST)) wake_all(&pool.jobs);
}

static void stop_workers(void) {
    STORE(pool.quit, 1);
    hand_out();
    for (int i = 0; i < pool.workers; i++) pthread_join(pool.ids[i], NULL);
    pool.workers = 0;
    STORE(pool.quit, 0);
    pool.jobs = 0;
}

static void start_workers(int n) {
    sigset_t all, old; /* signals are the main thread's: workers block them */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (pool.workers < n &&
           pthread_create(&pool.ids[pool.workers], NULL, worker, (void *)(intptr_t)(pool.workers + 1)) == 0)
        pool.workers++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void after_fork(void) { /* only the forking thread lives on in the child */
    pool.busy = pool.workers = pool.sleepers = pool.open = 0;
    pool.jobs = pool.inside = 0;
    STORE(pool.quit, 0);
}

__attribute__((constructor)) static void register_fork_handler(void) {
    pthread_atfork(NULL, NULL, after_fork);
}

int fnn_get_threads(void) {
    int n = LOAD(pool.wanted);
    return n ? n : fnn_cpu_count();
}

void fnn_set_threads(int n) {
    STORE(pool.wanted, n < 1 ? 1 : n > FNN_MAX_THREADS ? FNN_MAX_THREADS : n);
}

static bool take_pool(void) { return !__atomic_test_and_set(&pool.busy, __ATOMIC_ACQUIRE); }

static void run_team(fnn_job job, void *context, int n, fnn_team *team) {
    int wanted = fnn_get_threads();
    if (n > wanted) n = wanted;
    if (n > 1 && take_pool()) {
        if (pool.workers != wanted - 1) { /* first use, a fork, or a new number of threads */
            if (pool.workers) stop_workers();
            start_workers(wanted - 1);
        }
        seat(team, pool.workers + 1 < n ? pool.workers + 1 : n);
        pool.job = job, pool.context = context, pool.team = team;
        __atomic_store_n(&pool.open, 1, __ATOMIC_SEQ_CST);
        hand_out();
        job(context, team, 0);
        __atomic_store_n(&pool.open, 0, __ATOMIC_SEQ_CST);
        for (int i = 0; i < PAUSES && __atomic_load_n(&pool.inside, __ATOMIC_SEQ_CST); i++) relax();
        for (uint32_t inside; (inside = __atomic_load_n(&pool.inside, __ATOMIC_SEQ_CST)) != 0;) sleep_while(&pool.inside, inside, 0);
        __atomic_clear(&pool.busy, __ATOMIC_RELEASE);
    } else {
        seat(team, 1);
        job(context, team, 0);
    }
}

void fnn_parallel(fnn_job job, void *context, int n, fnn_team *team) {
    static _Thread_local int depth;
    float *kept = NULL;
    if (depth) { /* a signal's handler computes inside an operation that polls: it shall find its workspace as it was */
        kept = malloc(sizeof workspace);
        if (!kept) abort(); /* as where a thread's first workspace cannot be had */
        memcpy(kept, workspace, sizeof workspace);
    }
    depth++;
    run_team(job, context, n, team);
    depth--;
    if (kept) memcpy(workspace, kept, sizeof workspace);
    free(kept);
}
