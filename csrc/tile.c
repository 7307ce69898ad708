/* The register tiles, each a function of its own: the compiler unrolls one body for every shape. */
#include "tile.h"

INLINE void tile_body(const int mr, const int nv, const reading reading, const bool whole, const tile *t) {
    const int last = whole ? VL : t->last;
    const ptrdiff_t bs = t->bs, as = t->as, cs = t->cs;
    const run *const runs = t->runs, *const end = runs + t->n_runs;
    const int32_t *ends = t->ends;
    const float *a = t->a;
    float *c = t->c;
    for (int64_t left = t->count; left > 0; left--, a += t->down, c += mr * cs) {
        vf acc[MR_NARROW][MAX_NV];
        if (t->finish == ADD) {
            UNROLL for (int m = 0; m < mr; m++)
                UNROLL for (int v = 0; v < nv; v++)
                    acc[m][v] = v < nv - 1 ? v_load(c + m * cs + v * VL) : load_part(c + m * cs + v * VL, last);
        } else {
            UNROLL for (int m = 0; m < mr; m++)
                UNROLL for (int v = 0; v < nv; v++) acc[m][v] = (vf){0};
        }
/* the fewer operands stay in registers, the others pass through one */
#define TERM(b_of_v, a_of_m)                                                                       \
    do {                                                                                           \
        vf av[MR_NARROW], bv[MAX_NV];                                                              \
        if (nv > mr) UNROLL for (int m = 0; m < mr; m++) av[m] = v_set1(a_of_m);                   \
        else                                                                                       \
            UNROLL for (int v = 0; v < nv; v++)                                                    \
                bv[v] = v < nv - 1 || whole ? v_load(b_of_v) : v_load_n(b_of_v, last);             \
        if (nv > mr) UNROLL for (int v = 0; v < nv; v++) {                                         \
            const vf x = v < nv - 1 || whole ? v_load(b_of_v) : v_load_n(b_of_v, last);            \
            UNROLL for (int m = 0; m < mr; m++) acc[m][v] = v_fma(av[m], x, acc[m][v]);            \
        } else UNROLL for (int m = 0; m < mr; m++) {                                               \
            const vf x = v_set1(a_of_m);                                                           \
            UNROLL for (int v = 0; v < nv; v++) acc[m][v] = v_fma(x, bv[v], acc[m][v]);            \
        }                                                                                          \
    } while (0)
        if (reading == LISTED) {
            const float *pair[MAX_NV / 2];
            UNROLL for (int v = 0; v < nv; v += 2) pair[v / 2] = t->b + v / 2 * t->b_pair;
            const ptrdiff_t next = t->rows[1];
            const uint16_t *term = t->terms + ends[0], *const stop = t->terms + *++ends;
            if (term == stop && t->finish != STORE && !t->bias && !t->relu) continue;
            for (; term < stop; term++) {
                const ptrdiff_t b_k = *term * bs;
                const float *const column = a + *term * as;
                TERM(pair[v / 2] + b_k + v % 2 * VL, column[m * next]);
            }
        } else {
            for (const run *r = runs; r < end; r++) {
                const float *row[MR_NARROW];
                UNROLL for (int m = 0; m < mr; m++) row[m] = a + r->a + (reading == TRANSPOSED ? m : t->rows[m]);
                const float *b = t->b + r->b;
                ptrdiff_t at_k = 0;
                for (int64_t k = 0; k < r->k; k++, b += bs, at_k += as)
                    TERM(b + v * VL, reading == TRANSPOSED ? row[0][at_k + m] : row[m][at_k]);
            }
        }
        if (t->finish == ADD_SCALED) {
            const vf scale = v_set1(t->scale);
            UNROLL for (int m = 0; m < mr; m++)
                UNROLL for (int v = 0; v < nv; v++)
                    acc[m][v] = v_fma(scale, acc[m][v],
                                      v < nv - 1 ? v_load(c + m * cs + v * VL) : load_part(c + m * cs + v * VL, last));
        }
        if (t->bias)
            UNROLL for (int v = 0; v < nv; v++) {
                const vf bias = v < nv - 1 ? v_load(t->bias + v * VL) : load_part(t->bias + v * VL, last);
                UNROLL for (int m = 0; m < mr; m++) acc[m][v] += bias;
            }
        if (t->relu)
            UNROLL for (int m = 0; m < mr; m++)
                UNROLL for (int v = 0; v < nv; v++) acc[m][v] = v_max((vf){0}, acc[m][v]);
        UNROLL for (int m = 0; m < mr; m++)
            UNROLL for (int v = 0; v < nv; v++) {
                if (v < nv - 1 || whole) v_store(c + m * cs + v * VL, acc[m][v]);
                else v_store_n(c + m * cs + v * VL, acc[m][v], last);
            }
    }
}

#define TILE_READING(name, reading, mr, nv)                                                        \
    static void name##_##mr##x##nv(const tile *t) {                                                \
        if (t->last == VL) tile_body(mr, nv, reading, true, t);                                    \
        else tile_body(mr, nv, reading, false, t);                                                 \
    }
#define TILE(mr, nv)                                                                               \
    TILE_READING(rows, ROWS, mr, nv)                                                               \
    TILE_READING(transposed, TRANSPOSED, mr, nv)                                                   \
    TILE_READING(listed, LISTED, mr, nv)
#define AT(mr, nv) {rows_##mr##x##nv, transposed_##mr##x##nv, mr <= MR_LISTED ? listed_##mr##x##nv : NULL}

/* clang-format off */
#if VL == 16
const int FN(tile_widest)[MR + 1] = {0, 8, 8, 6, 6, 4, 4, 3, 3, 3, 2, 2, 2, 2, 2};
#define ALL_TILES(X)                                                                               \
    X(1,1) X(1,2) X(1,3) X(1,4) X(1,5) X(1,6) X(1,7) X(1,8)                                        \
    X(2,1) X(2,2) X(2,3) X(2,4) X(2,5) X(2,6) X(2,7) X(2,8)                                        \
    X(3,1) X(3,2) X(3,3) X(3,4) X(3,5) X(3,6) X(4,1) X(4,2) X(4,3) X(4,4) X(4,5) X(4,6)            \
    X(5,1) X(5,2) X(5,3) X(5,4) X(6,1) X(6,2) X(6,3) X(6,4) X(7,1) X(7,2) X(7,3)                   \
    X(8,1) X(8,2) X(8,3) X(9,1) X(9,2) X(9,3) X(10,1) X(10,2) X(11,1) X(11,2) X(12,1) X(12,2)      \
    X(13,1) X(13,2) X(14,1) X(14,2)
#else
const int FN(tile_widest)[MR + 1] = {0, 8, 6, 4, 3, 2, 2};
#define ALL_TILES(X)                                                                               \
    X(1,1) X(1,2) X(1,3) X(1,4) X(1,5) X(1,6) X(1,7) X(1,8)                                        \
    X(2,1) X(2,2) X(2,3) X(2,4) X(2,5) X(2,6) X(3,1) X(3,2) X(3,3) X(3,4)                          \
    X(4,1) X(4,2) X(4,3) X(5,1) X(5,2) X(6,1) X(6,2)                                               \
    X(7,1) X(8,1) X(9,1) X(10,1) X(11,1) X(12,1)
#endif
ALL_TILES(TILE)
#define ENTRY(mr, nv) [mr][nv] = AT(mr, nv),
const tile_fn FN(tiles)[MR_NARROW + 1][MAX_NV + 1][3] = {ALL_TILES(ENTRY)};
/* clang-format on */

void FN(run_tiles)(tile *t, int64_t rows, ptrdiff_t stride, int nv, reading reading) {
    ptrdiff_t offsets[MR_NARROW];
    for (int m = 0; m < MR_NARROW; m++) offsets[m] = m * stride;
    t->rows = offsets;
    const tiling cut = tile_rows(rows, reading == LISTED ? MR_LISTED : nv == 1 ? MR_NARROW : MR);
    if (cut.taller) {
        t->count = cut.taller;
        t->down = (cut.height + 1) * stride;
        FN(tiles)[cut.height + 1][nv][reading](t);
        t->a += cut.taller * t->down;
        t->c += cut.taller * (cut.height + 1) * t->cs;
        if (reading == LISTED) t->ends += cut.taller;
    }
    t->count = cut.tiles - cut.taller;
    t->down = cut.height * stride;
    FN(tiles)[cut.height][nv][reading](t);
}
