/* Recorded ops, and the loops that replay them: a whole step, many steps, without the interpreter.
 *
 * The team meets where an op needs what another thread computed; a step always ends with a
 * meeting, where share 0 decides for all whether there is a next one. */
#include "fastnn.h"

#include <stdlib.h>
#include <string.h>

bool fnn_plan_append(fnn_plan *plan, fnn_op op, const void *args, size_t size, double work) {
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
    plan->ops[plan->n++] = (fnn_plan_op){
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
    *plan = (fnn_plan){0};
}

enum { BUSY_WAIT = 5000000, ALONE = 500000000 }; /* ns */

static fnn_outcome outcome(int status) {
    return status == FNN_STOP ? FNN_HALTED_LOSS : status == FNN_PAST_END ? FNN_HALTED_END : FNN_RAN;
}

typedef struct {
    fnn_plan *plan;
    int64_t steps, deadline, done;
    bool profile, interruptible;
    int status; /* of the op that stopped the step */
} run_state;

static void halt(fnn_team *team) { __atomic_store_n(&team->halt, 1, __ATOMIC_RELEASE); }

/* One step by one thread: true when all were told to stop, before the step was complete. */
static bool run_step(run_state *run, fnn_part part) {
    const fnn_fn *table = fnn_current_isa->ops;
    for (int i = 0; i < run->plan->n; i++) {
        fnn_plan_op *op = &run->plan->ops[i];
        int64_t start = run->profile && part.tid == 0 ? fnn_now() : 0;
        bool may_stop = run->interruptible && !op->commits;
        int status = FNN_OK;
        fnn_part share = {part.tid, op->serial ? 1 : part.n, may_stop ? part.team : NULL};
        if (share.tid < share.n) status = table[op->op](op->args, share);
        if (status != FNN_OK) {
            __atomic_store_n(&run->status, status, __ATOMIC_RELAXED); /* all shares say the same */
            halt(part.team);
        }
        if (may_stop && op->work > 1e7) fnn_interrupted(part);
        if ((op->barrier || run->profile) && fnn_barrier(part)) return true;
        if (run->profile && part.tid == 0) op->seconds += 1e-9 * (double)(fnn_now() - start);
    }
    return false;
}

static void run_share(void *context, fnn_part part) {
    run_state *run = context;
    for (;;) {
        if (run_step(run, part)) return;
        if (part.tid == 0) {
            run->done++;
            if (run->done == run->steps || fnn_now() >= run->deadline) halt(part.team);
        }
        if (fnn_barrier(part)) return;
    }
}

fnn_outcome fnn_plan_run(fnn_plan *plan, int64_t steps, int64_t budget, bool profile, int (*poll)(void), int64_t *done) {
    run_state run = {.plan = plan, .steps = steps, .profile = profile};
    bool parallel = false;
    for (int i = 0; i < plan->n; i++) parallel |= !plan->ops[i].serial;
    run.interruptible = poll && plan->work >= FNN_LONG_WORK;
    const int64_t start = fnn_now();
    run.deadline = start + budget;
    fnn_team team;
    fnn_team_init(&team, run.interruptible ? poll : NULL);
    fnn_parallel(run_share, &run, parallel && start >= plan->alone_until ? FNN_MAX_THREADS : 1, &team);
    /* Others keep our threads from running: alone it is faster, and the bits are the same. */
    const int64_t end = fnn_now();
    const bool crowded = team.waited > BUSY_WAIT && team.waited > (end - start) / 2;
    if (crowded && plan->crowded) plan->alone_until = end + ALONE; /* once may be a bad start */
    plan->crowded = crowded;
    *done = run.done;
    return team.interrupted ? FNN_HALTED_USER : outcome(run.status);
}

typedef struct {
    fnn_op op;
    const void *args;
    int status;
} single_op;

static void run_single(void *context, fnn_part part) {
    single_op *single = context;
    int status = fnn_current_isa->ops[single->op](single->args, part);
    if (status != FNN_OK) __atomic_store_n(&single->status, status, __ATOMIC_RELAXED);
}

fnn_outcome fnn_run_op(fnn_op op, const void *args, double work, int (*poll)(void)) {
    single_op single = {op, args, FNN_OK};
    fnn_team team;
    fnn_team_init(&team, work >= FNN_LONG_WORK ? poll : NULL);
    fnn_parallel(run_single, &single, work < FNN_PARALLEL_WORK ? 1 : FNN_MAX_THREADS, &team);
    return team.interrupted ? FNN_HALTED_USER : outcome(single.status);
}
