/* Matrix products, and the dense layer's three: x @ w + b, dout @ w.T, x.T @ dout.
 *
 * A product is cut into blocks that fit the caches and these into register tiles (tile.h); b is
 * packed, and transposed on the way, where it pays or must be.  Columns of a that are one number in
 * every row, like the rim of a batch's images, cost the work of one row; where that number is 0 they cost
 * none, and no finite sum changes by a bit. */
#include "tile.h"

enum {
    KC = 400,                                   /* a panel of KC rows stays in L1 */
    MC = 72,                                    /* MC x KC of a stay in L2 */
    SHORT_K = 48,                               /* rows of b that a short tile reads before it moves on */
    A_STRIDE = KC + 16,                         /* of a copied row: rows must not share cache sets */
    A_SPACE = MC * A_STRIDE,                    /* floats for a copied block of a */
    NC = (FNN_WORKSPACE / 4 - A_SPACE) / KC / PANEL * PANEL, /* columns of b that fit beside it */
    WORTH_PACKING = 8192,                       /* rows of a times columns of b; with fewer b is read where it lies */
    GAP = 4,                                    /* fewer columns are not worth a run's end */
    MAX_RUNS = KC / (GAP + 1) + 1,
    FEW_ROWS = 256,                             /* more rows seldom agree */
    CONSTANT_ROWS = 8,                          /* fewer rows hardly pay for a search */
    SMALL = 16384                               /* floats; a matrix in L1 is computed, not asked */
};

typedef float v4 __attribute__((vector_size(16)));

void FN(pack_transposed)(const float *from, ptrdiff_t stride, int64_t rows, int columns, float *to) {
    int j = 0;
    for (; j + 4 <= columns; j += 4) {
        const float *f = from + j * stride;
        float *t = to + j;
        int64_t k = 0;
        for (; k + 4 <= rows; k += 4, f += 4, t += 4 * PANEL) {
            v4 r0, r1, r2, r3;
            memcpy(&r0, f, 16), memcpy(&r1, f + stride, 16);
            memcpy(&r2, f + 2 * stride, 16), memcpy(&r3, f + 3 * stride, 16);
            v4 s0 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5), s1 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
            v4 s2 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7), s3 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
            r0 = __builtin_shufflevector(s0, s1, 0, 1, 4, 5), r1 = __builtin_shufflevector(s0, s1, 2, 3, 6, 7);
            r2 = __builtin_shufflevector(s2, s3, 0, 1, 4, 5), r3 = __builtin_shufflevector(s2, s3, 2, 3, 6, 7);
            memcpy(t, &r0, 16), memcpy(t + PANEL, &r1, 16);
            memcpy(t + 2 * PANEL, &r2, 16), memcpy(t + 3 * PANEL, &r3, 16);
        }
        for (; k < rows; k++, f++, t += PANEL)
            for (int i = 0; i < 4; i++) t[i] = f[i * stride];
    }
    for (; j < PANEL; j++)
        for (int64_t k = 0; k < rows; k++) to[k * PANEL + j] = j < columns ? from[j * stride + k] : 0;
}

void FN(pack)(const float *from, ptrdiff_t stride, int64_t rows, int columns, float *to) {
    if (columns == PANEL)
        for (int64_t k = 0; k < rows; k++, from += stride, to += PANEL) memcpy(to, from, PANEL * sizeof(float));
    else
        for (int64_t k = 0; k < rows; k++, from += stride, to += PANEL)
            for (int j = 0; j < PANEL; j++) to[j] = j < columns ? from[j] : 0;
}

/* Runs of columns of some rows, copied next to each other. */
static void copy_runs(const float *from, ptrdiff_t stride, int64_t rows, const run *runs, int64_t n_runs, float *to, ptrdiff_t to_stride) {
    for (const run *r = runs; r < runs + n_runs; to += r->k, r++)
        for (int64_t row = 0; row < rows; row++)
            memcpy(to + row * to_stride, from + row * stride + r->a, (size_t)r->k * sizeof(float));
}

static void pack_runs(const float *from, ptrdiff_t stride, const run *runs, int64_t n_runs, int columns, float *to) {
    for (const run *r = runs; r < runs + n_runs; to += r->k * PANEL, r++)
        FN(pack)(from + r->b, stride, r->k, columns, to);
}

/* Columns that are left out: those that are 0 in every row, or those that are any one number. */
typedef enum { ZEROS, CONSTANTS } gap;

/* Whether some of n columns of a, which meet `size` floats of a matrix, may be gaps; mostly the first
 * row, or two, can tell. */
static bool may_have_gaps(gap kind, const float *a, int64_t rows, ptrdiff_t stride, int64_t n, int64_t size) {
    if (rows > FEW_ROWS || size < SMALL) return false;
    const float *next = a + (rows > 1 ? stride : 0);
    for (int64_t j = 0; j < n; j += VL) {
        const int lanes = (int)min64(VL, n - j);
        const vf x = kind == ZEROS ? load_part(a + j, lanes) : load_part(next + j, lanes) - load_part(a + j, lanes);
        if (v_filled(x) != (1u << lanes) - 1) return true;
    }
    return false;
}

/* The runs between the gaps of n <= KC columns of a, in rows `stride` apart; few columns are no gap
 * between two runs. */
static int64_t find_runs(gap kind, const float *a, int64_t rows, ptrdiff_t stride, int64_t n, ptrdiff_t bs, run *runs) {
    int64_t found = 0, end = 0; /* of the last run */
    for (int64_t j = 0; j < n; j += VL) {
        const int lanes = (int)min64(VL, n - j);
        const vf same = kind == ZEROS ? (vf){0} : load_part(a + j, lanes);
        unsigned filled = 0;
        for (int64_t r = 0; r < rows && filled != (1u << lanes) - 1; r++)
            filled |= v_filled(load_part(a + r * stride + j, lanes) - same);
        while (filled) {
            const int first = __builtin_ctz(filled), next = first + __builtin_ctz(~(filled >> first));
            if (found && j + first - end < GAP) runs[found - 1].k = j + next - runs[found - 1].a;
            else runs[found++] = (run){j + first, (j + first) * bs, next - first};
            end = j + next;
            filled = filled >> next << next;
        }
    }
    return found;
}

/* The penalty's part of ADD_SCALED. */
static void add_penalty(const product *p, block s) {
    const vf scale = v_set1(p->scale);
    const float l1 = p->l1, l2 = p->l2;
    for (int64_t m = s.m0; m < s.m1; m++) {
        float *c = p->c + m * p->n;
        int64_t n = s.n0;
#define PENALTY(n, lanes)                                                                          \
    do {                                                                                           \
        const vf w = load(c + n, lanes);                                                           \
        store(c + n, v_fma(scale, penalty_slope(w, l1, l2), w), lanes);                            \
    } while (0)
        for (; n + VL <= s.n1; n += VL) PENALTY(n, VL);
        if (n < s.n1) PENALTY(n, (int)(s.n1 - n));
    }
}

/* The part of every sum that a block takes: terms [k0, k0 + k), of which only the runs count. */
typedef struct {
    int64_t k0, k, n_runs;
    const run *runs;
} terms;

/* Rows [m0, m1) of columns [n0, n0 + columns), in tiles of equal height; a points at row m0, b at
 * column n0, both at k0; `added`: to every row, or NULL. */
static void run_rows(const product *p, int64_t m0, int64_t m1, int64_t n0, int columns, const terms *sum,
                     const float *a, ptrdiff_t as, const float *b, ptrdiff_t bs, const float *added) {
    const int nv = (columns + VL - 1) / VL;
    const bool final = sum->k0 + sum->k == p->k;
    tile t = {.as = p->at ? as : 1, .b = b, .bs = bs, .cs = p->n, .runs = sum->runs, .n_runs = sum->n_runs,
              .last = columns - (nv - 1) * VL,
              .finish = p->finish == STORE && sum->k0 > 0 ? ADD : p->finish, .scale = p->scale,
              .bias = added, .relu = final && p->relu};
    t.a = a;
    t.c = p->c + m0 * p->n + n0;
    if (sum->k0 == 0 && (p->l1 != 0 || p->l2 != 0)) add_penalty(p, (block){m0, m1, n0, n0 + columns});
    FN(run_tiles)(&t, m1 - m0, p->at ? 1 : as, nv, p->at);
}

/* The bias, where this is the end of a sum. */
static const float *bias_of(const product *p, const terms *sum, int64_t n) {
    return p->bias && sum->k0 + sum->k == p->k ? p->bias + n : NULL;
}

/* to = bias + what the columns of a between the runs give: the same in every row.  a points at any
 * row, b at the panel's column, both at k0. */
static void sum_gaps(const float *a, const run *runs, int64_t n_runs, int64_t k, const float *b, ptrdiff_t bs,
                     int columns, const float *bias, float *to) {
    vf sum[2] = {{0}};
    const int lanes[2] = {columns < VL ? columns : VL, columns > VL ? columns - VL : 0};
    for (int v = 0; v < 2 && bias; v++) sum[v] = load_part(bias + v * VL, lanes[v]);
    int64_t j = 0;
    for (int64_t r = 0; r <= n_runs; j = r < n_runs ? runs[r].a + runs[r].k : k, r++)
        for (const int64_t end = r < n_runs ? runs[r].a : k; j < end; j++)
            if (a[j] != 0)
                for (int v = 0; v < 2; v++)
                    sum[v] = v_fma(v_set1(a[j]), load_part(b + j * bs + v * VL, lanes[v]), sum[v]);
    for (int v = 0; v < 2; v++) store_part(to + v * VL, sum[v], VL);
}

/* Columns [n0, n1) of the product in these rows of c: from a to a + k, each run. */
static void run_block(const product *p, const run *rows, int64_t n_rows, int64_t n0, int64_t n1, fnn_part part) {
    int64_t height = 0;
    for (int64_t r = 0; r < n_rows; r++) height += rows[r].k;
    if (height == 0) return;
    const int64_t lda = p->at ? p->m : p->k, am = p->at ? 1 : lda, ak = p->at ? lda : 1;
    const bool large = height > MC; /* more than one block of rows: keep what is packed */
    const bool packed = p->bt || large || (height >= 3 * MR && height * p->n >= WORTH_PACKING);
    const gap kind = p->constants && p->m >= CONSTANT_ROWS ? CONSTANTS : ZEROS;
    /* in all rows, not only this thread's: what is left out must not depend on the threads */
    const bool gaps = !p->at && !p->bt && may_have_gaps(kind, p->a, p->m, lda, p->k, p->k * p->n);
    const int64_t blocks = (p->k + KC - 1) / KC, kb = (p->k + blocks - 1) / blocks; /* equal blocks of k */
    run runs[MAX_RUNS];
    if (!packed && height <= 4 && n_rows == 1 && kind == ZEROS) {
        /* One short tile: stream b along its rows, as wide as the registers allow. */
        const int64_t m0 = rows->a, m1 = m0 + height;
        const int wide = FN(tile_widest)[height] * VL;
        const int64_t ks = p->finish == STORE ? SHORT_K : kb;
        for (int64_t k = 0; k < p->k; k += ks) {
            const float *a = p->a + m0 * am + k * ak;
            terms sum = {k, min64(ks, p->k - k), 1, runs};
            runs[0] = (run){0, 0, sum.k};
            if (gaps) sum.n_runs = find_runs(kind, p->a + k, p->m, lda, sum.k, p->n, runs);
            for (int64_t n = n0; n < n1; n += wide)
                run_rows(p, m0, m1, n, (int)min64(wide, n1 - n), &sum, a, lda, p->b + k * p->n + n, p->n, bias_of(p, &sum, n));
        }
        return;
    }
    float *space = fnn_workspace(), *a_space = space + (FNN_WORKSPACE / 4 - A_SPACE);
    float constants[NC];
    for (int64_t k = 0; k < p->k; k += kb) {
        terms sum = {k, min64(kb, p->k - k), 1, runs};
        runs[0] = (run){0, 0, sum.k};
        if (gaps) sum.n_runs = find_runs(kind, p->a + k, p->m, lda, sum.k, p->n, runs);
        const int64_t n_runs = sum.n_runs;
        const bool copy = (packed && n_runs > 1) || (large && n1 - n0 >= 4 * PANEL && p->k >= 48);
        run joined = {copy ? 0 : runs[0].a, 0, 0};
        for (const run *r = runs; r < runs + n_runs; r++) joined.k += r->k;
        const bool apart = kind == CONSTANTS && joined.k < sum.k;
        if (packed) sum.runs = &joined, sum.n_runs = 1; /* with no gap between the runs */
        for (int64_t nb = n0, nc = large ? NC : PANEL; nb < n1; nb += nc) {
            const int64_t ne = min64(nb + nc, n1);
            for (const run *r = rows; r < rows + n_rows; r++)
                for (int64_t m = r->a, me; m < r->a + r->k; m = me) {
                    if (fnn_interrupted(part)) return;
                    me = min64(m + MC, r->a + r->k);
                    const bool first = m == rows->a;
                    const float *a = p->a + m * am + k * ak;
                    ptrdiff_t as = lda;
                    if (copy) {
                        as = p->at ? me - m : A_STRIDE;
                        if (p->at) copy_runs(a, lda, sum.k, &(run){0, 0, me - m}, 1, a_space, as);
                        else if (large || nb == n0) copy_runs(a, lda, me - m, runs, n_runs, a_space, as);
                        a = a_space;
                    }
                    for (int64_t n = nb; n < ne; n += PANEL) {
                        const int columns = (int)min64(PANEL, ne - n);
                        const float *b = p->b + (p->bt ? n * p->k + k : k * p->n + n), *added = bias_of(p, &sum, n);
                        if (apart) {
                            float *constant = constants + (n - nb);
                            if (first) sum_gaps(p->a + k, runs, n_runs, sum.k, b, p->n, columns, added, constant);
                            added = constant;
                        }
                        if (packed) {
                            float *to = space + (n - nb) * joined.k;
                            if (first && p->bt) FN(pack_transposed)(b, p->k, sum.k, columns, to);
                            else if (first) pack_runs(b, p->n, runs, n_runs, columns, to);
                            b = to;
                        }
                        run_rows(p, m, me, n, columns, &sum, a, as, b, packed ? PANEL : p->n, added);
                    }
                }
        }
    }
}

/* A sum of one term (a batch of one): no tile, but rows of c at the speed of memory. */
INLINE void outer_rows(const bool add, const bool penalty, const product *p, block s) {
    const vf scale = v_set1(p->scale);
    const bool skip = add && !penalty && p->m * p->n >= SMALL;
    const float l1 = p->l1, l2 = p->l2, *b = p->b;
    for (int64_t m = s.m0; m < s.m1; m++) {
        if (skip && p->a[m] == 0) continue;
        const vf x = v_set1(p->a[m]);
        float *c = p->c + m * p->n;
        int64_t n = s.n0;
#define OUTER(n, lanes)                                                                            \
    do {                                                                                           \
        vf r = x * load(b + n, lanes);                                                             \
        if (penalty) r += penalty_slope(load(c + n, lanes), l1, l2);                               \
        store(c + n, add ? v_fma(scale, r, load(c + n, lanes)) : r, lanes);                        \
    } while (0)
        for (; n + VL <= s.n1; n += VL) OUTER(n, VL);
        if (n < s.n1) OUTER(n, (int)(s.n1 - n));
    }
}

static void run_outer(const product *p, block s) {
    if (p->finish != ADD_SCALED) outer_rows(false, false, p, s);
    else if (p->l1 != 0 || p->l2 != 0) outer_rows(true, true, p, s);
    else outer_rows(true, false, p, s);
}

/* Rows of c between the runs, whose sums have one factor in all terms: that times the sum of the others. */
static void run_gaps(const product *p, const run *runs, int64_t n_runs, block s) {
    float sums[32 * VL];
    product one = *p; /* a batch of one, as it were */
    one.b = sums;
    for (int64_t n = s.n0, columns; n < s.n1; n += columns) {
        columns = min64(32 * VL, s.n1 - n);
        FN(column_sums)(p->b + n, p->k, p->n, 0, columns, STORE, 0, sums);
        one.c = p->c + n;
        int64_t m = s.m0;
        for (int64_t r = 0; r <= n_runs; m = r < n_runs ? runs[r].a + runs[r].k : s.m1, r++)
            run_outer(&one, (block){m, r < n_runs ? runs[r].a : s.m1, 0, columns});
    }
}

/* Where a is transposed, its columns are rows of c. */
static void run_transposed(const product *p, block s, fnn_part part) {
    if (!may_have_gaps(CONSTANTS, p->a, p->k, p->m, p->m, p->m * p->n)) {
        run_block(p, &(run){s.m0, 0, s.m1 - s.m0}, 1, s.n0, s.n1, part);
        return;
    }
    /* the same runs for any number of threads, of which each takes its part */
    for (int64_t m = s.m0 / KC * KC; m < s.m1; m += KC) {
        const block here = {max64(m, s.m0), min64(m + KC, s.m1), s.n0, s.n1};
        run runs[MAX_RUNS];
        const int64_t found = find_runs(CONSTANTS, p->a + m, p->k, p->m, min64(KC, p->m - m), 0, runs);
        int64_t n_runs = 0;
        for (const run *r = runs; r < runs + found; r++) {
            const int64_t first = max64(m + r->a, here.m0), last = min64(m + r->a + r->k, here.m1);
            if (first < last) runs[n_runs++] = (run){first, 0, last - first};
        }
        run_block(p, runs, n_runs, s.n0, s.n1, part);
        run_gaps(p, runs, n_runs, here);
    }
}

void FN(product)(const product *p, block s, fnn_part part) {
    if (s.m0 == s.m1 || s.n0 == s.n1) return;
    if (p->k == 1 && !p->bias && !p->relu && !p->bt) {
        run_outer(p, s);
    } else if (p->k > 0) {
        if (p->at) run_transposed(p, s, part);
        else run_block(p, &(run){s.m0, 0, s.m1 - s.m0}, 1, s.n0, s.n1, part);
    } else if (p->finish == STORE) { /* an empty sum */
        for (int64_t m = s.m0; m < s.m1; m++)
            for (int64_t n = s.n0; n < s.n1; n++) {
                float r = p->bias ? p->bias[n] : 0;
                p->c[m * p->n + n] = p->relu && r < 0 ? 0 : r;
            }
    }
}

/* Columns where there are enough, so that a thread meets the same part of w in every product of a
 * layer, else rows. */
block FN(product_share)(int64_t m, int64_t n, fnn_part part) {
    block s = {0, m, 0, n};
    if (n >= 4 * VL * (int64_t)part.n) fnn_range(n, VL, part, &s.n0, &s.n1);
    else fnn_range(m, 1, part, &s.m0, &s.m1);
    return s;
}

/* out = op(a) @ op(b) */
KERNEL(gemm) {
    product p = {.a = a->a, .b = a->b, .c = a->out, .m = a->m, .n = a->n, .k = a->k,
                 .at = a->transpose_a, .bt = a->transpose_b};
    FN(product)(&p, FN(product_share)(a->m, a->n, part), part);
    return FNN_OK;
}

/* out = x @ w + b, then y = activation(out) */
KERNEL(dense_forward) {
    const bool relu = a->activation == FNN_RELU;
    product p = {.a = a->x, .b = a->w, .c = relu ? a->y : a->out, .m = a->n, .n = a->o, .k = a->i,
                 .bias = a->b, .relu = relu, .constants = a->constants};
    const block s = FN(product_share)(p.m, p.n, part);
    FN(product)(&p, s, part);
    if (a->activation != FNN_LINEAR && !relu)
        for (int64_t m = s.m0; m < s.m1; m++)
            FN(activate)(a->activation, a->slope, a->out + m * p.n + s.n0, a->y + m * p.n + s.n0, s.n1 - s.n0);
    return FNN_OK;
}

/* forward: out = x @ w;  dx = dout @ w.T, then dx *= activation'(saved) */
KERNEL(dense_backward_x) {
    product p = {.a = a->dout, .b = a->w, .c = a->dx, .m = a->n, .n = a->i, .k = a->o, .bt = true};
    const block s = FN(product_share)(p.m, p.n, part);
    FN(product)(&p, s, part);
    if (a->activation != FNN_LINEAR)
        for (int64_t m = s.m0; m < s.m1; m++)
            FN(activate_backward)(a->activation, a->slope, a->saved + m * p.n + s.n0, a->dx + m * p.n + s.n0, s.n1 - s.n0);
    return FNN_OK;
}

/* of `vectors` vectors from column j on, the last one with `lanes` lanes: odd and even rows apart */
INLINE void sum_columns(const int vectors, int lanes, const float *d, int64_t n, ptrdiff_t stride, finish finish, float scale, float *c) {
    vf sum[2][4] = {{{0}}};
    int64_t i = 0;
    for (; i + 2 <= n; i += 2, d += 2 * stride)
        for (int v = 0; v < vectors; v++) {
            const int here = v < vectors - 1 ? VL : lanes;
            sum[0][v] += load_part(d + v * VL, here);
            sum[1][v] += load_part(d + stride + v * VL, here);
        }
    for (int v = 0; v < vectors; v++) {
        const int here = v < vectors - 1 ? VL : lanes;
        vf total = sum[0][v] + sum[1][v];
        if (i < n) total += load_part(d + v * VL, here);
        if (finish == ADD) total += load_part(c + v * VL, here);
        if (finish == ADD_SCALED) total = v_fma(v_set1(scale), total, load_part(c + v * VL, here));
        store_part(c + v * VL, total, here);
    }
}

void FN(column_sums)(const float *d, int64_t n, ptrdiff_t stride, int64_t lo, int64_t hi, finish finish, float scale, float *c) {
    int64_t j = lo;
    for (; j + 4 * VL <= hi; j += 4 * VL) sum_columns(4, VL, d + j, n, stride, finish, scale, c + j);
    for (; j < hi; j += VL) sum_columns(1, (int)min64(VL, hi - j), d + j, n, stride, finish, scale, c + j);
}

KERNEL(sum_rows) {
    int64_t lo, hi;
    fnn_range(a->c, VL, part, &lo, &hi);
    FN(column_sums)(a->x, a->n, a->stride, lo, hi, STORE, 0, a->out);
    return FNN_OK;
}

/* forward: out = x @ w + b;  dw = x.T @ dout, db = dout.sum(0), or w and b moved by -lr times that */
KERNEL(dense_backward_w) {
    const bool fused = a->lr != NULL;
    const float scale = fused ? -a->lr[min64(a->clock[FNN_BATCH], a->lr_len - 1)] : 0;
    const finish finish = fused ? ADD_SCALED : STORE;
    product p = {.a = a->x, .b = a->dout, .c = fused ? a->w : a->dw, .m = a->i, .n = a->o, .k = a->n,
                 .at = true, .finish = finish, .scale = scale, .l1 = a->l1, .l2 = a->l2};
    /* by rows: two threads that write next to each other in every row slow each other down */
    block s = {0, p.m, 0, p.n};
    if (p.m >= 8 * part.n) fnn_range(p.m, 1, part, &s.m0, &s.m1);
    else s = FN(product_share)(p.m, p.n, part);
    FN(product)(&p, s, part);
    float *db = fused ? a->b : a->db;
    const bool mine = s.m0 == 0 && (s.m1 > 0 || a->i == 0); /* of empty shares only a lone one */
    if (db && mine) FN(column_sums)(a->dout, a->n, a->o, s.n0, s.n1, finish, scale, db);
    return FNN_OK;
}
