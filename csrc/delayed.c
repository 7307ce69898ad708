/* Plain SGD on a few samples at a time: the first layer's weight is read once, and moved once, for a block of steps.
 *
 * What a sample gives with the weight that the block's earlier samples j have moved, x @ (w + sum_j outer(x_j, d_j)), is
 * x @ w + sum_j (x . x_j) d_j, d_j being -lr times the gradient of j's outputs.  So one product of all samples with w, and one of
 * them with each other, are all that the steps need of it; step by step they would take as long as it takes to fetch w from
 * cache, twice.  L2 multiplies w, and the d_j so far, by a number at each step, and of the sum of w's squares it is known how each
 * step changes it.  (Known as delayed updates, or blocked ones: LAPACK's of QR, Bischof and Van Loan 1987, doi:10.1137/0908009.) */
#include "tile.h"

static int64_t rows_of_block(const fnn_delayed_args *a, int64_t first) {
    const int64_t n = a->gather.n, to_end = (a->gather.limit - first) / n * n;
    return min64(min64(a->rows / n, *a->left) * n, to_end);
}

/* x = the samples */
static int gather_block(const fnn_delayed_args *a, fnn_part part) {
    const int64_t first = a->gather.clock[FNN_ROW];
    if (part.share == 0) a->state->first = first, a->state->kept = 1;
    if (past_end(first, a->gather.n, a->gather.limit)) return FNN_PAST_END;
    fnn_gather_rows_args gather = a->gather;
    gather.out = a->x;
    gather.n = rows_of_block(a, first);
    return FN(gather_rows)(&gather, part);
}

/* z = x @ w; g = x @ x.T, of each row as much as a step needs: up to the diagonal */
static void multiply_block(const fnn_delayed_args *a, fnn_part part) {
    const int64_t rows = rows_of_block(a, a->state->first), i = a->forward.i, o = a->forward.o;
    const product z = {.a = a->x, .b = a->forward.w, .c = a->z, .m = rows, .n = o, .k = i};
    const product g = {.a = a->x, .b = a->x, .c = a->g, .m = rows, .n = a->rows, .k = i, .bt = true};
    block columns = {.m1 = rows, .k1 = i}, lines = {.k1 = i};
    fnn_range(o, VL, part, &columns.n0, &columns.n1);
    fnn_range(rows, 1, part, &lines.m0, &lines.m1);
    lines.n1 = lines.m1;
    FN(product)(&z, columns, part);
    FN(product)(&g, lines, part);
}

/* To keep so much of x is to have part * x + whole * x: a number near 1 loses fewer digits as its difference from 1. */
typedef struct { float part, whole; } share;

static share share_of(double keep) { return keep > 0.5 ? (share){(float)(keep - 1), 1} : (share){(float)keep, 0}; }

/* z = kept of z + g @ d, to = z + b: a few vectors of a row */
INLINE void end_row(const int vectors, int lanes, float *z, const float *g, const float *d, int64_t rows, ptrdiff_t stride,
                    share keep, const float *b, bool relu, float *to) {
    vf sum[4];
#define LANES(v) ((v) < vectors - 1 ? VL : lanes)
    for (int v = 0; v < vectors; v++) {
        const vf x = load_part(z + v * VL, LANES(v));
        sum[v] = v_fma(v_set1(keep.part), x, v_set1(keep.whole) * x);
    }
    for (int64_t j = 0; j < rows; j++, d += stride)
        for (int v = 0; v < vectors; v++) sum[v] = v_fma(v_set1(g[j]), load_part(d + v * VL, LANES(v)), sum[v]);
    for (int v = 0; v < vectors; v++) {
        store_part(z + v * VL, sum[v], LANES(v));
        if (b) sum[v] += load_part(b + v * VL, LANES(v));
        if (relu) sum[v] = v_max((vf){0}, sum[v]);
        store_part(to + v * VL, sum[v], LANES(v));
    }
}

/* z = x @ w, with w as the steps before have moved it; out = z + b, then y = activation(out) */
static int forward_step(const fnn_delayed_args *a, fnn_part part) {
    const fnn_dense_forward_args *f = &a->forward;
    const int64_t before = a->gather.clock[FNN_ROW] - a->state->first, o = f->o;
    const bool relu = f->activation == FNN_RELU;
    const share keep = share_of(a->state->kept);
    int64_t lo, hi;
    if (past_end(a->gather.clock[FNN_ROW], f->n, a->gather.limit)) return FNN_PAST_END;
    fnn_range(o, VL, part, &lo, &hi);
    for (int64_t m = 0; m < f->n; m++) {
        float *z = a->z + (before + m) * o, *to = (relu ? f->y : f->out) + m * o;
        const float *g = a->g + (before + m) * a->rows, *d = a->d;
        int64_t j = lo;
#define END_ROW(vectors, lanes) \
    end_row(vectors, lanes, z + j, g, d + j, before, o, keep, f->b ? f->b + j : NULL, relu, to + j)
        for (; j + 4 * VL <= hi; j += 4 * VL) END_ROW(4, VL);
        for (; j < hi; j += VL) END_ROW(1, (int)min64(VL, hi - j));
        if (!relu && f->activation != FNN_LINEAR) FN(activate)(f->activation, f->slope, to + lo, f->y + m * o + lo, hi - lo);
    }
    return FNN_OK;
}

/* The first of the squares' sums becomes all of the penalty, and the others 0. */
static void penalty_step(const fnn_delayed_args *a) {
    const int64_t chunks = (a->squares.n + FNN_CHUNK - 1) / FNN_CHUNK;
    double *sums = a->squares.sums;
    if (a->gather.clock[FNN_ROW] == a->state->first) {
        a->state->penalty = 0;
        for (int64_t i = 0; i < chunks; i++) a->state->penalty += sums[i], sums[i] = 0;
    }
    sums[0] = a->state->penalty;
}

static double dot(const float *x, const float *y, int64_t n) {
    vf sums = {0};
    double sum = 0;
    int64_t i = 0;
    for (; i + VL <= n; i += VL) sums = v_fma(v_load(x + i), v_load(y + i), sums);
    if (i < n) sums = v_fma(v_load_n(x + i, (int)(n - i)), v_load_n(y + i, (int)(n - i)), sums);
    for (int lane = 0; lane < VL; lane++) sum += (double)sums[lane];
    return sum;
}

/* w = (1 + decay) * w + x.T @ d as the step before it left w: what that makes of the d so far and of the penalty */
static void decay_step(const fnn_delayed_args *a, float decay, const float *z, const float *g, float *d, int64_t before) {
    const int64_t n = a->forward.n, o = a->forward.o;
    const double keep = 1 + (double)decay;
    const share of_d = share_of(keep);
    double cross = 0, squares = 0; /* sum((x.T @ d) * w), sum((x.T @ d)**2) */
    for (int64_t m = 0; m < n; m++, z += o, g += a->rows) {
        cross += dot(z, d + (before + m) * o, o);
        for (int64_t k = 0; k <= m; k++)
            squares += (k < m ? 2 : 1) * (double)g[before + k] * dot(d + (before + k) * o, d + (before + m) * o, o);
    }
    a->state->penalty = keep * keep * a->state->penalty + (double)a->backward.l2 * (2 * keep * cross + squares);
    a->state->kept *= keep;
    for (int64_t j = 0; j < before * o; j++) d[j] = of_d.part * d[j] + of_d.whole * d[j];
}

/* d = -lr * dout; b += its sum */
static void backward_step(const fnn_delayed_args *a, fnn_part part) {
    const fnn_dense_backward_w_args *w = &a->backward;
    const int64_t before = w->clock[FNN_ROW] - a->state->first, o = w->o;
    const float scale = -rate_now(w->lr, w->lr_len, w->clock);
    float *d = a->d + before * o;
    int64_t lo, hi;
    fnn_range(o, VL, part, &lo, &hi);
    for (int64_t m = 0; m < w->n; m++)
        for (int64_t j = lo; j < hi; j++) d[m * o + j] = scale * w->dout[m * o + j];
    if (w->b) FN(column_sums)(w->dout, w->n, o, lo, hi, ADD_SCALED, scale, w->b);
    if (w->l2 != 0) decay_step(a, scale * 2 * w->l2, a->z + before * o, a->g + before * a->rows, a->d, before);
}

/* w = kept of w + x.T @ d, for the steps that were done */
static void update_block(const fnn_delayed_args *a, fnn_part part) {
    const int64_t rows = a->gather.clock[FNN_ROW] - a->state->first, i = a->forward.i, o = a->forward.o;
    const share keep = share_of(a->state->kept);
    const product w = {.a = a->x, .b = a->d, .c = a->backward.w, .m = i, .n = o, .k = rows, .at = true, .finish = ADD_SCALED, .scale = 1,
                       .l2 = keep.whole != 0 ? keep.part / 2 : 0};
    block columns = {.m1 = i, .k1 = rows};
    fnn_range(o, VL, part, &columns.n0, &columns.n1);
    for (int64_t m = 0; keep.whole == 0 && m < i; m++)
        for (int64_t j = columns.n0; j < columns.n1; j++) w.c[m * o + j] *= keep.part;
    FN(product)(&w, columns, part);
}

KERNEL(delayed) {
    switch (a->part) {
    case FNN_GATHER_BLOCK: return gather_block(a, part);
    case FNN_MULTIPLY_BLOCK: multiply_block(a, part); break;
    case FNN_FORWARD_STEP: return forward_step(a, part);
    case FNN_PENALTY_STEP: penalty_step(a); break;
    case FNN_BACKWARD_STEP: backward_step(a, part); break;
    case FNN_UPDATE_BLOCK: update_block(a, part); break;
    }
    return FNN_OK;
}
