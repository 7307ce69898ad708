/* The thread pool: workers that share one job at a time, and the barrier inside a job.
 *
 * Waiting is a short spin, then a futex: a plan's ops are microseconds apart, its epochs are not.
 * A forked child starts with an empty pool; a second Python thread that comes while the pool is
 * busy computes alone, with the same bits. */
#define _GNU_SOURCE
#include "fastnn.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
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
enum { PAUSES = 400, YIELDS = 200 };

static struct {
    pthread_mutex_t setup; /* held while workers start or stop */
    int busy;              /* somebody's job is running */
    int wanted;            /* threads, the caller's included; 0: not set yet */
    int workers;           /* running */
    bool quit;
    uint32_t jobs; /* futex: counts jobs handed out */
    int sleepers;  /* workers asleep on it */
    uint32_t left; /* futex: workers still at the job */
    fnn_job job;
    void *context;
    fnn_team *team;
    pthread_t ids[FNN_MAX_THREADS];
    int places[FNN_MAX_THREADS];      /* the processor that each thread was last seen on */
    int64_t moved[FNN_MAX_THREADS];   /* when it last left one, ns */
} pool = {.setup = PTHREAD_MUTEX_INITIALIZER};

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

static void sleep_while(uint32_t *word, uint32_t value) {
#ifdef __linux__
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
#else
    (void)word, (void)value;
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

/* Waits until *word differs from value; returns what it then holds. */
static uint32_t wait_change(uint32_t *word, uint32_t value, int *sleepers) {
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
    while ((now = __atomic_load_n(word, __ATOMIC_SEQ_CST)) == value) sleep_while(word, value);
    ADD(*sleepers, -1);
    return now;
}

/* Notes where this thread runs, and moves it off the processor of a thread before it.  Schedulers
 * like to wake a thread beside its waker, and some keep both there for as long as they share. */
static void take_place(fnn_part part) {
#ifdef __linux__
    const int here = sched_getcpu();
    STORE(pool.places[part.tid], here);
    bool shared = false;
    for (int i = 0; i < part.tid; i++) shared |= LOAD(pool.places[i]) == here;
    if (!shared) return;
    const int64_t now = fnn_now();
    if (now - pool.moved[part.tid] < 1000000 || part.n > fnn_cpu_count()) return;
    pool.moved[part.tid] = now;
    cpu_set_t allowed, others;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    others = allowed;
    for (int i = 0; i < part.n; i++) CPU_CLR(LOAD(pool.places[i]), &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
    STORE(pool.places[part.tid], sched_getcpu());
    sched_setaffinity(0, sizeof allowed, &allowed); /* where to go from there is the scheduler's choice */
#else
    (void)part;
#endif
}

/* ---- barrier -------------------------------------------------------------------------------- */

void fnn_team_init(fnn_team *team, int (*poll)(void)) {
    *team = (fnn_team){.n = 1, .poll = poll, .next_poll = poll ? fnn_now() + 20000000 : 0};
}

bool fnn_barrier(fnn_part part) {
    fnn_team *team = part.team;
    if (part.n == 1) return LOAD(team->halt);
    take_place(part);
    uint32_t generation = LOAD(team->generation), verdict;
    if (ADD(team->arrived, 1) == part.n) {
        /* The verdict is part of the word that everybody waits for, so all read the same one. */
        verdict = ((generation | 1) + 1) | (LOAD(team->halt) ? 1 : 0);
        STORE(team->arrived, 0);
        __atomic_store_n(&team->generation, verdict, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&team->sleepers, __ATOMIC_SEQ_CST)) wake_all(&team->generation);
    } else {
        const int64_t start = part.tid == 0 ? fnn_now() : 0;
        verdict = wait_change(&team->generation, generation, &team->sleepers);
        if (part.tid == 0) team->waited += fnn_now() - start;
    }
    return verdict & 1;
}

bool fnn_interrupted(fnn_part part) {
    fnn_team *team = part.team;
    if (part.n > 1) take_place(part);
    if (!team || !team->poll) return false;
    if (part.tid == 0) {
        int64_t now = fnn_now();
        if (now >= team->next_poll) {
            team->next_poll = now + 20000000;
            if (team->poll()) {
                STORE(team->interrupted, 1);
                STORE(team->halt, 1);
            }
        }
    }
    /* not halt: share 0 sets that at the end of a run, too, where others may still be computing */
    return LOAD(team->interrupted);
}

/* ---- pool ----------------------------------------------------------------------------------- */

static _Thread_local float workspace[FNN_WORKSPACE / sizeof(float)] __attribute__((aligned(64)));

float *fnn_workspace(fnn_part part) {
    (void)part;
    return workspace;
}

int fnn_cpu_count(void) {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

static void *worker(void *tid) {
    uint32_t seen = 0; /* workers start before the first job, with pool.jobs == 0 */
    for (;;) {
        seen = wait_change(&pool.jobs, seen, &pool.sleepers);
        if (pool.quit) return NULL;
        fnn_team *team = pool.team;
        const fnn_part part = {(int)(intptr_t)tid, team->n, team};
        take_place(part);
        pool.job(pool.context, part);
        if (__atomic_sub_fetch(&pool.left, 1, __ATOMIC_SEQ_CST) == 0) wake_all(&pool.left);
    }
}

static void hand_out(void) {
    ADD(pool.jobs, 1);
    if (__atomic_load_n(&pool.sleepers, __ATOMIC_SEQ_CST)) wake_all(&pool.jobs);
}

static void stop_workers(void) {
    pool.quit = true;
    hand_out();
    for (int i = 0; i < pool.workers; i++) pthread_join(pool.ids[i], NULL);
    pool.workers = 0;
    pool.quit = false;
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
    pthread_mutex_init(&pool.setup, NULL);
    pool.busy = pool.workers = pool.sleepers = 0;
    pool.jobs = pool.left = 0;
    pool.quit = false;
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

void fnn_parallel(fnn_job job, void *context, int n, fnn_team *team) {
    int wanted = fnn_get_threads();
    if (n > wanted) n = wanted;
    if (n > 1 && take_pool()) {
        if (pool.workers != wanted - 1) { /* first use, a fork, or a new number of threads */
            pthread_mutex_lock(&pool.setup);
            if (pool.workers) stop_workers();
            start_workers(wanted - 1);
            pthread_mutex_unlock(&pool.setup);
        }
        team->n = pool.workers + 1;
        pool.job = job, pool.context = context, pool.team = team;
        STORE(pool.left, (uint32_t)pool.workers);
        take_place((fnn_part){0, team->n, team});
        hand_out();
        job(context, (fnn_part){0, team->n, team});
        for (int i = 0; i < PAUSES && LOAD(pool.left); i++) relax();
        for (uint32_t left; (left = LOAD(pool.left)) != 0;) sleep_while(&pool.left, left);
        __atomic_clear(&pool.busy, __ATOMIC_RELEASE);
    } else {
        job(context, (fnn_part){0, 1, team});
    }
}
