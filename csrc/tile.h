/* The register tile (tile.c), and the matrix product and the packing that are built on it (gemm.c): what dense
 * layers, convolutions and recurrences share.
 *
 * A tile is a few rows of a few vectors of c, kept in registers while it walks through its sum,
 * broadcasting a and streaming b.  Every element of c is one sum over k in increasing order, or one of such
 * sums of equal blocks, or for a lone row with b transposed one of a vector's: its bits depend neither on
 * the tile nor on the thread. */
#ifndef FASTNN_TILE_H
#define FASTNN_TILE_H

#include "kernel.h"

/* Tallest tile with two vectors a row, and with one.  A shorter tile may be wider, up to what the
 * register file holds: FMA's latency is hidden only by enough sums at once. */
#if VL == 16
enum { MR = 14, MR_NARROW = 14 };
#else
enum { MR = 6, MR_NARROW = 12 };
#endif

enum {
    MAX_NV = 8,     /* vectors in a row of any tile */
    MR_LISTED = 3,  /* tallest tile of listed terms: the fewer rows, the more terms that none of them has */
    PANEL = 2 * VL, /* columns of a packed panel */
};

/* How a tile ends: c = sum, c = c + sum, or c = c + scale * sum. */
typedef enum { STORE, ADD, ADD_SCALED } finish;

/* A run of k terms of a sum, and where it starts in a and in b, in floats from the tile's pointers.
 * A product has one; a convolution has one for every row of its kernel. */
typedef struct {
    ptrdiff_t a, b;
    int64_t k;
} run;

/* How a tile meets its terms: all of some runs, term k of row m being at a[rows[m] + k * as], or, TRANSPOSED, at
 * a[m + k * as]; or those that are LISTED for it, at a[m * rows[1] + k * as]. */
typedef enum { ROWS, TRANSPOSED, LISTED } reading;

typedef struct {
    const float *a;
    ptrdiff_t as;
    const ptrdiff_t *rows;
    ptrdiff_t down; /* in a, from a tile to the one below */
    const float *b; /* (k, n) at b[k * bs + n] */
    ptrdiff_t bs;
    float *c;
    ptrdiff_t cs;
    int64_t count; /* this many tiles, each below the other */
    const run *runs;
    int64_t n_runs;
    const uint16_t *terms; /* LISTED: tile i sums terms[ends[i]] ... terms[ends[i + 1] - 1] */
    const int32_t *ends;
    ptrdiff_t b_pair; /* LISTED: in b, from a row's pair of vectors to its next */
    int last; /* columns in the last vector, 1 ... VL */
    finish finish;
    float scale;
    const float *bias; /* added at the end, or NULL */
    bool relu;
} tile;

typedef void (*tile_fn)(const tile *t);
/* [rows][vectors in a row][reading]; NULL where a tile would not fit the registers: rows go to
 * MR_NARROW with one vector, to MR with two, to MR_LISTED if LISTED; there are tile_widest[rows] vectors at most */
extern const tile_fn FN(tiles)[MR_NARROW + 1][MAX_NV + 1][3];
extern const int FN(tile_widest)[MR + 1];

/* c (m, n) = a (m, k) @ b (k, n), ended as a tile is */
typedef struct {
    const float *a, *b;
    float *c;
    int64_t m, n, k;
    bool at, bt; /* a, b stored transposed */
    finish finish;
    float scale;
    const float *bias;
    bool relu;
    bool batchwise; /* as in dense_forward */
    float l1, l2; /* ADD_SCALED adds scale * the derivative of l1 * abs(c) + l2 * c**2, too */
} product;

/* Of rows [m0, m1) and columns [n0, n1) of c the terms [k0, k1), which are whole blocks of fnn_block_terms. */
typedef struct { int64_t m0, m1, n0, n1, k0, k1; } block;

/* As few tiles as will do for `rows`: the first `taller` of them have one more than `height`. */
typedef struct { int64_t tiles, height, taller; } tiling;
INLINE tiling tile_rows(int64_t rows, int64_t tallest) {
    const int64_t tiles = (rows + tallest - 1) / tallest;
    return (tiling){tiles, rows / tiles, rows % tiles};
}

/* Tiles of nv vectors for this many rows, `stride` apart in a. */
void FN(run_tiles)(tile *t, int64_t rows, ptrdiff_t stride, int nv, reading reading);

/* Computes one block of a product on this thread. */
void FN(product)(const product *p, block s, fnn_part part);
/* The block of an m x n product that is this thread's. */
block FN(product_share)(int64_t m, int64_t n, int64_t k, fnn_part part);

/* c = the sum of n rows of d, columns [lo, hi), finished as a tile is */
void FN(column_sums)(const float *d, int64_t n, ptrdiff_t stride, int64_t lo, int64_t hi, finish finish, float scale, float *c);

/* to[k * PANEL + j] = from[j * stride + k] for k < rows, j < columns; the other columns repeat the last one or become 0 */
void FN(pack_transposed)(const float *from, ptrdiff_t stride, int64_t rows, int columns, float *to);
/* to[k * PANEL + j] = from[k * stride + j]; the other columns become 0 */
void FN(pack)(const float *from, ptrdiff_t stride, int64_t rows, int columns, float *to);

INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
