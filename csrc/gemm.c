/* Matrix products, and the dense layer's three: x @ w + b, dout @ w.T, x.T @ dout.
 *
 * A product is cut into blocks that fit the caches and these into register tiles (tile.h); b is
 * packed, and transposed on the way, where it pays or must be.  The blocks of a long sum are summed each from 0
 * and added in their order, whoever has computed them.  Where a holds many zeros, or many equal
 * numbers in a column, like images on a plain ground, every tile sums but the terms that are listed for it;
 * for zeros alone no finite sum changes by a bit. */
#include "tile.h"

enum {
    KC = FNN_TERMS,                             /* a panel of KC rows stays in L1 */
    MC = 72,                                    /* MC x KC of a stay in L2 */
    SHORT_K = 48,                               /* rows of b that a short tile reads before it moves on */
    A_STRIDE = KC + 16,                         /* of a copied row: rows must not share cache sets */
    A_SPACE = MC * A_STRIDE,                    /* floats for a copied block of a */
    NC = (FNN_WORKSPACE / 4 - A_SPACE) / (KC + 1) / (2 * PANEL) * (2 * PANEL), /* columns of b that fit beside it */
    PACKED_ROWS = VL == 16 ? 2 * MC : 3 * MR,   /* of a: with fewer b is read where it lies; the wider the tile, the better it fares */
    WORTH_PACKING = 8192,                       /* rows of a times columns of b; with fewer, too */
    WIDE = 1024,                                /* columns of b; with fewer, too, where a is transposed and 16 lanes share a load */
    ROW_TERMS = 4,                              /* rows of b that a single row of a meets at a time */
    ROW_COLUMNS = 2048,                         /* sums of a single row that stay in L1 */
    SAMPLE = 8,                                 /* rows that tell what the others are like */
    SMALL = 16384                               /* floats; a matrix in L1 is computed, not asked */
};

void FN(pack_transposed)(const float *from, ptrdiff_t stride, int64_t rows, int columns, float *to) {
    int j = 0;
    for (; j < columns; j += VL, from += VL * stride) {
        const float *line[VL] = {from};
        UNROLL for (int i = 1; i < VL; i++) line[i] = line[i - 1] + (j + i < columns ? stride : 0);
        float *t = to + j;
        int64_t k = 0;
        for (; k + 4 <= rows; k += 4, t += 4 * PANEL) {
            vf r[4];
            UNROLL for (int i = 0; i < 4; i++) r[i] = v_load_fours(line + i, k);
            v_transpose_fours(r);
            UNROLL for (int i = 0; i < 4; i++) v_store(t + i * PANEL, r[i]);
        }
        for (; k < rows; k++, t += PANEL)
            for (int i = 0; i < VL; i++) t[i] = line[i][k];
    }
    for (; j < PANEL; j += VL)
        for (int64_t k = 0; k < rows; k++) v_store(to + k * PANEL + j, (vf){0});
}

void FN(pack)(const float *from, ptrdiff_t stride, int64_t rows, int columns, float *to) {
    if (columns == PANEL)
        for (int64_t k = 0; k < rows; k++, from += stride, to += PANEL) memcpy(to, from, PANEL * sizeof(float));
    else
        for (int64_t k = 0; k < rows; k++, from += stride, to += PANEL)
            for (int j = 0; j < PANEL; j++) to[j] = j < columns ? from[j] : 0;
}

/* What of a is left out of the sums: nothing; zeros; or what is 0 when each column's background, a number
 * that most rows have there, is subtracted.  What the backgrounds give is one term more, of weight 1: in every row the
 * sum of their products with b; or, where a is transposed, in every column their product with the sum of b's rows. */
typedef enum { NOTHING, ZEROS, BACKGROUNDS } omission;

/* It pays where a tile's few rows often have the same number in a column, or where a is transposed its few
 * columns the same numbers in a row; the first rows and their neighbours tell. */
static omission omission_of(const product *p) {
    const int64_t rows = p->at ? p->k : p->m, n = p->at ? p->m : p->k, rare = p->at ? 8 : 2;
    if (p->bt || n * p->n < SMALL) return NOTHING;
    int64_t zeros = 0, equal = 0, asked = 0;
    for (int64_t r = 0; r < min64(SAMPLE, rows); r += 2) {
        const float *one = p->a + r * n, *other = r + 1 < rows ? one + n : one;
        for (int64_t j = 0; j < n; j += VL) {
            const int lanes = (int)min64(VL, n - j);
            const vf x = load_part(one + j, lanes), y = load_part(other + j, lanes);
            const unsigned all = (1u << lanes) - 1;
            unsigned zero = all & ~(v_filled(x) | v_filled(y)), same = all & ~v_filled(x - y);
            if (p->at) zero &= zero >> 1 & zero >> 2, same &= same >> 1 & same >> 2;
            zeros += __builtin_popcount(zero), equal += __builtin_popcount(same);
            asked += p->at ? max64(0, lanes - 2) : lanes;
        }
        if (equal * rare * 4 < asked) return NOTHING;
    }
    const bool mostly_zeros = zeros * 8 >= equal * 7, may_subtract = rows >= SAMPLE && p->batchwise;
    if (!mostly_zeros && may_subtract) return equal * rare < asked ? NOTHING : BACKGROUNDS;
    return zeros * rare < asked ? NOTHING : ZEROS;
}

/* The background of each of n columns: of 0 and the first rows' least and greatest number there the one that
 * most of them have.  Whether any is not 0. */
static bool find_backgrounds(const float *a, ptrdiff_t stride, int64_t n, float *to) {
    unsigned found = 0;
    for (int64_t j = 0; j < n; j += VL) {
        const int lanes = (int)min64(VL, n - j);
        vf x[SAMPLE], least, greatest;
        for (int r = 0; r < SAMPLE; r++) x[r] = load_part(a + r * stride + j, lanes);
        least = greatest = x[0];
        for (int r = 1; r < SAMPLE; r++) least = v_min(x[r], least), greatest = v_max(x[r], greatest);
        vi zeros = {0}, low = {0}, high = {0}; /* counted downwards: a mask is -1 */
        for (int r = 0; r < SAMPLE; r++) zeros += x[r] == 0, low += x[r] == least, high += x[r] == greatest;
        const vf other = v_select(low < high, least, greatest);
        const vf background = v_select((low < zeros) | (high < zeros), other, (vf){0});
        found |= v_filled(background);
        store_part(to + j, background, lanes);
    }
    return found != 0;
}

/* A block of a in `to`, `stride` from line to line; less the backgrounds, where there are any, and with their term. */
static void copy_block(const product *p, int64_t m, int64_t rows, int64_t k, int64_t terms, const float *backgrounds,
                       float *to, ptrdiff_t stride) {
    const int64_t lda = p->at ? p->m : p->k, lines = p->at ? terms : rows, length = p->at ? rows : terms;
    const float *from = p->a + (p->at ? k * lda + m : m * lda + k);
    for (int64_t i = 0; i < lines; i++, from += lda, to += stride) {
        if (!backgrounds) {
            memcpy(to, from, (size_t)length * sizeof(float));
            continue;
        }
        for (int64_t j = 0; j < length; j++) to[j] = from[j] - backgrounds[j];
        if (!p->at) to[length] = 1;
    }
    if (backgrounds && p->at) memcpy(to, backgrounds, (size_t)length * sizeof(float));
}

/* The terms that tiles have to sum: of tile i [ends[i], ends[i + 1]). */
typedef struct {
    uint16_t terms[MC / MR_LISTED * (KC + 1)];
    int32_t ends[MC / MR_LISTED + 1];
} listing;

/* For tiles of as many rows as run_tiles gives them: term j < k of row m is at a[m * am + j * ak], one of both
 * strides being 1. */
static void list_terms(const float *a, ptrdiff_t am, ptrdiff_t ak, int64_t rows, int64_t k, listing *to) {
    const tiling cut = tile_rows(rows, MR_LISTED);
    int32_t n = 0;
    to->ends[0] = 0;
    for (int64_t i = 0; i < cut.tiles; i++) {
        const int h = (int)(cut.height + (i < cut.taller));
        if (am == 1) { /* a vector has the rows */
            for (int64_t j = 0; j < k; j++) {
                to->terms[n] = (uint16_t)j;
                n += v_filled(v_load_n(a + j * ak, h)) != 0;
            }
        } else {
            for (int64_t j = 0; j < k; j += VL) {
                vi any = {0};
                for (int m = 0; m < h; m++) any |= (vi)load_part(a + m * am + j, (int)min64(VL, k - j));
                for (unsigned filled = v_filled((vf)any); filled; filled &= filled - 1)
                    to->terms[n++] = (uint16_t)(j + __builtin_ctz(filled));
            }
        }
        to->ends[i + 1] = n;
        a += h * am;
    }
}

/* to = the sum of k rows of a panel, each times its weight */
static void sum_panel(const float *panel, int64_t k, const float *weights, float *to) {
    vf sum[4][2] = {{{0}}};
    for (; k >= 4; k -= 4, panel += 4 * PANEL, weights += 4)
        for (int j = 0; j < 4; j++)
            for (int v = 0; v < 2; v++)
                sum[j][v] = v_fma(v_set1(weights[j]), v_load(panel + j * PANEL + v * VL), sum[j][v]);
    for (int j = 0; j < k; j++)
        for (int v = 0; v < 2; v++)
            sum[0][v] = v_fma(v_set1(weights[j]), v_load(panel + j * PANEL + v * VL), sum[0][v]);
    for (int v = 0; v < 2; v++) v_store(to + v * VL, (sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v]));
}

typedef enum { NO_PENALTY, L2_ALONE, ANY_PENALTY } penalty;

static penalty penalty_of(const product *p) { return p->l1 != 0 ? ANY_PENALTY : p->l2 != 0 ? L2_ALONE : NO_PENALTY; }

/* f, compiled for each kind */
#define BY_PENALTY(f, p, ...)                                                                      \
    (penalty_of(p) == NO_PENALTY ? f(NO_PENALTY, p, __VA_ARGS__)                                   \
     : penalty_of(p) == L2_ALONE ? f(L2_ALONE, p, __VA_ARGS__) : f(ANY_PENALTY, p, __VA_ARGS__))

typedef struct { vf scale, decay; float l1, l2; } penalty_terms;

INLINE penalty_terms terms_of(const product *p) {
    return (penalty_terms){v_set1(p->scale), v_set1(p->scale * 2 * p->l2), p->l1, p->l2};
}

/* w + scale * the penalty's derivative: not w times a number that is nearly 1, which would be rounded the same
 * way in every step */
INLINE vf penalized(const penalty kind, vf w, penalty_terms t) {
    if (kind == NO_PENALTY) return w;
    return kind == L2_ALONE ? v_fma(t.decay, w, w) : v_fma(t.scale, penalty_slope(w, t.l1, t.l2), w);
}

/* The penalty's part of ADD_SCALED. */
INLINE void add_penalty(const penalty kind, const product *p, block s) {
    if (kind == NO_PENALTY) return;
    const penalty_terms terms = terms_of(p);
    for (int64_t m = s.m0; m < s.m1; m++) {
        float *c = p->c + m * p->n;
        int64_t n = s.n0;
#define PENALTY(n, lanes) store_part(c + n, penalized(kind, load_part(c + n, lanes), terms), lanes)
        for (; n + VL <= s.n1; n += VL) PENALTY(n, VL);
        if (n < s.n1) PENALTY(n, (int)(s.n1 - n));
    }
}

/* Rows [m0, m1) of columns [n0, n0 + columns), in tiles of equal height, and of their sums the terms
 * [k0, k0 + k), or of these the listed ones; a points at row m0, b at column n0, both at k0. */
static void run_rows(const product *p, int64_t m0, int64_t m1, int64_t n0, int columns, int64_t k0, int64_t k,
                     const listing *listed, const float *a, ptrdiff_t am, ptrdiff_t ak, const float *b, ptrdiff_t bs, ptrdiff_t b_pair) {
    const int nv = (columns + VL - 1) / VL;
    const bool final = k0 + k == p->k;
    const run all = {0, 0, k};
    tile t = {.a = a, .as = ak, .b = b, .bs = bs, .c = p->c + m0 * p->n + n0, .cs = p->n, .runs = &all, .n_runs = 1,
              .last = columns - (nv - 1) * VL,
              .finish = p->finish, .scale = p->scale,
              .bias = p->bias && final ? p->bias + n0 : NULL, .relu = final && p->relu};
    if (listed) t.terms = listed->terms, t.ends = listed->ends, t.b_pair = b_pair;
    const block here = {m0, m1, n0, n0 + columns, 0, 0};
    if (k0 == 0) BY_PENALTY(add_penalty, p, here);
    FN(run_tiles)(&t, m1 - m0, am, nv, listed ? LISTED : p->at ? TRANSPOSED : ROWS);
}

/* c = the sums of a block of it, in rows of `stride`; or c += them. */
static void add_part(const product *p, block s, const float *sums, ptrdiff_t stride, bool add) {
    const bool final = s.k1 == p->k;
    for (int64_t m = s.m0; m < s.m1; m++, sums += stride)
        for (int64_t n = s.n0; n < s.n1; n += VL) {
            const int lanes = (int)min64(VL, s.n1 - n);
            float *c = p->c + m * p->n + n;
            vf sum = load_part(sums + n - s.n0, lanes);
            if (add) sum += load_part(c, lanes);
            if (p->bias && final) sum += load_part(p->bias + n, lanes);
            if (p->relu && final) sum = v_max((vf){0}, sum);
            store_part(c, sum, lanes);
        }
}

/* sums += n columns of some rows of b, each row times its number of a */
INLINE void add_rows(const int count, const float *const b[], const float *a, int64_t n, float *sums) {
    vf x[ROW_TERMS];
    for (int i = 0; i < count; i++) x[i] = v_set1(a[i]);
    int64_t j = 0;
    for (; j + VL <= n; j += VL) {
        vf sum = v_load(sums + j);
        for (int i = 0; i < count; i++) sum = v_fma(x[i], v_load(b[i] + j), sum);
        v_store(sums + j, sum);
    }
    if (j < n) {
        vf sum = v_load(sums + j);
        for (int i = 0; i < count; i++) sum = v_fma(x[i], v_load_n(b[i] + j, (int)(n - j)), sum);
        v_store(sums + j, sum);
    }
}

/* sums = the terms [k, end) of n columns of a single row of c */
static void sum_row(const float *a, const float *b, ptrdiff_t stride, int64_t k, int64_t end, int64_t n, bool skip_zeros, float *sums) {
    const float *rows[ROW_TERMS];
    for (int64_t j = 0; j < n; j += VL) v_store(sums + j, (vf){0});
    if (skip_zeros) {
        float x[ROW_TERMS];
        int count = 0;
        for (; k < end; k++) {
            x[count] = a[k];
            rows[count] = b + k * stride;
            count += a[k] != 0;
            if (count < ROW_TERMS) continue;
            add_rows(ROW_TERMS, rows, x, n, sums);
            count = 0;
        }
        for (int i = 0; i < count; i++) add_rows(1, rows + i, x + i, n, sums);
    } else {
        for (; k + ROW_TERMS <= end; k += ROW_TERMS) {
            for (int i = 0; i < ROW_TERMS; i++) rows[i] = b + (k + i) * stride;
            add_rows(ROW_TERMS, rows, a + k, n, sums);
        }
        for (; k < end; k++) add_rows(1, &(const float *){b + k * stride}, a + k, n, sums);
    }
}

/* A block of a single row of c: b is read in its order, as fast as memory gives it. */
static void run_row(const product *p, block s, bool skip_zeros) {
    const int64_t kb = fnn_block_terms(p->k);
    const float *a = p->a + s.m0 * p->k;
    float sums[ROW_COLUMNS];
    for (int64_t n = s.n0, columns; n < s.n1; n += columns) {
        columns = min64(ROW_COLUMNS, s.n1 - n);
        for (int64_t k = s.k0; k < s.k1; k += kb) {
            sum_row(a, p->b + n, p->n, k, min64(k + kb, s.k1), columns, skip_zeros, sums);
            add_part(p, (block){s.m0, s.m0 + 1, n, n + columns, k, min64(k + kb, s.k1)}, sums, columns, k > s.k0);
        }
    }
}

/* Terms [k, k + terms) of columns [n, n + columns) of b, in panels; with `subtract` and that of the backgrounds, which
 * weigh the others' sum in a product with rows of a. */
static void pack_strip(const product *p, int64_t k, int64_t terms, int64_t n, int columns, bool subtract, const float *backgrounds,
                       float *to) {
    for (int i = 0; i < columns; i += PANEL, to += (terms + subtract) * PANEL) {
        const int here = columns - i < PANEL ? columns - i : PANEL;
        if (p->bt) FN(pack_transposed)(p->b + (n + i) * p->k + k, p->k, terms, here, to);
        else FN(pack)(p->b + k * p->n + n + i, p->n, terms, here, to);
        if (subtract && p->at) FN(column_sums)(to, terms, PANEL, 0, PANEL, STORE, 0, to + terms * PANEL);
        else if (subtract) sum_panel(to, terms, backgrounds, to + terms * PANEL);
    }
}

static void run_block(const product *p, block s, fnn_part part) {
    const int64_t height = s.m1 - s.m0, lda = p->at ? p->m : p->k, am = p->at ? 1 : lda, ak = p->at ? lda : 1;
    const bool large = height > MC; /* more than one block of rows: keep what is packed */
    /* of all rows, not only this thread's: the bits must not depend on the threads */
    const omission omitted = omission_of(p);
    const bool subtract = omitted == BACKGROUNDS;
    const bool worth_packing = height >= PACKED_ROWS && height * p->n >= WORTH_PACKING && !(VL == 16 && p->at && p->n < WIDE);
    const bool packed = p->bt || subtract || worth_packing;
    const int64_t kb = fnn_block_terms(p->k);
    listing space_for_list;
    const listing *const listed = omitted ? &space_for_list : NULL;
    if (!packed && height == 1 && !p->at && p->finish == STORE && s.n1 - s.n0 > MAX_NV * VL) {
        run_row(p, s, omitted == ZEROS);
        return;
    }
    float *space = fnn_workspace(), *a_space = space + (FNN_WORKSPACE / 4 - A_SPACE), backgrounds[KC];
    product one = *p; /* of the blocks of a sum */
    const bool store = p->finish == STORE, several = store && s.k1 - s.k0 > kb;
    if (!packed && height <= (omitted ? MR_LISTED : 4) && !(several && height * p->n > FNN_WORKSPACE / 4)) {
        /* One short tile: stream b along its rows, as wide as the registers allow. */
        const int wide = FN(tile_widest)[height] * VL;
        if (several) one.bias = NULL, one.relu = false;
        for (int64_t start = s.k0, end; start < s.k1; start = end) {
            end = min64(start + kb, s.k1);
            for (int64_t k = start, ks = store ? SHORT_K : kb; k < end; k += ks) {
                const float *a = p->a + s.m0 * am + k * ak;
                const int64_t terms = min64(ks, end - k);
                if (omitted) list_terms(a, am, ak, height, terms, &space_for_list);
                if (store) one.finish = k == start ? STORE : ADD;
                for (int64_t n = s.n0; n < s.n1; n += wide)
                    run_rows(&one, s.m0, s.m1, n, (int)min64(wide, s.n1 - n), k, terms, listed, a, am, ak, p->b + k * p->n + n, p->n, PANEL);
            }
            if (start > s.k0 && several) add_part(p, (block){s.m0, s.m1, s.n0, s.n1, start, end}, space + s.n0, p->n, true);
            if (several) one.c = space - s.m0 * p->n;
        }
        return;
    }
    const int64_t strip = omitted ? 2 * PANEL : PANEL, nc = large ? NC : strip;
    for (int64_t k = s.k0; k < s.k1; k += kb) {
        const int64_t terms = min64(kb, s.k1 - k), panel = (terms + subtract) * PANEL;
        if (store && k > s.k0) one.finish = ADD_SCALED, one.scale = 1;
        bool found = subtract && !p->at && find_backgrounds(p->a + k, lda, terms, backgrounds);
        for (int64_t nb = s.n0; nb < s.n1; nb += nc)
            for (int64_t m = s.m0, rows; m < s.m1; m += rows) {
                if (fnn_interrupted(part)) return;
                rows = min64(MC, s.m1 - m);
                const bool first = large || nb == s.n0; /* else the block of a is ready */
                if (first && subtract && p->at) found = find_backgrounds(p->a + m, lda, rows, backgrounds);
                const bool copy = found || (VL < 16 && large && s.n1 - s.n0 >= 4 * PANEL && p->k >= 48);
                const float *a = copy ? a_space : p->a + m * am + k * ak;
                const ptrdiff_t line = !copy ? lda : p->at ? rows : A_STRIDE, down = p->at ? 1 : line, along = p->at ? line : 1;
                if (first && copy) copy_block(p, m, rows, k, terms, found ? backgrounds : NULL, a_space, line);
                if (first && omitted) list_terms(a, down, along, rows, terms + found, &space_for_list);
                for (int64_t n = nb; n < min64(nb + nc, s.n1); n += strip) {
                    const int columns = (int)min64(strip, min64(nb + nc, s.n1) - n);
                    float *to = space + (n - nb) / PANEL * panel;
                    if (packed && m == s.m0) pack_strip(p, k, terms, n, columns, subtract, backgrounds, to);
                    const float *b = packed ? to : p->b + k * p->n + n;
                    run_rows(&one, m, m + rows, n, columns, k, terms, listed, a, down, along, b, packed ? PANEL : p->n, packed ? panel : PANEL);
                }
            }
    }
}

/* A sum of one term (a batch of one): no tile, but rows of c at the speed of memory. */
INLINE void outer_rows(const penalty kind, const product *p, const bool add, block s) {
    const bool skip = add && kind == NO_PENALTY && p->m * p->n >= SMALL;
    const penalty_terms terms = terms_of(p);
    const float *b = p->b;
    for (int64_t m = s.m0; m < s.m1; m++) {
        if (skip && p->a[m] == 0) continue;
        const vf x = v_set1(add ? p->scale * p->a[m] : p->a[m]);
        float *c = p->c + m * p->n;
        int64_t n = s.n0;
#define OUTER(n, lanes)                                                                            \
    do {                                                                                           \
        const vf d = load_part(b + n, lanes);                                                      \
        store_part(c + n, add ? v_fma(x, d, penalized(kind, load_part(c + n, lanes), terms)) : x * d, lanes); \
    } while (0)
        for (; n + VL <= s.n1; n += VL) OUTER(n, VL);
        if (n < s.n1) OUTER(n, (int)(s.n1 - n));
    }
}

static void run_outer(const product *p, block s) {
    if (p->finish == ADD_SCALED) BY_PENALTY(outer_rows, p, true, s);
    else outer_rows(NO_PENALTY, p, false, s);
}

/* A single row of a with VL rows of b at a time where they lie: each element of c is the sum of VL sums. */
static void run_dots(const product *p, block s) {
    for (int64_t n = s.n0; n < s.n1; n += VL) {
        const float *row[VL];
        vf sum[VL];
        UNROLL for (int i = 0; i < VL; i++) sum[i] = (vf){0}, row[i] = p->b + min64(n + i, s.n1 - 1) * p->k;
        int64_t k = 0;
        for (; k + VL <= p->k; k += VL) {
            const vf a = v_load(p->a + k);
            UNROLL for (int i = 0; i < VL; i++) sum[i] = v_fma(a, v_load(row[i] + k), sum[i]);
        }
        if (k < p->k) {
            const int lanes = (int)(p->k - k);
            const vf a = v_load_n(p->a + k, lanes);
            UNROLL for (int i = 0; i < VL; i++) sum[i] = v_fma(a, v_load_n(row[i] + k, lanes), sum[i]);
        }
        store_part(p->c + n, v_sum_lanes(sum), (int)min64(VL, s.n1 - n));
    }
}

void FN(product)(const product *p, block s, fnn_part part) {
    if (s.m0 == s.m1 || s.n0 == s.n1) return;
    if (p->m == 1 && p->bt && p->finish == STORE && !p->bias && !p->relu) {
        run_dots(p, s);
    } else if (p->k == 1 && !p->bias && !p->relu && !p->bt) {
        run_outer(p, s);
    } else if (p->k > 0) {
        run_block(p, s, part);
    } else if (p->finish == STORE) { /* an empty sum */
        for (int64_t m = s.m0; m < s.m1; m++)
            for (int64_t n = s.n0; n < s.n1; n++) {
                float r = p->bias ? p->bias[n] : 0;
                p->c[m * p->n + n] = p->relu && r < 0 ? 0 : r;
            }
    }
}

/* Columns where there are enough, else rows: of a layer's dx a thread then has the columns that are its rows of w. */
block FN(product_share)(int64_t m, int64_t n, int64_t k, fnn_part part) {
    block s = {0, m, 0, n, 0, k};
    if (n >= 4 * VL * (int64_t)part.n) fnn_range(n, VL, part, &s.n0, &s.n1);
    else fnn_range(m, 1, part, &s.m0, &s.m1);
    return s;
}

/* out = op(a) @ op(b) */
KERNEL(gemm) {
    product p = {.a = a->a, .b = a->b, .c = a->out, .m = a->m, .n = a->n, .k = a->k,
                 .at = a->transpose_a, .bt = a->transpose_b};
    FN(product)(&p, FN(product_share)(p.m, p.n, p.k, part), part);
    return FNN_OK;
}

static product forward_product(const fnn_dense_forward_args *a) {
    const bool relu = a->activation == FNN_RELU;
    return (product){.a = a->x, .b = a->w, .c = relu ? a->y : a->out, .m = a->n, .n = a->o, .k = a->i,
                     .bias = a->b, .relu = relu, .batchwise = a->batchwise};
}

static void activate_block(const fnn_dense_forward_args *a, block s) {
    if (a->activation != FNN_LINEAR && a->activation != FNN_RELU)
        for (int64_t m = s.m0; m < s.m1; m++)
            FN(activate)(a->activation, a->slope, a->out + m * a->o + s.n0, a->y + m * a->o + s.n0, s.n1 - s.n0);
}

/* Half of the shares sum the first half of the blocks, the others each further block in its own of `parts`: shares of
 * columns would read what other threads write into the same rows of w.  Each half has half of the rows to end; it sums
 * the other's first, and who comes last to some rows adds the parts. */
static void sum_halves(const fnn_dense_forward_args *a, const product *p, fnn_part part) {
    const int64_t kb = fnn_block_terms(p->k), half = (fnn_blocks(p->k) + 1) / 2 * kb, size = p->m * p->n;
    const int shares = part.n / 2, second = part.share >= shares;
    const int64_t cut = p->m >= 2 * MR ? p->m / 2 : p->m;
    for (int turn = 0; turn < 2; turn++) {
        const int piece = second == turn;
        const int64_t m0 = piece ? cut : 0, m1 = piece ? p->m : cut;
        if (m0 == m1) continue;
        product mine = *p;
        mine.bias = NULL, mine.relu = false;
        block s = FN(product_share)(m1 - m0, p->n, half, (fnn_part){.share = part.share % shares, .n = shares});
        s.m0 += m0, s.m1 += m0;
        if (!second) {
            FN(product)(&mine, s, part);
        } else {
            for (mine.c = a->parts; s.k1 < p->k; mine.c += size) {
                s.k0 = s.k1, s.k1 = min64(s.k0 + kb, p->k);
                FN(product)(&mine, s, part);
            }
        }
        int *const arrived = a->arrived + piece * FNN_LINE;
        if (__atomic_add_fetch(arrived, 1, __ATOMIC_ACQ_REL) < part.n) continue;
        *arrived = 0;
        s = (block){m0, m1, 0, p->n, 0, half};
        for (const float *sums = a->parts + m0 * p->n; s.k1 < p->k; sums += size) {
            s.k0 = s.k1, s.k1 = min64(s.k0 + kb, p->k);
            add_part(p, s, sums, p->n, true);
        }
        activate_block(a, s);
    }
}

/* out = x @ w + b, then y = activation(out) */
KERNEL(dense_forward) {
    const product p = forward_product(a);
    if (a->parts && part.n % 2 == 0) {
        sum_halves(a, &p, part);
    } else {
        const block s = FN(product_share)(p.m, p.n, p.k, part);
        FN(product)(&p, s, part);
        activate_block(a, s);
    }
    return FNN_OK;
}

/* forward: out = x @ w;  dx = dout @ w.T, then dx *= activation'(saved) */
KERNEL(dense_backward_x) {
    product p = {.a = a->dout, .b = a->w, .c = a->dx, .m = a->n, .n = a->i, .k = a->o, .bt = true};
    const block s = FN(product_share)(p.m, p.n, p.k, part);
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

/* out (C) = sum of the rows of x (N, C) */
KERNEL(sum_rows) {
    int64_t lo, hi;
    fnn_range(a->c, VL, part, &lo, &hi);
    FN(column_sums)(a->x, a->n, a->stride, lo, hi, STORE, 0, a->out);
    return FNN_OK;
}

/* forward: out = x @ w + b;  dw = x.T @ dout, db = dout.sum(0), or w and b moved by -lr times that */
KERNEL(dense_backward_w) {
    const bool fused = a->lr != NULL;
    const float scale = fused ? -rate_now(a->lr, a->lr_len, a->clock) : 0;
    const finish finish = fused ? ADD_SCALED : STORE;
    product p = {.a = a->x, .b = a->dout, .c = fused ? a->w : a->dw, .m = a->i, .n = a->o, .k = a->n,
                 .at = true, .finish = finish, .scale = scale, .l1 = a->l1, .l2 = a->l2, .batchwise = a->batchwise};
    /* by rows: two threads that write next to each other in every row slow each other down */
    block s = {0, p.m, 0, p.n, 0, p.k};
    if (p.m >= 8 * part.n) fnn_range(p.m, 1, part, &s.m0, &s.m1);
    else s = FN(product_share)(p.m, p.n, p.k, part);
    FN(product)(&p, s, part);
    float *db = fused ? a->b : a->db;
    const bool mine = s.m0 == 0 && (s.m1 > 0 || a->i == 0); /* of empty shares only a lone one */
    if (db && mine) FN(column_sums)(a->dout, a->n, a->o, s.n0, s.n1, finish, scale, db);
    return FNN_OK;
}
