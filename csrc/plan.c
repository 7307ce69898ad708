/* Recorded ops, and the loops that replay them: a whole step, many steps, without the interpreter.
 *
 * The threads meet where an op needs what another share of an earlier one computed, and at the end of
 * a step. */
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

static fnn_outcome outcome(int status) {
    return status == FNN_STOP ? FNN_HALTED_LOSS : status == FNN_PAST_END ? FNN_HALTED_END : FNN_RAN;
}

static void halt(fnn_team *team) { __atomic_store_n(&team->halt, 1, __ATOMIC_RELEASE); }

typedef struct {
    fnn_plan *plan;
    fnn_team *team;
    int64_t steps, deadline, done;
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
    const fnn_fn *table = fnn_current_isa->ops;
    bool failed = false;
    for (int i = ops->first; i < ops->last; i++) {
        const fnn_plan_op *op = &run->plan->ops[i];
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
    /* one decides for all whether there is a next step */
    if (ops->ends && part.share == 0 && (ops->step == run->steps || fnn_now() >= run->deadline)) halt(part.team);
}

static void run_steps(void *context, fnn_team *team, int thread) {
    run_state *run = context;
    fnn_plan_op *ops = run->plan->ops;
    uint32_t number = 0;
    phase now = {.run = run, .step = 1};
    for (bool over = false; !over;) {
        const int64_t start = run->profile && thread == 0 ? fnn_now() : 0;
        bool serial = true;
        for (now.last = now.first; now.last < run->plan->n;) {
            const fnn_plan_op *op = &ops[now.last++];
            serial &= op->serial;
            if (op->barrier || run->profile) break;
        }
        now.ends = now.last == run->plan->n;
        over = fnn_phase(team, thread, ++number, serial ? 1 : team->n, run_ops, &now);
        if (run->profile && thread == 0) ops[now.first].seconds += 1e-9 * (double)(fnn_now() - start);
        now.first = now.ends ? run->plan->once : now.last;
        now.step += now.ends;
        if (thread == 0 && now.ends && run->status == FNN_OK && !__atomic_load_n(&team->interrupted, __ATOMIC_ACQUIRE)) run->done++;
    }
}

fnn_outcome fnn_plan_run(fnn_plan *plan, int64_t steps, int64_t budget, bool profile, int (*poll)(void), int64_t *done) {
    fnn_team team;
    run_state run = {.plan = plan, .team = &team, .steps = steps, .profile = profile, .deadline = fnn_now() + budget};
    bool parallel = false;
    for (int i = 0; i < plan->n; i++) parallel |= !plan->ops[i].serial;
    run.interruptible = poll && plan->work >= FNN_LONG_WORK;
    fnn_team_init(&team, run.interruptible ? poll : NULL);
    fnn_parallel(run_steps, &run, parallel ? FNN_MAX_THREADS : 1, &team);
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
