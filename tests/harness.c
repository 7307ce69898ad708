/* The C core by itself, for sanitizers: products at the edges of every tile in buffers of exactly
 * their size, and plans that several threads run.  Exits 1 where a result is wrong.
 *
 * Built and run by test_sanitizers.py with one instruction set, FNN_ISA. */
#include "tile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

extern const fnn_fn FN(table)[];
static const fnn_isa isa = {"harness", FN(table)};
const fnn_isa *fnn_current_isa = &isa;

static int failures;

static float *numbers(int64_t n) {
    static uint32_t state = 1;
    float *x = malloc(sizeof(float) * (size_t)(n ? n : 1));
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) / 0x1p23f - 1.0f;
    }
    return x;
}

/* as images are: most of it one ground, which is 0 or another number in every column */
static void paint(float *x, int64_t n, int64_t columns, float level) {
    for (int64_t e = 0; e < n; e++)
        if (e / 5 % 7 < 5) x[e] = level * (float)(e % columns % 3);
}

static void check_product(int64_t m, int64_t n, int64_t k, bool ta, bool tb, int threads, const float *level) {
    float *a = numbers(m * k), *b = numbers(k * n), *out = numbers(m * n);
    if (level) paint(a, m * k, ta ? m : k, *level);
    fnn_gemm_args args = {a, b, out, m, n, k, ta, tb};
    fnn_set_threads(threads);
    fnn_run_op(FNN_OP_gemm, &args, 1e9, NULL);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += (double)a[ta ? l * m + i : i * k + l] * (double)b[tb ? j * k + l : l * n + j];
            if (!(fabs(sum - (double)out[i * n + j]) <= 1e-6 * (double)(k + 1))) failures++;
        }
    free(a), free(b), free(out);
}

/* convolution and both gradients, against plain loops */
static void check_convolution(fnn_conv2d f, int threads, int chunks) {
    const int64_t nx = f.n * f.h * f.w * f.c, nout = f.n * f.oh * f.ow * f.k, nw = f.kh * f.kw * f.c * f.k;
    float *x = numbers(nx), *w = numbers(nw), *dout = numbers(nout), *out = numbers(nout), *dx = numbers(nx);
    float *dw = numbers(nw), *db = numbers(f.k), *scratch = numbers(chunks * (nw + f.k));
    double *sums = calloc((size_t)(nout + nx + nw), sizeof(double)), *sx = sums + nout, *sw = sx + nx;
    for (int64_t n = 0; n < f.n; n++)
        for (int64_t i = 0; i < f.oh; i++)
            for (int64_t j = 0; j < f.ow; j++)
                for (int64_t r = 0; r < f.kh; r++)
                    for (int64_t q = 0; q < f.kw; q++) {
                        const int64_t y = i * f.sh + r * f.dh - f.top, z = j * f.sw + q * f.dw - f.left;
                        if (y < 0 || y >= f.h || z < 0 || z >= f.w) continue;
                        for (int64_t c = 0; c < f.c; c++)
                            for (int64_t k = 0; k < f.k; k++) {
                                const int64_t at = ((n * f.h + y) * f.w + z) * f.c + c;
                                const int64_t to = ((n * f.oh + i) * f.ow + j) * f.k + k, tap = ((r * f.kw + q) * f.c + c) * f.k + k;
                                sums[to] += (double)x[at] * (double)w[tap];
                                sx[at] += (double)dout[to] * (double)w[tap];
                                sw[tap] += (double)x[at] * (double)dout[to];
                            }
                    }
    fnn_conv2d_forward_args forward = {.shape = f, .x = x, .w = w, .out = out};
    fnn_conv2d_backward_x_args for_x = {.shape = f, .dout = dout, .w = w, .dx = dx};
    fnn_conv2d_backward_w_args for_w = {.shape = f, .dout = dout, .x = x, .dw = dw, .db = db, .chunks = chunks, .scratch = scratch};
    fnn_sum_rows_args rows = {scratch, nw + f.k, dw, chunks, nw};
    fnn_set_threads(threads);
    fnn_run_op(FNN_OP_conv2d_forward, &forward, 1e9, NULL);
    fnn_run_op(FNN_OP_conv2d_backward_x, &for_x, 1e9, NULL);
    fnn_run_op(FNN_OP_conv2d_backward_w, &for_w, 1e9, NULL);
    if (chunks) fnn_run_op(FNN_OP_sum_rows, &rows, 1e9, NULL);
    for (int64_t e = 0; e < nout; e++) failures += !(fabs(sums[e] - (double)out[e]) <= 1e-3);
    for (int64_t e = 0; e < nx; e++) failures += !(fabs(sx[e] - (double)dx[e]) <= 1e-3);
    for (int64_t e = 0; e < nw; e++) failures += !(fabs(sw[e] - (double)dw[e]) <= 1e-3);
    free(x), free(w), free(dout), free(out), free(dx), free(dw), free(db), free(scratch), free(sums);
}

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * (b ? (double)b[i] : 1);
    return sum;
}

static void expect(double got, double wanted) { failures += !(fabs(got - wanted) <= 1e-3 * (1 + fabs(wanted))); }

/* Pixels that were chosen get all of the gradient; the mean's gradient is its transpose. */
static void check_pooling(fnn_pool2d f, int threads) {
    const int64_t nx = f.n * f.h * f.w * f.c, nout = f.n * f.oh * f.ow * f.c;
    float *x = numbers(nx), *dx = numbers(nx), *out = numbers(nout), *dout = numbers(nout);
    void *index = malloc((size_t)nout * (f.kh * f.kw > 256 ? 4 : 1));
    const bool wide = f.kh * f.kw > 256;
    fnn_maxpool2d_forward_args max = {f, x, wide, index, out};
    fnn_maxpool2d_backward_args for_max = {f, dout, wide, index, NULL, dx};
    fnn_avgpool2d_forward_args mean = {f, x, 1, true, out};
    fnn_avgpool2d_backward_args for_mean = {f, dout, 1, true, dx};
    fnn_set_threads(threads);
    fnn_run_op(FNN_OP_maxpool2d_forward, &max, 1e9, NULL);
    fnn_run_op(FNN_OP_maxpool2d_backward, &for_max, 1e9, NULL);
    expect(dot(dx, NULL, nx), dot(dout, NULL, nout));
    expect(dot(x, dx, nx), dot(out, dout, nout));
    fnn_run_op(FNN_OP_avgpool2d_forward, &mean, 1e9, NULL);
    fnn_run_op(FNN_OP_avgpool2d_backward, &for_mean, 1e9, NULL);
    expect(dot(x, dx, nx), dot(out, dout, nout));
    free(x), free(dx), free(out), free(dout), free(index);
}

/* A convolution of 1 x 1 that is pooled at once gives what the two do one after the other. */
static void check_pooled_convolution(fnn_pool2d f, int64_t channels, int threads) {
    const fnn_conv2d shape = {f.n, f.h, f.w, channels, f.h, f.w, f.c, 1, 1, 1, 1, 0, 0, 1, 1};
    const int64_t nx = f.n * f.h * f.w * channels, ny = f.n * f.h * f.w * f.c, nout = f.n * f.oh * f.ow * f.c;
    float *x = numbers(nx), *w = numbers(channels * f.c), *y = numbers(ny), *apart = numbers(nout), *out = numbers(nout);
    uint8_t *places = malloc((size_t)nout), *index = malloc((size_t)nout);
    fnn_conv2d_forward_args forward = {.shape = shape, .x = x, .w = w, .out = y, .relu = true};
    fnn_maxpool2d_forward_args pool = {f, y, false, places, apart};
    fnn_set_threads(threads);
    fnn_run_op(FNN_OP_conv2d_forward, &forward, 1e9, NULL);
    fnn_run_op(FNN_OP_maxpool2d_forward, &pool, 1e9, NULL);
    forward.pool = f, forward.index = index, forward.pooled = out;
    fnn_run_op(FNN_OP_conv2d_forward, &forward, 1e9, NULL);
    failures += memcmp(out, apart, sizeof(float) * (size_t)nout) != 0 || memcmp(index, places, (size_t)nout) != 0;
    free(x), free(w), free(y), free(apart), free(out), free(places), free(index);
}

/* Normalised rows, and the gradient of what they came from, add up to 0. */
static void check_batchnorm(int64_t n, int64_t c, int threads) {
    const int64_t chunks = (n + FNN_BATCHNORM_ROWS - 1) / FNN_BATCHNORM_ROWS;
    float *x = numbers(n * c), *out = numbers(n * c), *dout = numbers(n * c), *dx = numbers(n * c);
    float *gamma = numbers(c), *beta = calloc((size_t)c, sizeof *beta), *mean = numbers(c), *var = numbers(c);
    float *dgamma = numbers(c), *dbeta = numbers(c);
    double *scratch = malloc(sizeof *scratch * (size_t)(chunks * 2 * c));
    fnn_batchnorm_sums_args sums = {NULL, x, NULL, scratch, n, c}, for_sums = {dout, x, mean, scratch, n, c};
    fnn_batchnorm_moments_args moments = {scratch, mean, var, n, c};
    fnn_batchnorm_forward_args forward = {x, gamma, beta, mean, var, 1e-3f, out, n, c};
    fnn_batchnorm_gradients_args gradients = {scratch, var, 1e-3f, dgamma, dbeta, n, c};
    fnn_batchnorm_backward_args backward = {dout, x, gamma, mean, var, dgamma, dbeta, 1e-3f, dx, n, c};
    fnn_batchnorm_update_args update = {mean, var, n, 0.5f, dgamma, dbeta, c};
    fnn_set_threads(threads);
    fnn_run_op(FNN_OP_batchnorm_sums, &sums, 1e9, NULL);
    fnn_run_op(FNN_OP_batchnorm_moments, &moments, 1e9, NULL);
    fnn_run_op(FNN_OP_batchnorm_forward, &forward, 1e9, NULL);
    fnn_run_op(FNN_OP_batchnorm_sums, &for_sums, 1e9, NULL);
    fnn_run_op(FNN_OP_batchnorm_gradients, &gradients, 1e9, NULL);
    fnn_run_op(FNN_OP_batchnorm_backward, &backward, 1e9, NULL);
    expect(dot(out, NULL, n * c), 0);
    expect(dot(dx, NULL, n * c), 0);
    expect(dot(dbeta, NULL, c), dot(dout, NULL, n * c));
    fnn_run_op(FNN_OP_batchnorm_update, &update, 1e9, NULL);
    free(x), free(out), free(dout), free(dx), free(gamma), free(beta), free(mean), free(var), free(dgamma), free(dbeta);
    free(scratch);
}

/* the sums of each token's gradients, over a table of which half the rows are known to be 0 */
static void check_embedding(int64_t r, int64_t v, int64_t u, int threads) {
    float *w = numbers(v * u), *out = numbers(r * u), *dw = numbers(v * u);
    int32_t *x = malloc(sizeof(int32_t) * (size_t)r);
    uint8_t *clean = malloc((size_t)v);
    for (int64_t i = 0; i < r; i++) x[i] = (int32_t)(i * i % v);
    for (int64_t i = 0; i < v; i++) {
        clean[i] = i % 2;
        if (clean[i]) memset(dw + i * u, 0, sizeof(float) * (size_t)u);
    }
    fnn_embedding_forward_args forward = {x, w, out, r, u};
    fnn_embedding_backward_args backward = {out, x, clean, dw, r, v, u};
    fnn_set_threads(threads);
    fnn_run_op(FNN_OP_embedding_forward, &forward, 1e9, NULL);
    fnn_run_op(FNN_OP_embedding_backward, &backward, 1e9, NULL);
    expect(dot(dw, NULL, v * u), dot(out, NULL, r * u));
    for (int64_t i = 0; i < r; i++)
        if (clean[x[i]]) failures++;
    free(w), free(out), free(dw), free(x), free(clean);
}

static int never(void) { return 0; }

static void append(fnn_plan *plan, fnn_op op, const void *args, size_t size, double work) {
    if (!fnn_plan_insert(plan, plan->n, op, args, size, work)) failures++;
}

/* forward, backward and SGD of one layer as a plan, with 1 thread and with several: equal bits */
static void check_plan(int64_t n, int64_t i, int64_t o, int threads) {
    float *x = numbers(n * i), *w = numbers(i * o), *b = numbers(o), lr = 1e-3f;
    paint(x, n * i, i, 0.5f);
    float *first = malloc(sizeof(float) * (size_t)(i * o));
    for (int round = 0; round < 2; round++) {
        float *weights = numbers(0), *out = numbers(n * o), *dx = numbers(n * i);
        int64_t clock[3] = {0}, done = 0, total = 0;
        weights = realloc(weights, sizeof(float) * (size_t)(i * o));
        memcpy(weights, w, sizeof(float) * (size_t)(i * o));
        float *bias = malloc(sizeof(float) * (size_t)o);
        memcpy(bias, b, sizeof(float) * (size_t)o);
        fnn_plan plan = {.block = 1};
        const double work = 1e6;
        const int64_t size = fnn_blocks(i) / 2 * n * o;
        float *parts = calloc((size_t)size + FNN_LINE + 1, sizeof(float));
        fnn_dense_forward_args forward = {x, weights, bias, out, n, i, o, FNN_TANH, 0, out, true,
                                          size ? parts : NULL, (int *)(parts + size)};
        fnn_dense_backward_x_args for_x = {out, weights, dx, n, i, o, FNN_TANH, 0, x};
        fnn_dense_backward_w_args for_w = {out, x, NULL, NULL, n, i, o, &lr, 1, clock, weights, bias, 0, 0, true};
        fnn_advance_args advance = {0, clock};
        append(&plan, FNN_OP_dense_forward, &forward, sizeof forward, work);
        append(&plan, FNN_OP_dense_backward_x, &for_x, sizeof for_x, work);
        append(&plan, FNN_OP_dense_backward_w, &for_w, sizeof for_w, work);
        append(&plan, FNN_OP_advance, &advance, sizeof advance, 1);
        fnn_set_threads(round ? threads : 1);
        while (total < 50) {
            fnn_plan_run(&plan, 50 - total, 2000000, false, never, &done);
            total += done;
        }
        if (clock[FNN_STEP] != 50) failures++;
        if (round == 0) memcpy(first, weights, sizeof(float) * (size_t)(i * o));
        else if (memcmp(first, weights, sizeof(float) * (size_t)(i * o))) failures++;
        fnn_plan_clear(&plan);
        free(weights), free(bias), free(out), free(dx), free(parts);
    }
    free(x), free(w), free(b), free(first);
}

/* steps of n samples that move a weight once for a block of them: with 1 thread, with several, some blocks at a time, in trials
 * of fewer threads, past the end of the data, and where steps have become long since a trial */
static void check_delayed(int64_t n, int64_t i, int64_t o, int threads) {
    enum { STEPS = 50, BLOCK = 3 };
    const int64_t rows = n * STEPS, many = n * BLOCK;
    const size_t size = sizeof(float) * (size_t)(i * o);
    float *data = numbers(rows * i), *w = numbers(i * o), *b = numbers(o), lr = 1e-3f, *first = malloc(size);
    int32_t *labels = calloc((size_t)rows, sizeof *labels);
    paint(data, rows * i, i, 0.5f);
    for (int round = 0; round < 6; round++) {
        float *weights = malloc(size), *out = numbers(n * o), *bias = malloc(sizeof(float) * (size_t)o);
        float *x = numbers(many * i), *z = numbers(many * o), *g = numbers(many * many), *d = numbers(many * o);
        memcpy(weights, w, size), memcpy(bias, b, sizeof(float) * (size_t)o);
        int64_t clock[3] = {0}, done = 0, total = 0;
        fnn_delayed_state state = {-1, 0, 0};
        int32_t *label = malloc(sizeof *label * (size_t)n);
        const bool l2 = i % 2;
        double *sums = calloc((size_t)(i * o / FNN_CHUNK + 1), sizeof *sums);
        fnn_plan plan = {.block = BLOCK, .first = l2 ? 3 : 2, .last = 1};
        const double step = o > 50 && !l2 ? 1e6 : 1; /* shared */
        const fnn_gather_labels_args gather_label = {labels, NULL, clock, label, n, 1, rows};
        const fnn_advance_args advance = {n, clock};
        fnn_delayed_args part = {
            .gather = {data, false, NULL, 1, clock, NULL, n, i, rows},
            .forward = {NULL, weights, bias, out, n, i, o, FNN_TANH, 0, out, true, NULL, NULL},
            .backward = {out, NULL, NULL, NULL, n, i, o, &lr, 1, clock, weights, bias, 0, l2 ? 0.1f : 0, true},
            .squares = {weights, 0, 0.1f, sums, i * o},
            .rows = many, .left = &plan.left, .state = &state, .x = x, .z = z, .g = g, .d = d};
        part.part = FNN_GATHER_BLOCK, append(&plan, FNN_OP_delayed, &part, sizeof part, 1e6);
        part.part = FNN_MULTIPLY_BLOCK, append(&plan, FNN_OP_delayed, &part, sizeof part, 1e6);
        if (l2) append(&plan, FNN_OP_chunk_sums, &part.squares, sizeof part.squares, 1e6);
        append(&plan, FNN_OP_gather_labels, &gather_label, sizeof gather_label, 1);
        part.part = FNN_FORWARD_STEP, append(&plan, FNN_OP_delayed, &part, sizeof part, step);
        if (l2) part.part = FNN_PENALTY_STEP, append(&plan, FNN_OP_delayed, &part, sizeof part, 1);
        part.part = FNN_BACKWARD_STEP, append(&plan, FNN_OP_delayed, &part, sizeof part, step);
        append(&plan, FNN_OP_advance, &advance, sizeof advance, 1);
        part.part = FNN_UPDATE_BLOCK, append(&plan, FNN_OP_delayed, &part, sizeof part, 1e6);
        fnn_set_threads(round ? threads : 1);
        const int64_t more = round == 4 ? 50 : 0, budget = round > 2 ? 60000000000 : 2000000;
        for (; total < STEPS; total += done) {
            /* 44 steps in trials of six */
            const bool few = STEPS - total > 2 * BLOCK && (round == 2 || (round == 3 && total == 0));
            const int64_t asked = few ? 2 * BLOCK : STEPS - total + more;
            if (round > 2) plan.pace = (fnn_pace){.most = threads, .threads = threads, .pause = 1, .step = 2e5};
            if (round == 5) plan.pace.threads = 1, plan.pace.step = 9e5;
            const fnn_outcome end = fnn_plan_run(&plan, asked, budget, false, never, &done);
            if ((end == FNN_HALTED_END) != (round == 4)) failures++;
        }
        if (round == 3 && threads > 1 && plan.pace.pause == 1) failures++; /* there was no trial */
        if (round == 5 && plan.pace.threads != threads) failures++;
        if (clock[FNN_ROW] != rows || clock[FNN_STEP] != STEPS) failures++;
        if (round == 0) memcpy(first, weights, size);
        else if (memcmp(first, weights, size)) failures++;
        fnn_plan_clear(&plan);
        free(weights), free(out), free(bias), free(x), free(z), free(g), free(d), free(label), free(sums);
    }
    free(data), free(w), free(b), free(first), free(labels);
}

static bool differ(const float *a, const float *b, int64_t n) { return memcmp(a, b, sizeof(float) * (size_t)n) != 0; }

/* A sweep forward and back, then the weights' gradients against plain sums over the steps; with parts to the same bits
 * for any number of threads. */
static void check_recurrence(fnn_cell cell, int64_t n, int64_t t, int64_t i, int64_t h, int threads) {
    const int64_t width = (cell == FNN_LSTM ? 4 : cell == FNN_GRU ? 3 : 1) * h, size = (i + h + 2) * width;
    const bool gates = width > h, lstm = cell == FNN_LSTM, gru = cell == FNN_GRU;
    const int64_t apart = gru ? 2 * h : width;
    float *x = numbers(n * t * i), *wx = numbers(i * width), *wh = numbers(h * width), *b = numbers(width), *bh = numbers(h);
    float *z = gates ? numbers(t * n * width) : NULL, *hs = numbers((t + 1) * n * h);
    float *cs = lstm ? numbers((t + 1) * n * h) : NULL, *extra = gates ? numbers(t * n * h) : NULL;
    float *out = numbers(n * t * h), *dout = numbers(n * t * h), *dx = numbers(n * t * i), *dh = numbers(n * h);
    float *dc = lstm ? numbers(n * h) : NULL, *dz = numbers(t * n * width), *dzh = gru ? numbers(t * n * width) : NULL;
    const fnn_recurrent_forward_args forward = {cell, false, true, n, t, i, h, h, 0, NULL, x, NULL, NULL, wx, wh, b, gru ? bh : NULL,
                                                z, hs, cs, extra, out};
    const fnn_recurrent_backward_args backward = {cell, false, true, n, t, i, h, h, 0, 0, NULL, dout, NULL, wx, wh, z, hs, cs, extra,
                                                  dz, dzh, dh, dc, dx};
    fnn_set_threads(threads);
    fnn_run_op(FNN_OP_recurrent_forward, &forward, 1e9, NULL);
    fnn_run_op(FNN_OP_recurrent_backward, &backward, 1e9, NULL);
    float *first = NULL;
    for (int round = 0; round < 5; round++) {
        float *dwx = numbers(i * width), *dwh = numbers(h * width), *db = numbers(width), *dbh = gru ? numbers(h) : NULL;
        float *parts = round ? calloc((size_t)size + 1, sizeof(float)) : NULL;
        const fnn_recurrent_backward_w_args sums = {false, n, t, i, h, width, apart, x, NULL, hs, dz, gru ? dzh : dz, dwx, dwh, db, dbh,
                                                    parts, (int *)(parts ? parts + size : NULL)};
        fnn_set_threads(round < 2 ? threads : round - 1);
        fnn_run_op(FNN_OP_recurrent_backward_w, &sums, 1e9, NULL);
        for (int64_t m = 0; m < i + h; m++)
            for (int64_t j = 0; j < width; j++) {
                double sum = 0;
                for (int64_t r = 0; r < t * n; r++)
                    sum += m < i ? (double)x[r * i + m] * (double)dz[r * width + j]
                                 : (double)hs[(r + r / t) * h + m - i] * (double)(gru ? dzh : dz)[r * width + j];
                expect(m < i ? (double)dwx[m * width + j] : (double)dwh[(m - i) * width + j], sum);
            }
        for (int64_t j = 0; j < width; j++) {
            double sum = 0, apart_sum = 0;
            for (int64_t r = 0; r < t * n; r++) sum += (double)dz[r * width + j], apart_sum += gru ? (double)dzh[r * width + j] : 0;
            expect((double)db[j], sum);
            if (gru && j >= apart) expect((double)dbh[j - apart], apart_sum);
        }
        if (round == 1) {
            first = malloc(sizeof(float) * (size_t)size);
            memcpy(first, dwx, sizeof(float) * (size_t)(i * width));
            memcpy(first + i * width, dwh, sizeof(float) * (size_t)(h * width));
        } else if (round > 1 && (differ(first, dwx, i * width) || differ(first + i * width, dwh, h * width))) {
            failures++;
        }
        free(dwx), free(dwh), free(db), free(dbh), free(parts);
    }
    free(x), free(wx), free(wh), free(b), free(bh), free(z), free(hs), free(cs), free(extra), free(out), free(dout);
    free(dx), free(dh), free(dc), free(dz), free(dzh), free(first);
}

int main(void) {
    static const int64_t sizes[] = {1, 2, 5, 7, 8, 9, 13, 16, 17, 31, 33, 75};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    for (int m = 0; m < SIZES; m++)
        for (int n = 0; n < SIZES; n++)
            for (int k = 0; k < SIZES; k += 2)
                for (int form = 0; form < 3; form++)
                    check_product(sizes[m], sizes[n], sizes[k], form == 1, form == 2, 1 + (m + n) % 3, NULL);
    check_product(150, 1100, 400, false, false, 2, NULL); /* several blocks in every direction */
    check_product(150, 1100, 400, true, false, 3, NULL);
    check_product(150, 1100, 400, false, true, 1, NULL);
    check_product(3, 4, 0, false, false, 2, NULL);
    for (int form = 0; form < 4; form++)
        for (int m = 0; m < SIZES; m++) {
            check_product(sizes[m], 83, 433, form % 2, false, 1 + m % 3, &(float){form / 2});
            check_product(433, 83, sizes[m], form % 2, false, 1 + m % 3, &(float){form / 2});
            check_product(1, 2049 + 64 * m, sizes[m], false, false, 1 + m % 2, form ? &(float){0} : NULL);
        }
    for (int threads = 1; threads <= 3; threads++) {
        /* n, h, w, c, oh, ow, k, kh, kw, sh, sw, top, left, dh, dw */
        check_convolution((fnn_conv2d){3, 9, 8, 1, 9, 8, 9, 3, 3, 1, 1, 1, 1, 1, 1}, threads, 2);
        check_convolution((fnn_conv2d){5, 9, 8, 1, 9, 8, 5, 3, 3, 1, 1, 1, 1, 1, 1}, threads, 2);
        check_convolution((fnn_conv2d){4, 9, 33, 1, 4, 29, 8, 3, 5, 2, 1, 0, 0, 1, 1}, threads, 0);
        check_convolution((fnn_conv2d){7, 8, 5, 1, 6, 7, 2, 2, 2, 1, 1, 0, 3, 2, 1}, threads, 3);
        check_convolution((fnn_conv2d){2, 9, 13, 7, 5, 11, 17, 3, 3, 2, 1, 1, 0, 1, 1}, threads, 0);
        check_convolution((fnn_conv2d){2, 6, 5, 16, 4, 5, 33, 2, 2, 1, 1, 0, 1, 2, 2}, threads, 0);
        check_convolution((fnn_conv2d){13, 1, 1, 33, 1, 1, 31, 3, 3, 1, 1, 1, 1, 1, 1}, threads, 0);
        check_convolution((fnn_conv2d){1, 7, 7, 5, 3, 3, 40, 1, 1, 3, 3, 0, 0, 1, 1}, threads, 1);
        check_convolution((fnn_conv2d){3, 9, 13, 8, 7, 11, 9, 3, 3, 1, 1, 0, 0, 1, 1}, threads, 2);
        check_convolution((fnn_conv2d){2, 9, 8, 3, 9, 8, 70, 3, 5, 1, 1, 1, 2, 1, 1}, threads, 0);
        check_convolution((fnn_conv2d){2, 9, 17, 4, 5, 9, 7, 5, 5, 2, 2, 2, 2, 1, 1}, threads, 1);
    }
    for (int threads = 1; threads <= 3; threads++)
        for (int c = 0; c < SIZES; c++) {
            /* n, h, w, c, oh, ow, kh, kw, sh, sw, top, left */
            check_pooling((fnn_pool2d){2, 5, 7, sizes[c], 2, 3, 2, 2, 2, 2, 0, 0}, threads);
            check_pooling((fnn_pool2d){1, 6, 5, sizes[c], 3, 5, 3, 3, 2, 1, 1, 1}, threads);
            check_pooling((fnn_pool2d){3, 7, 4, sizes[c], 2, 1, 2, 3, 4, 4, 0, 1}, threads);
            check_pooling((fnn_pool2d){2, 6, 12, sizes[c], 3, 6, 2, 2, 2, 2, 0, 0}, threads);
            check_pooling((fnn_pool2d){1, 18, 17, sizes[c], 1, 1, 18, 17, 1, 1, 0, 0}, threads);
            check_pooled_convolution((fnn_pool2d){19, 5, 7, sizes[c], 2, 3, 2, 2, 2, 2, 0, 0}, 3, threads);
            check_pooled_convolution((fnn_pool2d){19, 5, 7, sizes[c], 2, 3, 2, 2, 2, 2, 0, 0}, 1, threads);
            check_batchnorm(3, sizes[c], threads);
            check_batchnorm(600, sizes[c], threads);
            check_embedding(50, 13, sizes[c], threads);
        }
    for (int threads = 2; threads <= 4; threads++) {
        check_plan(17, 33, 9, threads);
        check_plan(64, 100, 70, threads);
        check_plan(20, 500, 43, threads);
        check_plan(1, 300, 70, threads);
        check_plan(3, 1700, 9, threads);
        check_plan(80, 430, 53, threads);
        check_plan(420, 130, 150, threads);
        check_delayed(1, 33, 9, threads);
        check_delayed(3, 300, 71, threads);
        check_delayed(2, 301, 43, threads);
        check_delayed(1, 1700, 13, 3 * threads);
    }
    for (fnn_cell cell = FNN_RNN_TANH; cell <= FNN_GRU; cell++) {
        check_recurrence(cell, 5, 3, 7, 9, 2); /* n, t, i, h */
        check_recurrence(cell, 3, 11, 1, 33, 3);
        check_recurrence(cell, 40, 9, 28, 31, 4);
        check_recurrence(cell, 600, 2, 5, 17, 1);
    }
    printf("%d failures\n", failures);
    return failures != 0;
}
