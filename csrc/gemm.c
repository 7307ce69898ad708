/* Matrix products, and the dense layer's three: x @ w + b, dout @ w.T, x.T @ dout.
 *
 * One register tile of MR x NV vectors serves all of them: it walks K once, broadcasting a and
 * streaming b, so every output element is one sum over k in increasing order, whatever the tile,
 * the block or the thread.  b is packed (and transposed on the way) where it pays or must be. */
#include "kernel.h"

/* Tallest tile with two vectors a row, and how many vectors a row may have by height: as many as the
 * register file holds, since a short tile hides the latency of FMA only by being wide. */
#if VL == 16
#define MR 14
static const int widest[MR + 1] = {0, 8, 8, 6, 6, 4, 4, 3, 3, 3, 2, 2, 2, 2, 2};
#else
#define MR 6
static const int widest[MR + 1] = {0, 8, 6, 4, 3, 2, 2};
#endif

enum {
    PANEL = 2 * VL,                             /* columns of a packed panel */
    KC = 384,                                   /* a panel of KC rows stays in L1 */
    MC = 72,                                    /* MC x KC of a stay in L2 */
    A_STRIDE = KC + 16,                         /* of a copied row: rows must not share cache sets */
    A_SPACE = MC * A_STRIDE,                    /* floats for a copied block of a */
    NC = (FNN_WORKSPACE / 4 - A_SPACE) / KC / PANEL * PANEL /* columns of b that fit beside it */
};

/* How a tile ends: c = sum, c = c + sum, or c = c + scale * sum. */
typedef enum { STORE, ADD, ADD_SCALED } finish;

typedef struct {
    const float *a; /* (m, k) at a[m * as + k], or a[k * as + m] where a is transposed */
    ptrdiff_t as;
    const float *b; /* (k, n) at b[k * bs + n] */
    ptrdiff_t bs;
    float *c;
    ptrdiff_t cs;
    int64_t k;
    int last; /* columns in the last vector, 1 ... VL */
    finish finish;
    float scale;
    const float *bias; /* added at the end, or NULL */
    bool relu;
} tile;

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

INLINE vf load_part(const float *p, int n) { return n == VL ? v_load(p) : v_load_n(p, n); }

INLINE void tile_body(const int mr, const int nv, const bool at, const bool whole, const tile *t) {
    const int last = whole ? VL : t->last;
    vf acc[MR][8];
    UNROLL for (int m = 0; m < mr; m++)
        UNROLL for (int v = 0; v < nv; v++)
            acc[m][v] = t->finish != ADD ? (vf){0}
                        : v < nv - 1     ? v_load(t->c + m * t->cs + v * VL)
                                         : load_part(t->c + m * t->cs + v * VL, last);
    const float *row[MR];
    UNROLL for (int m = 0; m < mr; m++) row[m] = t->a + (at ? m : m * t->as);
    const float *b = t->b;
    const int64_t K = t->k;
    const ptrdiff_t bs = t->bs, as = t->as;
    for (int64_t k = 0; k < K; k++) {
        vf bv[8];
        UNROLL for (int v = 0; v < nv; v++) bv[v] = v < nv - 1 || whole ? v_load(b + v * VL) : v_load_n(b + v * VL, last);
        UNROLL for (int m = 0; m < mr; m++) {
            const vf x = v_set1(at ? row[0][m] : row[m][k]);
            UNROLL for (int v = 0; v < nv; v++) acc[m][v] = v_fma(x, bv[v], acc[m][v]);
        }
        b += bs;
        if (at) row[0] += as;
    }
    UNROLL for (int v = 0; v < nv; v++) {
        const bool full = v < nv - 1 || whole;
        const vf bias = !t->bias ? (vf){0} : full ? v_load(t->bias + v * VL) : v_load_n(t->bias + v * VL, last);
        UNROLL for (int m = 0; m < mr; m++) {
            float *c = t->c + m * t->cs + v * VL;
            vf r = acc[m][v];
            if (t->finish == ADD_SCALED) r = v_fma(v_set1(t->scale), r, full ? v_load(c) : v_load_n(c, last));
            if (t->bias) r += bias;
            if (t->relu) r = v_max((vf){0}, r);
            if (full)
                v_store(c, r);
            else
                v_store_n(c, r, last);
        }
    }
}

typedef void (*tile_fn)(const tile *t);

#define TILE(mr, nv)                                                                               \
    static void tile_##mr##x##nv(const tile *t) {                                                  \
        if (t->last == VL) tile_body(mr, nv, false, true, t);                                      \
        else tile_body(mr, nv, false, false, t);                                                   \
    }                                                                                              \
    static void tile_t_##mr##x##nv(const tile *t) {                                                \
        if (t->last == VL) tile_body(mr, nv, true, true, t);                                       \
        else tile_body(mr, nv, true, false, t);                                                    \
    }
#define AT(mr, nv) {tile_##mr##x##nv, tile_t_##mr##x##nv}

/* clang-format off */
#if VL == 16
#define ALL_TILES(X)                                                                               \
    X(1,1) X(1,2) X(1,3) X(1,4) X(1,5) X(1,6) X(1,7) X(1,8)                                        \
    X(2,1) X(2,2) X(2,3) X(2,4) X(2,5) X(2,6) X(2,7) X(2,8)                                        \
    X(3,1) X(3,2) X(3,3) X(3,4) X(3,5) X(3,6) X(4,1) X(4,2) X(4,3) X(4,4) X(4,5) X(4,6)            \
    X(5,1) X(5,2) X(5,3) X(5,4) X(6,1) X(6,2) X(6,3) X(6,4) X(7,1) X(7,2) X(7,3)                   \
    X(8,1) X(8,2) X(8,3) X(9,1) X(9,2) X(9,3) X(10,1) X(10,2) X(11,1) X(11,2) X(12,1) X(12,2)      \
    X(13,1) X(13,2) X(14,1) X(14,2)
#else
#define ALL_TILES(X)                                                                               \
    X(1,1) X(1,2) X(1,3) X(1,4) X(1,5) X(1,6) X(1,7) X(1,8)                                        \
    X(2,1) X(2,2) X(2,3) X(2,4) X(2,5) X(2,6) X(3,1) X(3,2) X(3,3) X(3,4)                          \
    X(4,1) X(4,2) X(4,3) X(5,1) X(5,2) X(6,1) X(6,2)
#endif
ALL_TILES(TILE)
#define ENTRY(mr, nv) [mr][nv] = AT(mr, nv),
static const tile_fn tiles[MR + 1][9][2] = {ALL_TILES(ENTRY)};
/* clang-format on */

/* c (m, n) = a (m, k) @ b (k, n), as a tile ends it */
typedef struct {
    const float *a, *b;
    float *c;
    int64_t m, n, k;
    bool at, bt; /* a, b stored transposed */
    finish finish;
    float scale;
    const float *bias;
    bool relu;
} product;

typedef float v4 __attribute__((vector_size(16)));

/* to[k * PANEL + j] = from[j * stride + k] for k < rows, j < columns; other columns are 0 */
static void pack_transposed(const float *from, ptrdiff_t stride, int64_t rows, int columns, float *to) {
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

/* to[k * PANEL + j] = from[k * stride + j] likewise */
static void pack(const float *from, ptrdiff_t stride, int64_t rows, int columns, float *to) {
    if (columns == PANEL)
        for (int64_t k = 0; k < rows; k++, from += stride, to += PANEL) memcpy(to, from, PANEL * sizeof(float));
    else
        for (int64_t k = 0; k < rows; k++, from += stride, to += PANEL)
            for (int j = 0; j < PANEL; j++) to[j] = j < columns ? from[j] : 0;
}

/* A block of a, rows x columns as it is stored, copied next to each other. */
static void copy_block(const float *from, ptrdiff_t stride, int64_t rows, int64_t columns, float *to, ptrdiff_t to_stride) {
    for (int64_t r = 0; r < rows; r++, from += stride, to += to_stride) memcpy(to, from, (size_t)columns * sizeof(float));
}

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* Rows [m0, m1) of columns [n0, n0 + columns), summed over [k0, k0 + kc), in tiles of equal height;
 * a points at row m0, b at column n0, both at k0. */
static void run_rows(const product *p, int64_t m0, int64_t m1, int64_t n0, int columns, int64_t k0, int64_t kc,
                     const float *a, ptrdiff_t as, const float *b, ptrdiff_t bs) {
    const int nv = (columns + VL - 1) / VL;
    const bool final = k0 + kc == p->k;
    tile t = {.as = as, .b = b, .bs = bs, .cs = p->n, .k = kc, .last = columns - (nv - 1) * VL,
              .finish = p->finish == STORE && k0 > 0 ? ADD : p->finish, .scale = p->scale,
              .bias = final && p->bias ? p->bias + n0 : NULL, .relu = final && p->relu};
    int64_t blocks = (m1 - m0 + MR - 1) / MR;
    for (int64_t m = m0; m < m1; blocks--) {
        int64_t rows = (m1 - m + blocks - 1) / blocks;
        t.a = a + (m - m0) * (p->at ? 1 : as);
        t.c = p->c + m * p->n + n0;
        tiles[rows][nv][p->at](&t);
        m += rows;
    }
}

/* Rows [m0, m1) and columns [n0, n1) of the product. */
static void run_block(const product *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, fnn_part part) {
    const int64_t rows = m1 - m0;
    const bool packed = p->bt || rows >= 3 * MR;
    const int64_t blocks = (p->k + KC - 1) / KC, kb = (p->k + blocks - 1) / blocks; /* equal blocks of k */
    const int64_t lda = p->at ? p->m : p->k, am = p->at ? 1 : lda, ak = p->at ? lda : 1;
    if (!packed && rows <= 4) {
        /* One short tile: stream b along its rows, as wide as the registers allow. */
        const int wide = widest[rows] * VL;
        for (int64_t n = n0; n < n1; n += wide)
            for (int64_t k = 0; k < p->k; k += kb)
                run_rows(p, m0, m1, n, (int)min64(wide, n1 - n), k, min64(kb, p->k - k),
                         p->a + m0 * am + k * ak, lda, p->b + k * p->n + n, p->n);
        return;
    }
    float *space = fnn_workspace(part), *a_space = space + (FNN_WORKSPACE / 4 - A_SPACE);
    const bool large = rows > MC; /* more than one block of rows: keep what is packed */
    const bool copy = large && n1 - n0 >= 4 * PANEL;
    for (int64_t nb = n0, nc = large ? NC : PANEL; nb < n1; nb += nc) {
        const int64_t ne = min64(nb + nc, n1);
        for (int64_t k = 0; k < p->k; k += kb) {
            const int64_t kc = min64(kb, p->k - k);
            for (int64_t m = m0; m < m1; m += MC) {
                if (fnn_interrupted(part)) return;
                const int64_t me = min64(m + MC, m1);
                const float *a = p->a + m * am + k * ak;
                ptrdiff_t as = lda;
                if (copy) {
                    as = p->at ? me - m : A_STRIDE;
                    copy_block(a, lda, p->at ? kc : me - m, p->at ? me - m : kc, a_space, as);
                    a = a_space;
                }
                for (int64_t n = nb; n < ne; n += PANEL) {
                    const int columns = (int)min64(PANEL, ne - n);
                    const float *b = p->b + (p->bt ? n * p->k + k : k * p->n + n);
                    ptrdiff_t bs = p->bt ? p->k : p->n;
                    if (packed) {
                        float *to = space + (n - nb) * kc;
                        if (m == m0) (p->bt ? pack_transposed : pack)(b, bs, kc, columns, to);
                        b = to, bs = PANEL;
                    }
                    run_rows(p, m, me, n, columns, k, kc, a, as, b, bs);
                }
            }
        }
    }
}

/* A sum of one term (a batch of one): no tile, but rows of c at the speed of memory. */
static void run_outer(const product *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
    const vf scale = v_set1(p->scale);
    const bool add = p->finish == ADD_SCALED;
    for (int64_t m = m0; m < m1; m++) {
        const vf x = v_set1(p->a[m]);
        float *c = p->c + m * p->n;
        int64_t n = n0;
        for (; n + VL <= n1; n += VL) {
            const vf r = x * v_load(p->b + n);
            v_store(c + n, add ? v_fma(scale, r, v_load(c + n)) : r);
        }
        if (n < n1) {
            const int lanes = (int)(n1 - n);
            const vf r = x * v_load_n(p->b + n, lanes);
            v_store_n(c + n, add ? v_fma(scale, r, v_load_n(c + n, lanes)) : r, lanes);
        }
    }
}

/* The share of a product that is this thread's: columns where there are enough, so that a thread
 * meets the same part of w in every product of a layer, else rows. */
typedef struct { int64_t m0, m1, n0, n1; } share;

static share share_of(int64_t m, int64_t n, fnn_part part) {
    share s = {0, m, 0, n};
    if (n >= 4 * VL * (int64_t)part.n) fnn_range(n, VL, part, &s.n0, &s.n1);
    else fnn_range(m, 1, part, &s.m0, &s.m1);
    return s;
}

static void run_share(const product *p, share s, fnn_part part) {
    if (s.m0 == s.m1 || s.n0 == s.n1) return;
    if (p->k == 1 && !p->bias && !p->relu && !p->bt) {
        run_outer(p, s.m0, s.m1, s.n0, s.n1);
    } else if (p->k > 0) {
        run_block(p, s.m0, s.m1, s.n0, s.n1, part);
    } else if (p->finish == STORE) { /* an empty sum */
        for (int64_t m = s.m0; m < s.m1; m++)
            for (int64_t n = s.n0; n < s.n1; n++) {
                float r = p->bias ? p->bias[n] : 0;
                p->c[m * p->n + n] = p->relu && r < 0 ? 0 : r;
            }
    }
}

/* out = op(a) @ op(b) */
KERNEL(gemm) {
    product p = {.a = a->a, .b = a->b, .c = a->out, .m = a->m, .n = a->n, .k = a->k,
                 .at = a->transpose_a, .bt = a->transpose_b};
    run_share(&p, share_of(a->m, a->n, part), part);
    return FNN_OK;
}

/* out = x @ w + b, then y = activation(out) */
KERNEL(dense_forward) {
    const bool relu = a->activation == FNN_RELU;
    product p = {.a = a->x, .b = a->w, .c = relu ? a->y : a->out, .m = a->n, .n = a->o, .k = a->i,
                 .bias = a->b, .relu = relu};
    const share s = share_of(p.m, p.n, part);
    run_share(&p, s, part);
    if (a->activation != FNN_LINEAR && !relu)
        for (int64_t m = s.m0; m < s.m1; m++)
            FN(activate)(a->activation, a->slope, a->out + m * p.n + s.n0, a->y + m * p.n + s.n0, s.n1 - s.n0);
    return FNN_OK;
}

/* forward: out = x @ w;  dx = dout @ w.T, then dx *= activation'(saved) */
KERNEL(dense_backward_x) {
    product p = {.a = a->dout, .b = a->w, .c = a->dx, .m = a->n, .n = a->i, .k = a->o, .bt = true};
    const share s = share_of(p.m, p.n, part);
    run_share(&p, s, part);
    if (a->activation != FNN_LINEAR)
        for (int64_t m = s.m0; m < s.m1; m++)
            FN(activate_backward)(a->activation, a->slope, a->saved + m * p.n + s.n0, a->dx + m * p.n + s.n0, s.n1 - s.n0);
    return FNN_OK;
}

/* c (o) = sum over n of d (n, o), columns [lo, hi), finished as a tile is */
static void column_sums(const float *d, int64_t n, int64_t o, int64_t lo, int64_t hi, finish finish, float scale, float *c) {
    for (int64_t j = lo; j < hi; j += VL) {
        const int lanes = (int)min64(VL, hi - j);
        vf sum = {0};
        for (int64_t i = 0; i < n; i++) sum += load_part(d + i * o + j, lanes);
        if (finish == ADD_SCALED) sum = v_fma(v_set1(scale), sum, load_part(c + j, lanes));
        if (lanes == VL) v_store(c + j, sum);
        else v_store_n(c + j, sum, lanes);
    }
}

/* forward: out = x @ w + b;  dw = x.T @ dout, db = dout.sum(0), or w and b moved by -lr times that */
KERNEL(dense_backward_w) {
    const bool fused = a->lr != NULL;
    const float scale = fused ? -a->lr[min64(a->clock[FNN_BATCH], a->lr_len - 1)] : 0;
    const finish finish = fused ? ADD_SCALED : STORE;
    product p = {.a = a->x, .b = a->dout, .c = fused ? a->w : a->dw, .m = a->i, .n = a->o, .k = a->n,
                 .at = true, .finish = finish, .scale = scale};
    const share s = share_of(p.m, p.n, part);
    run_share(&p, s, part);
    float *db = fused ? a->b : a->db;
    const bool mine = s.m0 == 0 && (s.m1 > 0 || a->i == 0); /* of empty shares only a lone one */
    if (db && mine) column_sums(a->dout, a->n, a->o, s.n0, s.n1, finish, scale, db);
    return FNN_OK;
}
