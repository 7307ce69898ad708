/* Convolutions of channels-last images, as products of the register tile (tile.h) without im2col.
 *
 * An output is a sum over taps: C neighbouring floats of x times a C x K block of w.  The taps of one
 * kernel row lie next to each other in x, so a tile's sum is a run per kernel row; taps beyond the rim
 * are left out, not multiplied by zero.  A tile's rows are neighbouring pixels, or the same pixel of
 * several images where images are small.  The gradient of x is the same walk over dout with w
 * transposed, once per phase of the stride; that of w is the transposed tile, a sum over pixels. */
#include "pool.h"
#include "tile.h"

enum {
    RUNS = 64,                        /* of a tile's sum, per call */
    SPACE = FNN_WORKSPACE / 4,        /* floats of a thread's workspace */
    SPACE_ROWS = SPACE / PANEL,       /* of one packed panel that fills it */
    BLOCK = 32 * 1024,                /* floats of x and dout that a block of images should keep to */
};

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

/* ---- the walk over taps that forward and backward data share --------------------------------- */

/* One image axis of the walk: grid position i writes output out0 + i * out_step and reads inputs
 * i * in_step + d0 + t * d_step, for its taps t, which have index k0 + t * k_step in the kernel. */
typedef struct {
    int64_t grid, out0, out_step;
    int64_t size, in_step, taps, d0, d_step, k0, k_step;
} axis;

/* The taps [lo, hi) that stay inside the image at position i. */
static void inside(const axis *x, int64_t i, int64_t *lo, int64_t *hi) {
    const int64_t first = i * x->in_step + x->d0;
    *lo = first < 0 ? min64((-first + x->d_step - 1) / x->d_step, x->taps) : 0;
    *hi = first >= x->size ? 0 : min64((x->size - 1 - first) / x->d_step + 1, x->taps);
    if (*hi < *lo) *hi = *lo;
}

/* The end of the positions from i on, but before `stop`, that have the same taps inside. */
static int64_t alike(const axis *x, int64_t i, int64_t stop, int64_t *lo, int64_t *hi) {
    inside(x, i, lo, hi);
    for (int64_t end = i + 1; end < stop; end++) {
        int64_t l, h;
        inside(x, end, &l, &h);
        if (l != *lo || h != *hi) return end;
    }
    return stop;
}

/* out (N, ., ., K) = sum over taps of in (N, H, W, C) @ w[tap] */
typedef struct {
    const float *in, *w, *bias;
    float *out;
    int64_t n, c, k, out_h, out_row, kernel_w, w_row; /* floats from a row of out, or of w as it lies, to the next */
    axis y, x;
    bool transposed; /* w is (kernel_h, kernel_w, K, C) */
    bool relu;
    fnn_activation activation; /* out *= activation'(saved) */
    float slope;
    const float *saved;
    const pooling *pool; /* of each block of images, or NULL; then out holds that block only */
    int64_t first;       /* the image that out begins with */
} walk;

/* What a panel of w holds at a time: all of its taps and channels, or what fits the workspace. */
typedef struct { int64_t y0, y1, x0, x1, c0, c1; } group;

static int64_t group_rows(const group *g) { return (g->y1 - g->y0) * (g->x1 - g->x0) * (g->c1 - g->c0); }

/* Columns [k0, k0 + columns) of w, row after row of the group. */
static void pack_group(const walk *s, const group *g, int64_t k0, int columns, float *to) {
    const int64_t channels = g->c1 - g->c0;
    for (int64_t ty = g->y0; ty < g->y1; ty++)
        for (int64_t tx = g->x0; tx < g->x1; tx++, to += channels * PANEL) {
            const int64_t tap = (s->y.k0 + ty * s->y.k_step) * s->kernel_w + s->x.k0 + tx * s->x.k_step;
            const float *w = s->w + tap * s->c * s->k;
            if (s->transposed) FN(pack_transposed)(w + k0 * s->c + g->c0, s->c, channels, columns, to);
            else FN(pack)(w + g->c0 * s->k + k0, s->k, channels, columns, to);
        }
}

/* One panel of columns over the positions [i0, i1) x [j0, j1), which have the taps [y0, y1) x [x0, x1)
 * inside, of images [n0, n1). */
static void run_rectangle(const walk *s, const group *g, tile *t, int nv, int64_t n0, int64_t n1, const int64_t i[2],
                          const int64_t j[2], const int64_t ty[2], const int64_t tx[2]) {
    const int64_t channels = g->c1 - g->c0, row = s->x.size * s->c, image = s->y.size * row;
    const int64_t y0 = max64(ty[0], g->y0), y1 = min64(ty[1], g->y1), x0 = max64(tx[0], g->x0), x1 = min64(tx[1], g->x1);
    const bool joined = s->x.d_step == 1 && channels == s->c; /* the taps of a kernel row are one run */
    const int64_t pieces = x1 > x0 ? (joined ? 1 : x1 - x0) : 0, total = y1 > y0 ? (y1 - y0) * pieces : 0;
    /* images, rows, columns: how many, how far apart in `in` and in `out` */
    const int64_t many[3] = {n1 - n0, i[1] - i[0], j[1] - j[0]};
    const int64_t from[3] = {image, s->y.in_step * row, s->x.in_step * s->c};
    const int64_t to[3] = {s->out_h * s->out_row, s->y.out_step * s->out_row, s->x.out_step * s->k};
    const int64_t tallest = nv == 1 ? MR_NARROW : MR;
    int along = 2; /* the direction that fills the tiles best */
    double best = 0;
    for (int d = 2; d >= 0; d--) {
        const double full = (double)many[d] / (double)((many[d] + tallest - 1) / tallest * tallest);
        if (full > best + 0.1) best = full, along = d;
    }
    const int a = along == 0 ? 1 : 0, b = along == 2 ? 1 : 2;
    const float *in = s->in + n0 * image + i[0] * from[1] + j[0] * from[2] + g->c0;
    float *out = t->c + (n0 - s->first) * to[0] + i[0] * to[1] + j[0] * to[2];
    const bool next = s->c == 1 && along == 2 && from[2] == 1; /* rows are neighbouring floats */
    tile part = *t;
    run runs[RUNS];
    part.runs = runs;
    part.cs = to[along];
    int64_t done = 0;
    do {
        int n_runs = 0;
        for (; done < total && n_runs < RUNS; done++, n_runs++) {
            const int64_t y = y0 + done / pieces, x = x0 + done % pieces;
            const int64_t packed = ((y - g->y0) * (g->x1 - g->x0) + x - g->x0) * channels;
            runs[n_runs].a = (s->y.d0 + y * s->y.d_step) * row + (s->x.d0 + x * s->x.d_step) * s->c;
            runs[n_runs].b = packed * t->bs;
            runs[n_runs].k = joined ? (x1 - x0) * channels : channels;
        }
        part.n_runs = n_runs;
        part.bias = done == total ? t->bias : NULL;
        part.relu = done == total && t->relu;
        for (int64_t p = 0; p < many[a]; p++)
            for (int64_t q = 0; q < many[b]; q++) {
                part.a = in + p * from[a] + q * from[b];
                part.c = out + p * to[a] + q * to[b];
                FN(run_tiles)(&part, many[along], from[along], nv, next ? TRANSPOSED : ROWS);
            }
        part.finish = ADD;
    } while (done < total);
}

/* A thread's part: images, panels of columns, rows of the grid. */
typedef struct { int64_t n0, n1, p0, p1, i0, i1; } share;

static share walk_share(const walk *s, fnn_part part) {
    const int64_t panels = (s->k + PANEL - 1) / PANEL;
    share mine = {0, s->n, 0, panels, 0, s->y.grid};
    const bool small = s->y.grid * s->x.grid <= 16; /* packing would cost as much as computing: not twice */
    if (small && panels >= 2 * part.n && !s->pool) fnn_range(panels, 1, part, &mine.p0, &mine.p1);
    else if (s->n >= part.n || s->pool) fnn_range(s->n, 1, part, &mine.n0, &mine.n1);
    else if (panels >= part.n) fnn_range(panels, 1, part, &mine.p0, &mine.p1);
    else fnn_range(s->y.grid, 1, part, &mine.i0, &mine.i1);
    return mine;
}

static void run_panel(const walk *s, const group *g, const share *mine, int64_t n0, int64_t n1, tile *t, int nv) {
    int64_t ty[2], tx[2];
    for (int64_t i = mine->i0, next_i; i < mine->i1; i = next_i) {
        next_i = alike(&s->y, i, mine->i1, &ty[0], &ty[1]);
        for (int64_t j = 0, next_j; j < s->x.grid; j = next_j) {
            next_j = alike(&s->x, j, s->x.grid, &tx[0], &tx[1]);
            run_rectangle(s, g, t, nv, n0, n1, (int64_t[]){i, next_i}, (int64_t[]){j, next_j}, ty, tx);
        }
    }
}

/* dx *= activation'(saved) where this thread has computed it */
static void walk_activation(const walk *s, const share *mine, int64_t n0, int64_t n1) {
    const int64_t k0 = mine->p0 * PANEL, k1 = min64(mine->p1 * PANEL, s->k);
    for (int64_t n = n0; n < n1; n++)
        for (int64_t i = mine->i0; i < mine->i1; i++)
            for (int64_t j = 0; j < s->x.grid; j++) {
                const int64_t y = s->y.out0 + i * s->y.out_step, x = s->x.out0 + j * s->x.out_step;
                const int64_t at = (n * s->out_h + y) * s->out_row + x * s->k;
                FN(activate_backward)(s->activation, s->slope, s->saved + at + k0, s->out + at + k0, k1 - k0);
            }
}

/* Pools the images [n0, n1), which are all of out. */
static void pool_block(const pooling *all, const float *out, int64_t n0, int64_t n1) {
    const int64_t before = n0 * all->shape.oh * all->shape.ow * all->shape.c;
    pooling some = *all;
    some.x = out;
    some.out += before;
    if (some.index) some.index = (char *)some.index + before * (some.wide ? (int64_t)sizeof(int32_t) : 1);
    FN(maxpool_rows)(&some, 0, (n1 - n0) * some.shape.oh);
}

static void run_walk(walk *s, fnn_part part) {
    const share mine = walk_share(s, part);
    if (mine.n0 == mine.n1 || mine.p0 == mine.p1 || mine.i0 == mine.i1) return;
    float *space = fnn_workspace();
    const int64_t c_step = min64(s->c, SPACE_ROWS), x_step = max64(min64(s->x.taps, SPACE_ROWS / c_step), 1);
    const int64_t y_step = max64(min64(s->y.taps, SPACE_ROWS / (c_step * x_step)), 1);
    const int64_t panel_size = y_step * x_step * c_step * PANEL;
    const int64_t together = max64(SPACE / panel_size, 1); /* panels that are packed at a time */
    const int64_t positions = (mine.i1 - mine.i0) * s->x.grid * (mine.n1 - mine.n0);
    const bool packed = s->transposed || (s->k > PANEL && positions >= 3 * MR) || y_step * x_step * c_step < s->y.taps * s->x.taps * s->c;
    const int64_t per_image = s->y.size * s->x.size * s->c + s->out_h * s->out_row;
    int64_t images = max64(BLOCK / per_image / MR_NARROW, 1) * MR_NARROW;
    if (s->pool) {
        const int64_t outputs = s->out_h * s->out_row;
        images = min64(images, max64(BLOCK / outputs, 1));
        s->out = space + SPACE - images * outputs;
    }
    bool first = true;
    for (int64_t c = 0; c < s->c; c += c_step)
        for (int64_t y = 0; y < max64(s->y.taps, 1); y += y_step)
            for (int64_t x = 0; x < max64(s->x.taps, 1); x += x_step) {
                const group g = {y, min64(y + y_step, s->y.taps), x, min64(x + x_step, s->x.taps), c, min64(c + c_step, s->c)};
                const bool last = g.c1 == s->c && g.y1 == s->y.taps && g.x1 == s->x.taps;
                for (int64_t p = mine.p0; p < mine.p1; p += together) {
                    const int64_t pe = min64(p + together, mine.p1), size = group_rows(&g) * PANEL;
                    if (packed)
                        for (int64_t q = p; q < pe; q++)
                            pack_group(s, &g, q * PANEL, (int)min64(PANEL, s->k - q * PANEL), space + (q - p) * size);
                    for (int64_t n = mine.n0; n < mine.n1; n += images) {
                        if (fnn_interrupted(part)) return;
                        const int64_t ne = min64(n + images, mine.n1);
                        if (s->pool) s->first = n;
                        for (int64_t q = p; q < pe; q++) {
                            const int64_t k0 = q * PANEL;
                            const int columns = (int)min64(PANEL, s->k - k0), nv = (columns + VL - 1) / VL;
                            tile t = {.as = 1, .bs = packed ? PANEL : s->w_row, .last = columns - (nv - 1) * VL,
                                      .b = packed ? space + (q - p) * size : s->w + k0,
                                      .c = s->out + s->y.out0 * s->out_row + s->x.out0 * s->k + k0,
                                      .finish = first ? STORE : ADD, .bias = last && s->bias ? s->bias + k0 : NULL,
                                      .relu = last && s->relu};
                            run_panel(s, &g, &mine, n, ne, &t, nv);
                        }
                        if (s->pool) pool_block(s->pool, s->out, n, ne);
                    }
                }
                first = false;
            }
    if (s->activation != FNN_LINEAR) walk_activation(s, &mine, mine.n0, mine.n1);
}

/* ---- images of one channel, few filters ------------------------------------------------------- */

/* Filters that fill at most half of a vector would leave the other half empty, so two neighbouring pixels share one:
 * lane 2c + p is filter c of pixel p, and one load gives both pixels' input. */
typedef struct {
    ptrdiff_t row; /* in x, from a kernel row to the next */
    int64_t kh, kw, k;
    const float *w; /* of every tap a vector with each filter's weight twice */
    vf bias;
    bool relu;
    vi order; /* of filters and pixels in memory */
} pairing;

static bool in_pairs(const fnn_conv2d *f) { return VL >= 8 && f->c == 1 && 2 * f->k <= VL && f->sw == 1 && f->dw == 1; }

/* lane 2c + p of what is in memory as pixel p's filters c < k, or the other way round; the other lanes stay */
static vi pair_lanes(int64_t k, bool to_memory) {
    vi r = vi_iota();
    for (int p = 0; p < 2; p++)
        for (int c = 0; c < k; c++) {
            const int lane = 2 * c + p, place = p * (int)k + c;
            if (to_memory) r[place] = lane;
            else r[lane] = place;
        }
    return r;
}

/* `pixels` of an output row, two by two; up to the row's end there is room for `room` floats */
INLINE void run_pairs(const int pairs, const pairing *s, const float *x, int64_t pixels, int64_t room, float *out) {
    vf sum[MR_NARROW];
    const float *w = s->w;
    UNROLL for (int m = 0; m < pairs; m++) sum[m] = (vf){0};
    for (int64_t r = 0; r < s->kh; r++, x += s->row)
        for (int64_t q = 0; q < s->kw; q++, w += VL) {
            const vf tap = v_load(w);
            UNROLL for (int m = 0; m < pairs; m++) sum[m] = v_fma(v_set2(x + q + 2 * m), tap, sum[m]);
        }
    UNROLL for (int m = 0; m < pairs; m++) {
        const vf y = sum[m] + s->bias;
        sum[m] = v_permute(s->relu ? v_max((vf){0}, y) : y, s->order);
    }
    /* beyond its pixels a vector meets the next ones, which are stored later */
    const int width = 2 * (int)s->k;
    UNROLL for (int m = 0; m < pairs; m++, room -= width)
        store_part(out + m * width, sum[m], room >= VL ? VL : (int)min64(pixels - 2 * m, 2) * (int)s->k);
}

#if VL == 16
#define UP_TO_NARROW(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#else
#define UP_TO_NARROW(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#endif

/* an output row of ow pixels */
static void run_pair_row(const pairing *s, const float *x, int64_t ow, float *out) {
    const int64_t pairs = (ow + 1) / 2;
    const tiling cut = tile_rows(pairs, MR_NARROW);
    for (int64_t i = 0, done = 0, here; i < cut.tiles; i++, done += here, x += 2 * here, out += 2 * here * s->k) {
        here = cut.height + (i < cut.taller);
        const int64_t left = ow - 2 * done;
        switch (here) {
#define PAIRS(n) case n: run_pairs(n, s, x, left, left * s->k, out); break;
            UP_TO_NARROW(PAIRS)
        }
    }
}

/* Forward by whole images; false where there is no room, or a thread would have none of them. */
static bool forward_in_pairs(const fnn_conv2d_forward_args *a, const pooling *pool, fnn_part part) {
    const fnn_conv2d *f = &a->shape;
    const int64_t lines = (f->oh - 1) * f->sh + (f->kh - 1) * f->dh + 1, width = f->ow + f->kw; /* a float more than is used */
    const int64_t taps = f->kh * f->kw, outputs = f->oh * f->ow * f->k;
    if (!in_pairs(f) || f->n < part.n || taps * VL + lines * width + (pool ? outputs : 0) > SPACE) return false;
    float *const w = fnn_workspace(), *const frame = w + taps * VL;
    pairing s = {.row = f->dh * width, .kh = f->kh, .kw = f->kw, .k = f->k, .w = w,
                 .relu = a->relu, .order = pair_lanes(f->k, true)};
    const vi twice = vi_iota() >> 1;
    for (int64_t t = 0; t < taps; t++) v_store(w + t * VL, v_permute(v_load_n(a->w + t * f->k, (int)f->k), twice));
    s.bias = a->b ? v_permute(v_load_n(a->b, (int)f->k), twice) : (vf){0};
    const int64_t here = max64(min64(f->w, width - 1 - f->left), 0); /* floats of a row of x that are needed */
    memset(frame, 0, (size_t)(lines * width) * sizeof(float));
    int64_t n0, n1;
    fnn_range(f->n, 1, part, &n0, &n1);
    for (int64_t n = n0; n < n1; n++) {
        if (fnn_interrupted(part)) return true;
        for (int64_t y = 0; y < f->h && y + f->top < lines; y++)
            memcpy(frame + (y + f->top) * width + f->left, a->x + (n * f->h + y) * f->w, (size_t)here * sizeof(float));
        float *const out = pool ? w + SPACE - outputs : a->out + n * outputs;
        for (int64_t i = 0; i < f->oh; i++) run_pair_row(&s, frame + i * f->sh * width, f->ow, out + i * f->ow * f->k);
        if (pool) pool_block(pool, out, n, n + 1);
    }
    return true;
}

/* out[n, i, j] = b + sum over r, q of x[n, i*sh + r*dh - top, j*sw + q*dw - left] @ w[r, q]
 * x (N, H, W, C), w (KH, KW, C, K), b (K), out (N, OH, OW, K) */
KERNEL(conv2d_forward) {
    const fnn_conv2d *f = &a->shape;
    const pooling pool = {.shape = a->pool, .out = a->pooled, .wide = a->wide, .index = a->index};
    walk s = {
        .pool = a->pooled ? &pool : NULL,
        .in = a->x, .w = a->w, .bias = a->b, .out = a->out, .n = f->n, .c = f->c, .k = f->k, .out_h = f->oh,
        .out_row = f->ow * f->k, .kernel_w = f->kw, .w_row = f->k, .relu = a->relu,
        .y = {f->oh, 0, 1, f->h, f->sh, f->kh, -f->top, f->dh, 0, 1},
        .x = {f->ow, 0, 1, f->w, f->sw, f->kw, -f->left, f->dw, 0, 1},
    };
    if (!forward_in_pairs(a, s.pool, part)) run_walk(&s, part);
    return FNN_OK;
}

static int64_t gcd(int64_t a, int64_t b) { return b ? gcd(b, a % b) : a; }

/* The axis of the gradient's walk over inputs phase, phase + stride, ...: those kernel indices k with
 * (phase + pad - k * dilation) divisible by the stride, last one first. */
static axis backward_axis(int64_t size, int64_t phase, int64_t out, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
    const int64_t g = gcd(stride, dilation), every = stride / g;
    axis r = {.grid = (size - phase + stride - 1) / stride, .out0 = phase, .out_step = stride, .size = out, .in_step = 1,
              .d_step = dilation / g, .k_step = -every};
    int64_t k = 0;
    while (k < every && k < kernel && (phase + pad - k * dilation) % stride) k++;
    if (k >= kernel || (phase + pad - k * dilation) % stride) return r; /* no tap meets this phase */
    r.taps = (kernel - 1 - k) / every + 1;
    r.k0 = k + (r.taps - 1) * every;
    r.d0 = floor_div(phase + pad - r.k0 * dilation, stride);
    return r;
}

/* ---- the gradient of x with few channels ----------------------------------------------------- */

/* Channels would leave lanes empty, so lanes run along the pixels of dout: the products of all pixels
 * with a tap's weights are added, where the tap puts them, to planes of one channel and one phase of
 * the stride each.  This is done for a band of rows of dx at a time. */
typedef struct { int64_t rows, depth, pixels, plane_h, plane_w, space; } band;

enum { BAND_TAPS = 4 * MR, BAND_DEPTH = 512 }; /* rows of products held at a time, terms of their sums */

/* What a band of this many rows of dx needs at most. */
static band cut_band(const fnn_conv2d *f, int64_t rows) {
    const int64_t reach_y = (f->kh - 1) * f->dh, reach_x = (f->kw - 1) * f->dw, lines = (rows - 1 + reach_y) / f->sh + 2;
    band b = {.rows = rows, .depth = min64(f->k, BAND_DEPTH), .plane_h = lines + reach_y / f->sh};
    const int64_t vectors = (f->ow + VL - 1) / VL * VL; /* so that no store reaches into the line that is read next */
    b.plane_w = max64(max64(f->ow + reach_x / f->sw, (f->w - 1 + f->left) / f->sw + 1), vectors);
    b.pixels = (min64(lines, f->oh) * f->ow + PANEL - 1) / PANEL * PANEL;
    b.space = (b.depth + BAND_TAPS) * b.pixels + f->c * f->sh * f->sw * b.plane_h * b.plane_w + VL;
    return b;
}

/* As many rows as fit the workspace, shared evenly by the threads where there are few images; 0: none fit. */
static band largest_band(const fnn_conv2d *f, int threads) {
    int64_t rows = (min64(f->n, threads) * f->h + threads - 1) / threads;
    while (rows > 0 && cut_band(f, rows).space > SPACE) rows /= 2;
    return rows ? cut_band(f, rows) : (band){0};
}

/* to += from */
static void add_line(const float *from, int64_t n, float *to) {
    int64_t j = 0;
    for (; j + VL <= n; j += VL) v_store(to + j, v_load(to + j) + v_load(from + j));
    if (j < n) v_store(to + j, v_load(to + j) + v_select(vi_first((int)(n - j)), v_load(from + j), (vf){0}));
}

/* Rows [y0, y1) of one image's dx. */
static void run_band(const fnn_conv2d_backward_x_args *a, const band *b, int64_t image, int64_t y0, int64_t y1, float *space) {
    const fnn_conv2d *f = &a->shape;
    const int64_t i0 = min64(max64(floor_div(y0 + f->top - (f->kh - 1) * f->dh, f->sh), 0), f->oh);
    const int64_t i1 = min64((y1 - 1 + f->top) / f->sh + 1, f->oh), pixels = (i1 - i0) * f->ow;
    const int64_t plane = b->plane_h * b->plane_w, phases = f->sh * f->sw, weights = f->kh * f->kw * f->c;
    float *products = space + b->depth * b->pixels, *planes = products + BAND_TAPS * b->pixels;
    memset(planes, 0, (size_t)(f->c * phases * plane) * sizeof(float));
    for (int64_t k = 0; k < f->k; k += b->depth) {
        const run whole = {0, 0, min64(b->depth, f->k - k)};
        const float *dout = a->dout + (image * f->oh + i0) * f->ow * f->k + k;
        for (int64_t p = 0; p < pixels; p += PANEL)
            FN(pack_transposed)(dout + p * f->k, f->k, whole.k, (int)min64(PANEL, pixels - p), space + p * whole.k);
        for (int64_t w0 = 0; w0 < weights; w0 += BAND_TAPS) {
            const int64_t w1 = min64(w0 + BAND_TAPS, weights);
            for (int64_t p = 0; p < pixels; p += PANEL) {
                tile t = {.a = a->w + w0 * f->k + k, .as = 1, .b = space + p * whole.k, .bs = PANEL, .c = products + p,
                          .cs = b->pixels, .runs = &whole, .n_runs = 1, .last = VL};
                FN(run_tiles)(&t, w1 - w0, f->k, pixels - p > VL ? 2 : 1, ROWS);
            }
            float *to = NULL;
            for (int64_t w = w0, c = w0 % f->c; w < w1; w++, to += phases * plane) {
                if (w == w0 || c == f->c) {
                    c = w == w0 ? c : 0;
                    const int64_t y = w / f->c / f->kw * f->dh, x = w / f->c % f->kw * f->dw;
                    to = planes + (c * phases + y % f->sh * f->sw + x % f->sw) * plane + y / f->sh * b->plane_w + x / f->sw;
                }
                c++;
                for (int64_t i = 0; i < i1 - i0; i++)
                    add_line(products + (w - w0) * b->pixels + i * f->ow, f->ow, to + i * b->plane_w);
            }
        }
    }
    for (int64_t y = y0; y < y1; y++) {
        const int64_t from_y = y + f->top - i0 * f->sh, line = (image * f->h + y) * f->w * f->c;
        float *dx = a->dx + line;
        for (int64_t c = 0; c < f->c; c++) {
            const float bias = a->b ? a->b[c] : 0;
            for (int64_t phase = 0; phase < min64(f->sw, f->w); phase++) {
                const int64_t from_x = phase + f->left;
                const float *from = planes + (c * phases + from_y % f->sh * f->sw + from_x % f->sw) * plane +
                                    from_y / f->sh * b->plane_w + from_x / f->sw;
                for (int64_t x = phase; x < f->w; x += f->sw, from++) {
                    const float sum = *from + bias;
                    dx[x * f->c + c] = a->relu && sum < 0 ? 0 : sum;
                }
            }
        }
        if (a->activation != FNN_LINEAR)
            FN(activate_backward)(a->activation, a->slope, a->saved + line, dx, f->w * f->c);
    }
}

static void run_bands(const fnn_conv2d_backward_x_args *a, const band *b, fnn_part part) {
    const fnn_conv2d *f = &a->shape;
    const int64_t bands = (f->h + b->rows - 1) / b->rows;
    int64_t lo, hi;
    fnn_range(f->n * bands, 1, part, &lo, &hi);
    for (int64_t u = lo; u < hi && !fnn_interrupted(part); u++) {
        const int64_t y0 = u % bands * b->rows;
        run_band(a, b, u / bands, y0, min64(y0 + b->rows, f->h), fnn_workspace());
    }
}

/* ---- the gradient of x, several pixels in a vector ------------------------------------------ */

/* With few channels neighbouring pixels of dx share a vector: they are one pixel of all their channels, and a pixel of
 * dout meets some of these, with weights of other taps for each. */
typedef struct { int64_t pixels, first, taps; double use; /* of the lanes */ } folding;

static folding fold(const fnn_conv2d *f, int64_t pixels) {
    folding r = {.pixels = pixels, .first = floor_div(f->left - (f->kw - 1) * f->dw, f->sw)};
    r.taps = (pixels - 1 + f->left) / f->sw - r.first + 1;
    int64_t met = 0;
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t q = 0; q < f->kw; q++) met += (p + f->left - q * f->dw) % f->sw == 0;
    const int64_t folded = f->w / pixels, rest = f->w % pixels * f->kw / f->sw; /* the last ones are by themselves */
    r.use = (double)((folded * met + rest) * f->c) / (double)((folded * r.taps + rest) * VL);
    return r;
}

static folding best_folding(const fnn_conv2d *f) {
    folding best = {0, 0, 0, 0};
    for (int64_t pixels = f->sw; pixels * f->c <= VL && pixels <= f->w; pixels += f->sw) {
        const folding one = fold(f, pixels);
        if (one.use > best.use) best = one;
    }
    return best;
}

/* What each tap of the folded pixel has for its channels, in vectors; and for all of them the bias. */
static void fold_weights(const fnn_conv2d_backward_x_args *a, const folding *s, const axis *y, float *to, float *bias) {
    const fnn_conv2d *f = &a->shape;
    memset(to, 0, (size_t)(y->taps * s->taps * f->k) * sizeof(vf));
    for (int64_t p = 0; p < s->pixels; p++) {
        for (int64_t q = 0; q < f->kw; q++) {
            const int64_t reach = p + f->left - q * f->dw, t = floor_div(reach, f->sw) - s->first;
            for (int64_t ty = 0; ty < y->taps && reach % f->sw == 0; ty++) {
                const float *w = a->w + ((y->k0 + ty * y->k_step) * f->kw + q) * f->c * f->k;
                float *lanes = to + (ty * s->taps + t) * f->k * VL + p * f->c;
                for (int64_t c = 0; c < f->c; c++)
                    for (int64_t k = 0; k < f->k; k++) lanes[k * VL + c] = *w++;
            }
        }
        if (a->b) memcpy(bias + p * f->c, a->b, (size_t)f->c * sizeof(float));
    }
}

/* forward: out[n, i, j] += x[n, i*sh + r*dh - top, ...] @ w[r, q];  dx[n, y, x] = sum of dout[n, i, j] @ w[r, q].T
 * over i*sh + r*dh - top = y, j*sw + q*dw - left = x; plus b (C) where this is a transposed convolution */
KERNEL(conv2d_backward_x) {
    const fnn_conv2d *f = &a->shape;
    folding wide = best_folding(f);
    /* with less of the lanes in use the products of whole bands are faster */
    if (wide.use < 0.6 || f->kh * wide.taps * f->k > SPACE_ROWS) wide.pixels = 0;
    if (!wide.pixels && f->c < VL && f->oh * f->ow >= PANEL) {
        const band b = largest_band(f, part.n);
        if (b.rows) {
            run_bands(a, &b, part);
            return FNN_OK;
        }
    }
    const int64_t start = wide.pixels ? f->w / wide.pixels * wide.pixels : 0;
    for (int64_t py = 0; py < min64(f->sh, f->h); py++) {
        walk s = {
            .in = a->dout, .out = a->dx, .n = f->n, .c = f->k, .out_h = f->h, .out_row = f->w * f->c, .relu = a->relu,
            .activation = a->activation, .slope = a->slope, .saved = a->saved,
            .y = backward_axis(f->h, py, f->oh, f->kh, f->sh, f->top, f->dh),
        };
        if (wide.pixels) {
            float *const w = fnn_workspace(), *const bias = w + SPACE - VL;
            fold_weights(a, &wide, &s.y, w, bias);
            s.w = w, s.bias = a->b ? bias : NULL, s.k = wide.pixels * f->c, s.w_row = VL;
            s.x = (axis){f->w / wide.pixels, 0, 1, f->ow, wide.pixels / f->sw, wide.taps, wide.first, 1, 0, 1};
            run_walk(&s, part);
        }
        s.w = a->w, s.bias = a->b, s.k = f->c, s.kernel_w = f->kw, s.transposed = true;
        for (int64_t px = 0; px < min64(f->sw, f->w); px++) {
            s.x = backward_axis(f->w, px, f->ow, f->kw, f->sw, f->left, f->dw);
            const int64_t before = (start - px + f->sw - 1) / f->sw;
            s.x.grid -= before, s.x.out0 += before * f->sw, s.x.d0 += before;
            if (s.x.grid > 0) run_walk(&s, part);
        }
    }
    return FNN_OK;
}

/* ---- the gradient of w ----------------------------------------------------------------------- */

/* The outputs [lo, hi) of an axis whose input for a tap, i * stride + offset, is inside. */
static void outputs_inside(int64_t out, int64_t size, int64_t stride, int64_t offset, int64_t *lo, int64_t *hi) {
    *lo = offset < 0 ? min64((-offset + stride - 1) / stride, out) : 0;
    *hi = offset >= size ? 0 : min64((size - 1 - offset) / stride + 1, out);
    if (*hi < *lo) *hi = *lo;
}

/* How dw (KH, KW, C, K) is cut into tiles.  A tile's rows are neighbouring floats of x: of one tap, or of a kernel row
 * where no tap of it is ever outside; with few channels x gets a frame for that.  Where a kernel row is short they are of
 * any taps.  With few filters two pixels share a vector. */
typedef struct { bool framed, scattered, paired; int64_t depth, groups, tiles; } cut;

static cut cut_weights(const fnn_conv2d *f) {
    const int64_t frame = ((f->kh - 1) * f->dh + 1) * ((f->ow - 1) * f->sw + (f->kw - 1) * f->dw + 1) * f->c;
    const bool framed = f->c < MR && frame <= SPACE, inside = f->left == 0 && (f->ow - 1) * f->sw + f->kw <= f->w;
    const bool joined = (framed || inside) && f->dw == 1, paired = framed && in_pairs(f);
    const int64_t tallest = f->k <= VL ? MR_NARROW : MR;
    const bool scattered = paired || (framed && !(joined && f->kw * f->c > tallest / 2));
    const int64_t depth = scattered ? f->kh * f->kw * f->c : joined ? f->kw * f->c : f->c;
    return (cut){framed, scattered, paired, depth, f->kh * f->kw * f->c / depth, (depth + tallest - 1) / tallest};
}

/* Where weights [r0, r1) of a filter meet x, from the first one on. */
static void weight_offsets(const fnn_conv2d *f, int64_t r0, int64_t r1, ptrdiff_t *offsets) {
    int64_t c = r0 % f->c, q = r0 / f->c % f->kw, r = r0 / f->c / f->kw;
    for (int64_t w = r0; w < r1; w++) {
        *offsets++ = (r * f->dh * f->w + q * f->dw) * f->c + c;
        if (++c == f->c) c = 0, q++;
        if (q == f->kw) q = 0, r++;
    }
}

/* c = a tile of dw of these runs of pixels; or c += it.  Even and odd pixels are summed apart. */
INLINE void sum_pairs(const int rows, const tile *t, int64_t k, vi lanes) {
    vf sum[MR_NARROW];
    UNROLL for (int m = 0; m < rows; m++) sum[m] = (vf){0};
    for (const run *r = t->runs; r < t->runs + t->n_runs; r++) {
        const float *x[MR_NARROW], *d = t->b + r->b;
        UNROLL for (int m = 0; m < rows; m++) x[m] = t->a + r->a + t->rows[m];
        int64_t j = 0;
        for (; j + 2 <= r->k; j += 2, d += 2 * k) {
            const vf both = v_permute(v_load_n(d, 2 * (int)k), lanes);
            UNROLL for (int m = 0; m < rows; m++) sum[m] = v_fma(v_set2(x[m] + j), both, sum[m]);
        }
        if (j < r->k) {
            const vf even = v_permute(v_load_n(d, (int)k), lanes);
            UNROLL for (int m = 0; m < rows; m++) sum[m] = v_fma(v_set1(x[m][j]), even, sum[m]);
        }
    }
    const vi even = vi_iota() * 2 & (VL - 1);
    UNROLL for (int m = 0; m < rows; m++) {
        float *const c = t->c + m * k;
        vf total = v_permute(sum[m], even) + v_permute(sum[m], even + 1);
        if (t->finish == ADD) total += v_load_n(c, (int)k);
        v_store_n(c, total, (int)k);
    }
}

static void run_sum_pairs(int64_t rows, const tile *t, int64_t k, vi lanes) {
    switch (rows) {
#define SUM_PAIRS(n) case n: sum_pairs(n, t, k, lanes); break;
        UP_TO_NARROW(SUM_PAIRS)
    }
}

/* Tiles [u0, u1) of dw, stored or added to, from n images; space: to pack dout, or NULL. */
static void sum_images(const fnn_conv2d *f, const cut *cut, const float *x, const float *dout, int64_t n, int64_t u0,
                       int64_t u1, finish finish, float *space, float *dw) {
    const int64_t row = f->w * f->c, image = f->h * row, pixels = f->oh * f->ow;
    const bool packed = space && f->k > PANEL && n * pixels * PANEL <= SPACE && !cut->scattered && u1 - u0 >= 4;
    const vi lanes = cut->paired ? pair_lanes(f->k, false) : (vi){0};
    for (int64_t k = 0; k < f->k; k += PANEL) {
        const int columns = (int)min64(PANEL, f->k - k), nv = (columns + VL - 1) / VL;
        if (packed) FN(pack)(dout + k, f->k, n * pixels, columns, space);
        const ptrdiff_t bs = packed ? PANEL : f->k;
        for (int64_t u = u0, next; u < u1; u = next) {
            const int64_t group = u / cut->tiles, tap = cut->scattered ? 0 : group * cut->depth / f->c;
            const int64_t dy = tap / f->kw * f->dh - f->top, dx = tap % f->kw * f->dw - f->left;
            next = min64((group + 1) * cut->tiles, u1);
            int64_t i0 = 0, i1 = f->oh, j0 = 0, j1 = f->ow;
            if (!cut->scattered) {
                outputs_inside(f->oh, f->h, f->sh, dy, &i0, &i1);
                outputs_inside(f->ow, f->w, f->sw, dx, &j0, &j1);
            }
            const bool images = n > j1 - j0 && !cut->paired; /* the longer runs */
            const int64_t lines = i1 - i0, total = lines > 0 && j1 > j0 ? lines * (images ? j1 - j0 : n) : 0;
            run runs[RUNS];
            tile t = {.as = images ? image : f->sw * f->c, .b = packed ? space : dout + k, .bs = images ? pixels * bs : bs,
                      .cs = f->k, .count = 1, .runs = runs, .last = columns - (nv - 1) * VL, .finish = finish};
            int64_t done = 0, i = i0, o = 0;
            do {
                for (t.n_runs = 0; done < total && t.n_runs < RUNS; done++, t.n_runs++) {
                    const int64_t from = images ? 0 : o, j = images ? j0 + o : j0;
                    runs[t.n_runs] = (run){from * image + i * f->sh * row + j * f->sw * f->c,
                                           (from * pixels + i * f->ow + j) * bs, images ? n : j1 - j0};
                    if (++i == i1) i = i0, o++;
                }
                for (int64_t v = u; v < next; v++) {
                    const int64_t q = v % cut->tiles, r0 = cut->depth * q / cut->tiles, r1 = cut->depth * (q + 1) / cut->tiles;
                    ptrdiff_t offsets[MR_NARROW];
                    if (cut->scattered) weight_offsets(f, r0, r1, offsets);
                    t.rows = offsets;
                    t.a = x + dy * row + dx * f->c + (cut->scattered ? 0 : r0);
                    t.c = dw + (group * cut->depth + r0) * f->k + k;
                    if (cut->paired) run_sum_pairs(r1 - r0, &t, f->k, lanes);
                    else FN(tiles)[r1 - r0][nv][cut->scattered ? ROWS : TRANSPOSED](&t);
                }
                t.finish = ADD;
            } while (done < total);
        }
    }
}

/* One image with a frame of zeros, so that every tap is inside: a band of rows at a time. */
static void sum_framed(const fnn_conv2d *f, const cut *cut, const float *x, const float *dout, int64_t u0, int64_t u1,
                       finish finish, float *space, float *dw) {
    const int64_t reach_y = (f->kh - 1) * f->dh + 1, reach_x = (f->kw - 1) * f->dw + 1;
    const int64_t width = (f->ow - 1) * f->sw + reach_x, line = width * f->c;
    const int64_t lines = max64((SPACE / line - reach_y) / f->sh + 1, 1); /* of dout in a band */
    const int64_t here = max64(min64(f->w, width - f->left), 0) * f->c; /* floats of a row of x that are needed */
    for (int64_t i = 0; i < f->oh; i += lines, finish = ADD) {
        fnn_conv2d band = *f;
        band.oh = min64(lines, f->oh - i);
        band.h = (band.oh - 1) * f->sh + reach_y;
        band.w = width;
        band.top = band.left = 0;
        memset(space, 0, (size_t)(band.h * line) * sizeof(float));
        for (int64_t r = 0; r < band.h; r++) {
            const int64_t y = i * f->sh + r - f->top;
            if (y >= 0 && y < f->h) memcpy(space + r * line + f->left * f->c, x + y * f->w * f->c, (size_t)here * sizeof(float));
        }
        sum_images(&band, cut, space, dout + i * f->ow * f->k, 1, u0, u1, finish, NULL, dw);
    }
}

/* dw's tiles [u0, u1) and db's columns [k0, k1) from images [n0, n1) */
static void sum_weights(const fnn_conv2d_backward_w_args *a, int64_t n0, int64_t n1, int64_t u0, int64_t u1, int64_t k0,
                        int64_t k1, float *dw, float *db, fnn_part part) {
    const fnn_conv2d *f = &a->shape;
    const cut cut = cut_weights(f);
    const int64_t in = f->h * f->w * f->c, out = f->oh * f->ow * f->k;
    const bool framed = cut.framed && (f->top || f->left || (f->oh - 1) * f->sh + (f->kh - 1) * f->dh >= f->h ||
                                     (f->ow - 1) * f->sw + (f->kw - 1) * f->dw >= f->w);
    const int64_t images = framed ? 1 : max64(min64(BLOCK / (in + out), SPACE / (f->oh * f->ow * PANEL)), 1);
    const int64_t summed = a->transposed ? f->h * f->w : f->oh * f->ow, width = a->transposed ? f->c : f->k;
    finish finish = STORE;
    for (int64_t n = n0; n < n1; n += images, finish = ADD) {
        if (fnn_interrupted(part)) return;
        const int64_t some = min64(images, n1 - n);
        const float *x = a->x + n * in, *dout = a->dout + n * out;
        if (framed) sum_framed(f, &cut, x, dout, u0, u1, finish, fnn_workspace(), dw);
        else sum_images(f, &cut, x, dout, some, u0, u1, finish, fnn_workspace(), dw);
        if (db) FN(column_sums)(a->transposed ? x : dout, some * summed, width, k0, k1, finish, 0, db);
    }
}

/* forward: out[n, i, j] = b + sum of x[n, i*sh + r*dh - top, j*sw + q*dw - left] @ w[r, q]
 * dw[r, q] = sum over n, i, j of x[n, i*sh + r*dh - top, j*sw + q*dw - left].T @ dout[n, i, j], db = sum of dout */
KERNEL(conv2d_backward_w) {
    const fnn_conv2d *f = &a->shape;
    const cut cut = cut_weights(f);
    const int64_t units = cut.groups * cut.tiles, weights = f->kh * f->kw * f->c * f->k;
    const int64_t width = a->transposed ? f->c : f->k;
    int64_t lo, hi, k0, k1;
    const int64_t chunks = max64(a->chunks, 1), pieces = (part.n + chunks - 1) / chunks;
    int64_t mine, end;
    fnn_range(chunks * pieces, 1, part, &mine, &end);
    for (; mine < end; mine++) { /* a piece of the tiles from a chunk of the images */
        const int64_t q = mine / pieces;
        const fnn_part piece = {.share = (int)(mine % pieces), .n = (int)pieces};
        fnn_range(units, 1, piece, &lo, &hi);
        fnn_range(width, VL, piece, &k0, &k1);
        float *const dw = a->chunks ? a->scratch + q * (weights + width) : a->dw, *const db = a->chunks ? dw + weights : a->db;
        sum_weights(a, f->n * q / chunks, f->n * (q + 1) / chunks, lo, hi, k0, k1, dw, db, part);
    }
    return FNN_OK;
}
