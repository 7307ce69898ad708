/* Plain SGD on a few samples at a time: the first layer's weight is read once, and moved once, for a block of steps.
 *
 * What a sample gives with the weight that the block's earlier samples j have moved, x @ (w + sum_j outer(x_j, d_j)), is
 * x @ w + sum_j (x . x_j) d_j, d_j being -lr times the gradient of j's outputs.  So one product of all samples with w, and one of
 * them with each other, are all that the steps need of it; step by step they would take as long as it takes to fetch w from
 * cache, twice.  (Known as delayed updates, or blocked ones: LAPACK's of QR, Bischof and Van Loan 1987, doi:10.1137/0908009.) */
#include "tile.h"

static int64_t rows_of_block(const fnn_delayed_args *a, int64_t first) {
    const int64_t n = a->gather.n, to_end = (a->gather.limit - first) / n * n;
    return min64(min64(a->rows / n, *a->left) * n, to_end);
}

/* x = the samples */
static int gather_block(const fnn_delayed_args *a, fnn_part part) {
    const int64_t first = a->gather.clock[FNN_ROW];
    if (part.share == 0) *a->first = first;
    if (past_end(first, a->gather.n, a->gather.limit)) return FNN_PAST_END;
    fnn_gather_rows_args gather = a->gather;
    gather.out = a->x;
    gather.n = rows_of_block(a, first);
    return FN(gather_rows)(&gather, part);
}

/* z = x @ w; g = x @ x.T, of which each row needs what is left of the diagonal */
static void multiply_block(const fnn_delayed_args *a, fnn_part part) {
    const int64_t rows = rows_of_block(a, *a->first), i = a->forward.i, o = a->forward.o;
    const product z = {.a = a->x, .b = a->forward.w, .c = a->z, .m = rows, .n = o, .k = i};
    const product g = {.a = a->x, .b = a->x, .c = a->g, .m = rows, .n = a->rows, .k = i, .bt = true};
    block columns = {.m1 = rows, .k1 = i}, lines = {.k1 = i};
    fnn_range(o, VL, part, &columns.n0, &columns.n1);
    fnn_range(rows, 1, part, &lines.m0, &lines.m1);
    lines.n1 = lines.m1;
    FN(product)(&z, columns, part);
    FN(product)(&g, lines, part);
}

/* to = z + g @ d + b: a few vectors of a row */
INLINE void end_row(const int vectors, int lanes, const float *z, const float *g, const float *d, int64_t rows, ptrdiff_t stride,
                    const float *b, bool relu, float *to) {
    vf sum[4];
#define LANES(v) ((v) < vectors - 1 ? VL : lanes)
    for (int v = 0; v < vectors; v++) sum[v] = load_part(z + v * VL, LANES(v));
    for (int64_t j = 0; j < rows; j++, d += stride)
        for (int v = 0; v < vectors; v++) sum[v] = v_fma(v_set1(g[j]), load_part(d + v * VL, LANES(v)), sum[v]);
    for (int v = 0; v < vectors; v++) {
        if (b) sum[v] += load_part(b + v * VL, LANES(v));
        if (relu) sum[v] = v_max((vf){0}, sum[v]);
        store_part(to + v * VL, sum[v], LANES(v));
    }
}

/* out = x @ w + b, with w as the steps before have moved it; then y = activation(out) */
static int forward_step(const fnn_delayed_args *a, fnn_part part) {
    const fnn_dense_forward_args *f = &a->forward;
    const int64_t before = a->gather.clock[FNN_ROW] - *a->first, o = f->o;
    const bool relu = f->activation == FNN_RELU;
    int64_t lo, hi;
    if (past_end(a->gather.clock[FNN_ROW], f->n, a->gather.limit)) return FNN_PAST_END;
    fnn_range(o, VL, part, &lo, &hi);
    for (int64_t m = 0; m < f->n; m++) {
        const float *z = a->z + (before + m) * o, *g = a->g + (before + m) * a->rows;
        float *to = (relu ? f->y : f->out) + m * o;
        int64_t j = lo;
#define END_ROW(vectors, lanes) end_row(vectors, lanes, z + j, g, a->d + j, before, o, f->b ? f->b + j : NULL, relu, to + j)
        for (; j + 4 * VL <= hi; j += 4 * VL) END_ROW(4, VL);
        for (; j < hi; j += VL) END_ROW(1, (int)min64(VL, hi - j));
        if (!relu && f->activation != FNN_LINEAR) FN(activate)(f->activation, f->slope, to + lo, f->y + m * o + lo, hi - lo);
    }
    return FNN_OK;
}

/* d = -lr * dout; b += its sum */
static void backward_step(const fnn_delayed_args *a, fnn_part part) {
    const fnn_dense_backward_w_args *w = &a->backward;
    const float scale = -w->lr[min64(w->clock[FNN_BATCH], w->lr_len - 1)];
    float *d = a->d + (w->clock[FNN_ROW] - *a->first) * w->o;
    int64_t lo, hi;
    fnn_range(w->o, VL, part, &lo, &hi);
    for (int64_t m = 0; m < w->n; m++)
        for (int64_t j = lo; j < hi; j++) d[m * w->o + j] = scale * w->dout[m * w->o + j];
    if (w->b) FN(column_sums)(w->dout, w->n, w->o, lo, hi, ADD_SCALED, scale, w->b);
}

/* w += x.T @ d, for the steps that were done */
static void update_block(const fnn_delayed_args *a, fnn_part part) {
    const int64_t rows = a->gather.clock[FNN_ROW] - *a->first, i = a->forward.i, o = a->forward.o;
    const product w = {.a = a->x, .b = a->d, .c = a->backward.w, .m = i, .n = o, .k = rows, .at = true, .finish = ADD_SCALED, .scale = 1};
    block columns = {.m1 = i, .k1 = rows};
    fnn_range(o, VL, part, &columns.n0, &columns.n1);
    FN(product)(&w, columns, part);
}

KERNEL(delayed) {
    switch (a->part) {
    case FNN_GATHER_BLOCK: return gather_block(a, part);
    case FNN_MULTIPLY_BLOCK: multiply_block(a, part); break;
    case FNN_FORWARD_STEP: return forward_step(a, part);
    case FNN_BACKWARD_STEP: backward_step(a, part); break;
    case FNN_UPDATE_BLOCK: update_block(a, part); break;
    }
    return FNN_OK;
}
