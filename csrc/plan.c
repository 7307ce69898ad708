/* Recorded ops, and the loops that replay them: a whole step, many steps, without the interpreter.
 *
 * The threads meet where an op needs what another share of an earlier one computed, and at the end of
 * a step. */
#include "fastnn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool fnn_plan_insert(fnn_plan *plan, int i, fnn_op op, const void *args, size_t size, double work) {
    if (plan->n == plan->capacity) {
        int capacity = plan->capacity ? 2 * plan->capacity : 16;
        fnn_plan_op *ops = realloc(plan->ops, (size_t)capacity * sizeof *ops);
        if (!ops) return false;
        plan->ops = ops;
        plan->capacity = capacity;
    }
    void *copy = malloc(size);
    if (!copy) return false;
    memcpy(copy, args, size);
    memmove(&plan->ops[i + 1], &plan->ops[i], (size_t)(plan->n++ - i) * sizeof *plan->ops);
    plan->ops[i] = (fnn_plan_op){
        .op = op, .args = copy, .work = work, .serial = work < FNN_PARALLEL_WORK, .barrier = true};
    plan->work += work;
    return true;
}

void fnn_plan_remove(fnn_plan *plan, int i) {
    free(plan->ops[i].args);
    plan->n--;
    memmove(&plan->ops[i], &plan->ops[i + 1], (size_t)(plan->n - i) * sizeof *plan->ops);
}

void fnn_plan_clear(fnn_plan *plan) {
    for (int i = 0; i < plan->n; i++) free(plan->ops[i].args);
    free(plan->ops);
    *plan = (fnn_plan){.block = 1};
}

static fnn_outcome outcome(int status) {
    return status == FNN_STOP ? FNN_HALTED_LOSS : status == FNN_PAST_END ? FNN_HALTED_END : FNN_RAN;
}

static void halt(fnn_team *team) { __atomic_store_n(&team->halt, 1, __ATOMIC_RELEASE); }

typedef struct {
    fnn_plan *plan;
    fnn_team *team;
    int (*poll)(void);
    int64_t wanted, end;           /* steps in all, and when to end early, ns */
    int64_t steps, deadline, done; /* the same of the stretch that is run now; steps so far */
    bool profile, interruptible;
    int status; /* of the op that stopped the step */
} run_state;

/* What the threads do between two meetings: ops [first, last) of a step, 1, 2, ..., which they may end. */
typedef struct {
    run_state *run;
    int first, last;
    bool ends;
    int64_t step;
} phase;

static void run_ops(void *context, fnn_part part) {
    const phase *ops = context;
    run_state *run = ops->run;
    fnn_plan *plan = run->plan;
    const fnn_fn *table = fnn_current_isa->ops;
    bool failed = false;
    for (int i = ops->first; i < ops->last; i++) {
        const fnn_plan_op *op = &plan->ops[i];
        if (op->serial && (part.share > 0 || failed)) continue;
        const bool may_stop = run->interruptible && !op->commits;
        const fnn_part share = {part.share, op->serial ? 1 : part.n, part.thread, may_stop ? part.team : NULL};
        const int status = table[op->op](op->args, share);
        if (status != FNN_OK) {
            __atomic_store_n(&run->status, status, __ATOMIC_RELAXED); /* all shares say the same */
            halt(part.team);
            failed = true;
        }
        if (may_stop && op->work > 1e7) fnn_interrupted(share);
    }
    if (!ops->ends || part.share > 0) return;
    /* one counts the step, here: after the meeting the others may have begun the next one, which may fail */
    if (!failed) run->done++, plan->left--;
    /* and decides for all whether there is a next one: time must not decide where a block ends, for its bits */
    if (ops->step == run->steps || (ops->step % plan->block == 0 && fnn_now() >= run->deadline)) halt(part.team);
}

static void run_steps(void *context, fnn_team *team, int thread) {
    run_state *run = context;
    const fnn_plan *plan = run->plan;
    fnn_plan_op *ops = plan->ops;
    uint32_t number = 0;
    phase now = {.run = run, .step = 1};
    for (bool over = false; !over;) {
        const int end = now.step % plan->block == 0 || now.step == run->steps ? plan->n : plan->n - plan->last;
        const int64_t start = run->profile && thread == 0 ? fnn_now() : 0;
        bool serial = true;
        for (now.last = now.first; now.last < end;) {
            const fnn_plan_op *op = &ops[now.last++];
            serial &= op->serial;
            if (op->barrier || run->profile) break;
        }
        now.ends = now.last == end;
        over = fnn_phase(team, thread, ++number, serial ? 1 : team->n, run_ops, &now);
        if (run->profile && thread == 0) ops[now.first].seconds += 1e-9 * (double)(fnn_now() - start);
        now.first = !now.ends ? now.last : now.step % plan->block == 0 ? 0 : plan->first;
        now.step += now.ends;
    }
}

/* ---- how many threads ------------------------------------------------------------------------ */

/* Where a step takes microseconds, to meet may take longer than to compute alone: it depends on how far the cores are
 * apart, and on who else uses them.  So from time to time half or twice as many threads run some steps, to the same bits;
 * the longer nothing is gained, the more rarely. */
enum {
    RUNS = 3,                   /* with each number of threads in a trial, of which the shortest counts */
    TRIAL = 1000000,            /* ns of such a run */
    PAUSE = 50000000,           /* ns of running before the first trial, and after one that gained */
    LONGEST_PAUSE = 1600000000, /* ns; a trial that gained nothing doubles the pause, up to this */
    LONG_STEP = 500000,         /* ns; a step so long is worth all threads */
};

/* Runs so many steps, if there are as many left and nothing ends them before; returns the ns that a step took. */
static double run_on(run_state *run, int threads, int64_t steps, int64_t deadline) {
    fnn_plan *const plan = run->plan;
    const int64_t start = fnn_now(), before = run->done;
    run->steps = steps < run->wanted - before ? steps : run->wanted - before;
    run->deadline = deadline;
    plan->left = run->steps;
    fnn_team_init(run->team, run->poll);
    fnn_parallel(run_steps, run, threads, run->team);
    if (run->status != FNN_OK) /* within a block: what its last step would do is left */
        for (int i = plan->n - plan->last; i < plan->n; i++) fnn_run_op(plan->ops[i].op, plan->ops[i].args, plan->ops[i].work, NULL);
    const int64_t took = fnn_now() - start;
    plan->pace.wait -= took;
    return (double)took / (double)(run->done - before);
}

static bool has_ended(const run_state *run) {
    return run->status != FNN_OK || run->team->interrupted || run->done == run->wanted || fnn_now() >= run->end;
}

/* Compares runs of so many steps with half or twice as many threads, and keeps what is faster. */
static void try_others(run_state *run, int64_t steps) {
    fnn_pace *const pace = &run->plan->pace;
    if (pace->threads == 1 || pace->threads == pace->most) pace->more = pace->threads == 1;
    const int others = !pace->more ? pace->threads / 2 : 2 * pace->threads < pace->most ? 2 * pace->threads : pace->most;
    double best[2] = {INFINITY, INFINITY};
    for (int i = 0; i < 2 * RUNS; i++) {
        const double step = run_on(run, i < RUNS ? pace->threads : others, steps, run->end);
        if (has_ended(run)) return;
        if (step < best[i / RUNS]) best[i / RUNS] = step;
    }
    const bool better = best[1] < 0.97 * best[0];
    if (better) pace->threads = others;
    else pace->more = !pace->more;
    pace->step = best[better];
    pace->pause = better ? PAUSE : 2 * pace->pause < LONGEST_PAUSE ? 2 * pace->pause : LONGEST_PAUSE;
    pace->wait = pace->pause;
}

fnn_outcome fnn_plan_run(fnn_plan *plan, int64_t steps, int64_t budget, bool profile, int (*poll)(void), int64_t *done) {
    fnn_team team;
    run_state run = {.plan = plan, .team = &team, .wanted = steps, .end = fnn_now() + budget, .profile = profile};
    bool parallel = false;
    for (int i = 0; i < plan->n; i++) parallel |= !plan->ops[i].serial;
    run.interruptible = poll && plan->work >= FNN_LONG_WORK;
    run.poll = run.interruptible ? poll : NULL;
    fnn_pace *const pace = &plan->pace;
    const double block = plan->block;
    const int most = parallel ? fnn_get_threads() : 1;
    if (pace->most != most) *pace = (fnn_pace){.most = most, .threads = most, .pause = PAUSE, .wait = PAUSE};
    do {
        /* whole blocks */
        const double few = floor((double)(steps - run.done) / (2 * RUNS + 1) / block) * block;
        const double trial = pace->step > 0 && TRIAL / pace->step < few ? ceil(TRIAL / pace->step / block) * block : few;
        if (pace->step >= LONG_STEP) pace->threads = most; /* whatever a trial has put aside while steps were short */
        const bool worth = most > 1 && !profile && pace->step < LONG_STEP && trial * pace->step >= TRIAL / 10;
        if (worth && pace->wait <= 0) {
            try_others(&run, (int64_t)trial);
        } else {
            const bool pauses = worth || (most > 1 && pace->step == 0 && !profile);
            const int64_t next = fnn_now() + pace->wait, until = pauses && next < run.end ? next : run.end;
            const double step = run_on(&run, profile ? most : pace->threads, steps - run.done, until);
            if (!profile) pace->step = step;
        }
    } while (!has_ended(&run));
    *done = run.done;
    return team.interrupted ? FNN_HALTED_USER : outcome(run.status);
}

typedef struct {
    fnn_op op;
    const void *args;
    int status;
} single_op;

static void run_share(void *context, fnn_part part) {
    single_op *single = context;
    const int status = fnn_current_isa->ops[single->op](single->args, part);
    if (status != FNN_OK) __atomic_store_n(&single->status, status, __ATOMIC_RELAXED);
}

static void run_single(void *context, fnn_team *team, int thread) {
    fnn_phase(team, thread, 1, team->n, run_share, context);
}

fnn_outcome fnn_run_op(fnn_op op, const void *args, double work, int (*poll)(void)) {
    single_op single = {op, args, FNN_OK};
    fnn_team team;
    fnn_team_init(&team, work >= FNN_LONG_WORK ? poll : NULL);
    fnn_parallel(run_single, &single, work < FNN_PARALLEL_WORK ? 1 : FNN_MAX_THREADS, &team);
    return team.interrupted ? FNN_HALTED_USER : outcome(single.status);
}
