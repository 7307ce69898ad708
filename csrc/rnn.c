/* Recurrent layers: the whole sequence forward, and back through time, for a share of the batch.
 *
 * A step takes one time of all sequences: it is a product with the packed recurrent weights, which stay in
 * cache, and the cell's nonlinearity over its result.  Sequences do not meet, so threads split the batch and
 * never wait inside.  All times of a sequence lie together: were those of one step, a thread's CPU would read
 * ahead, past the end of its sequences, into what another writes.  The gradients of the weights are products
 * over all times at once, after the sweep back. */
#include "tile.h"
#include "vecmath.h"

enum {
    SPACE = FNN_WORKSPACE / 4,
    KC = 256, /* rows of a packed panel that are taken at a time: with those of a they stay in L1 */
    PACKED = 24 * PANEL, /* columns: for so many x and the states are packed, for fewer the tiles read them too few times */
    MC = 480, /* rows of the weights' gradients that are taken at a time: what they are made of stays in L2 */
};

/* A matrix (k, n), or its transpose (n, k), in rows of `stride`; packed in panels where there is room. */
typedef struct {
    const float *w;
    int64_t k, n, stride;
    bool transposed;
    float *packed;
} weights;

static void pack_panel(const weights *w, int64_t k0, int64_t k1, int64_t j, float *to) {
    const int columns = (int)min64(PANEL, w->n - j);
    if (w->transposed) FN(pack_transposed)(w->w + j * w->stride + k0, w->stride, k1 - k0, columns, to);
    else FN(pack)(w->w + k0 * w->stride + j, w->stride, k1 - k0, columns, to);
}

/* Takes `size` floats from the space, and keeps what follows aligned. */
static float *take(int64_t size, float **space, int64_t *room) {
    float *taken = *space;
    size = (size + VL - 1) / VL * VL;
    *space += size;
    *room -= size;
    return taken;
}

/* Takes from the space what the packed matrix needs, if that leaves a quarter for the others. */
static weights prepare(const float *w, int64_t k, int64_t n, int64_t stride, bool transposed, bool few, float **space, int64_t *room) {
    weights m = {w, k, n, stride, transposed, NULL};
    const int64_t panels = (n + PANEL - 1) / PANEL, size = panels * PANEL * k;
    if ((few && !transposed) || size > *room - SPACE / 4) return m;
    m.packed = take(size, space, room);
    for (int64_t p = 0; p < panels; p++) pack_panel(&m, 0, k, p * PANEL, m.packed + p * PANEL * k);
    return m;
}

/* c (rows, n) = a (rows, k) @ w, ended as a tile is; ADD begins with c, ADD_SCALED adds c to the sum */
static void multiply(const weights *w, float *space, int64_t room, const float *a, ptrdiff_t as, int64_t rows, float *c, ptrdiff_t cs,
                     finish finish, const float *bias) {
    const bool direct = !w->packed && !w->transposed && rows <= 4; /* a short tile streams w as it lies */
    const int64_t wide = direct ? FN(tile_widest)[rows] * VL : PANEL;
    /* equal blocks of k: where each is added by itself, they must not depend on the room that a thread has left */
    const int64_t most = w->packed || finish == ADD_SCALED ? KC : room / PANEL, blocks = direct ? 1 : (w->k + most - 1) / most;
    const int64_t kb = (w->k + blocks - 1) / blocks;
    for (int64_t j = 0; j < w->n; j += wide)
        for (int64_t k = 0; k < w->k; k += kb) {
            const run all = {0, 0, min64(kb, w->k - k)};
            const int columns = (int)min64(wide, w->n - j), nv = (columns + VL - 1) / VL;
            const float *b = direct ? w->w + j : w->packed + j * w->k + k * PANEL;
            if (!direct && !w->packed) {
                pack_panel(w, k, k + all.k, j, space);
                b = space;
            }
            tile t = {.a = a + k, .as = 1, .b = b, .bs = direct ? w->stride : PANEL, .c = c + j, .cs = cs, .runs = &all, .n_runs = 1,
                      .last = columns - (nv - 1) * VL, .finish = k > 0 && finish == STORE ? ADD : finish, .scale = 1,
                      .bias = k + all.k == w->k && bias ? bias + j : NULL};
            FN(run_tiles)(&t, rows, as, nv, ROWS);
        }
}

static int gates_of(fnn_cell cell) { return cell == FNN_LSTM ? 4 : cell == FNN_GRU ? 3 : 1; }

/* The cells do their work in two short loops: of one long chain of operations too few fit into the CPU at once. */

/* i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of z;  c = f*c_prev + i*g;  h = o*tanh(c) */
static void lstm_cell(float *z, const float *before, int64_t h, float *c, float *tanh_c, float *out) {
    for (int64_t j = 0; j < h; j += VL) {
        const int n = (int)min64(VL, h - j);
        const vf i = v_sigmoid(load_part(z + j, n)), f = v_sigmoid(load_part(z + h + j, n)), g = v_tanh(load_part(z + 2 * h + j, n));
        store_part(z + j, i, n), store_part(z + h + j, f, n), store_part(z + 2 * h + j, g, n);
        store_part(c + j, v_fma(f, load_part(before + j, n), i * g), n);
    }
    for (int64_t j = 0; j < h; j += VL) {
        const int n = (int)min64(VL, h - j);
        const vf o = v_sigmoid(load_part(z + 3 * h + j, n)), t = v_tanh(load_part(c + j, n));
        store_part(z + 3 * h + j, o, n), store_part(tanh_c + j, t, n), store_part(out + j, o * t, n);
    }
}

/* r, u = sigmoid of z;  n = tanh(z_n + r*hn);  h = (1 - u)*n + u*h_prev */
static void gru_cell(float *z, const float *hn, const float *before, int64_t h, float *out) {
    FN(activate)(FNN_SIGMOID, 0, z, z, 2 * h);
    for (int64_t j = 0; j < h; j += VL) {
        const int lanes = (int)min64(VL, h - j);
        const vf r = load_part(z + j, lanes), u = load_part(z + h + j, lanes);
        const vf n = v_tanh(v_fma(r, load_part(hn + j, lanes), load_part(z + 2 * h + j, lanes)));
        store_part(z + 2 * h + j, n, lanes);
        store_part(out + j, v_fma(u, load_part(before + j, lanes) - n, n), lanes);
    }
}

/* h = tanh(z) or max(z, 0) */
static void rnn_cell(bool relu, int64_t h, float *z) {
    for (int64_t j = 0; j < h; j += VL) {
        const int n = (int)min64(VL, h - j);
        const vf x = load_part(z + j, n);
        store_part(z + j, relu ? v_max((vf){0}, x) : v_tanh(x), n);
    }
}

/* h' = cell(x[t] @ wx + b + h @ wh), from the first time to the last or the other way; a sequence that has ended
 * keeps its state.  States lie between the times: that of time t is hs[t + 1], of the other way hs[t].
 * x (N, T, I), wx (I, G*H), wh (H, G*H), b (G*H), gates (N, T, G*H), hs and cs (N, T+1, H),
 * extra (N, T, H): tanh(c) of an LSTM, h @ wh_n + bh of a GRU; out (N, T or 1, D), columns [column, +H) */
KERNEL(recurrent_forward) {
    const int64_t h = a->h, width = gates_of(a->cell) * h, states = (a->t + 1) * h, x_row = a->t * a->i, gates_row = a->t * width;
    const size_t row = (size_t)h * sizeof(float);
    int64_t n0, n1;
    fnn_range(a->n, 1, part, &n0, &n1);
    const int64_t rows = n1 - n0;
    if (!rows) return FNN_OK;
    float *space = fnn_workspace();
    int64_t room = SPACE;
    const bool gru = a->cell == FNN_GRU, few = rows <= 4;
    const int64_t joined = gru ? 2 * h : width; /* the columns of wh whose product is added to that of wx */
    const weights wh = prepare(a->wh, h, joined, width, false, few, &space, &room);
    const weights whn = gru ? prepare(a->wh + joined, h, h, width, false, few, &space, &room) : wh;
    const weights wx = prepare(a->wx, a->i, width, width, false, few, &space, &room);
    const int64_t first = a->reverse ? a->t * h : 0, last = a->reverse ? 0 : a->t * h;
    for (int64_t n = n0; n < n1; n++) {
        if (a->h0) memcpy(a->hs + n * states + first, a->h0 + n * h, row);
        else memset(a->hs + n * states + first, 0, row);
        if (a->c0) memcpy(a->cs + n * states + first, a->c0 + n * h, row);
        else if (a->cs) memset(a->cs + n * states + first, 0, row);
    }
    for (int64_t s = 0; s < a->t; s++) {
        if (fnn_interrupted(part)) return FNN_OK;
        const int64_t t = a->reverse ? a->t - 1 - s : s;
        const int64_t before = n0 * states + (t + a->reverse) * h, after = n0 * states + (t + !a->reverse) * h;
        const int64_t z_row = a->gates ? gates_row : states, extra_row = a->t * h;
        float *z = a->gates ? a->gates + n0 * gates_row + t * width : a->hs + after;
        float *extra = a->extra ? a->extra + n0 * extra_row + t * h : NULL;
        multiply(&wx, space, room, a->x + n0 * x_row + t * a->i, x_row, rows, z, z_row, STORE, a->b);
        if (s > 0 || a->h0) multiply(&wh, space, room, a->hs + before, states, rows, z, z_row, ADD, NULL); /* else h is 0 */
        if (gru) multiply(&whn, space, room, a->hs + before, states, rows, extra, extra_row, STORE, a->bh);
        for (int64_t n = 0; n < rows; n++, z += z_row) {
            const int64_t here = before + n * states, there = after + n * states;
            if (a->cell == FNN_LSTM) lstm_cell(z, a->cs + here, h, a->cs + there, extra + n * extra_row, a->hs + there);
            else if (gru) gru_cell(z, extra + n * extra_row, a->hs + here, h, a->hs + there);
            else rnn_cell(a->cell == FNN_RNN_RELU, h, z);
            const bool ended = a->lengths && t >= a->lengths[n0 + n];
            if (ended) {
                memcpy(a->hs + there, a->hs + here, row);
                if (a->cs) memcpy(a->cs + there, a->cs + here, row);
            }
            if (a->sequences) {
                float *out = a->out + ((n0 + n) * a->t + t) * a->d + a->column;
                if (ended) memset(out, 0, row);
                else memcpy(out, a->hs + there, row);
            }
        }
    }
    for (int64_t n = n0; n < n1 && !a->sequences; n++)
        memcpy(a->out + n * a->d + a->column, a->hs + n * states + last, row);
    return FNN_OK;
}

/* forward: h = tanh(z) or max(z, 0);  dz = dh * (1 - h^2) or dh where h > 0;  dh = 0 */
static void rnn_cell_backward(bool relu, const float *out, int64_t h, float *dh, float *dz) {
    for (int64_t j = 0; j < h; j += VL) {
        const int n = (int)min64(VL, h - j);
        const vf y = load_part(out + j, n), d = load_part(dh + j, n);
        store_part(dz + j, relu ? v_select(y > (vf){0}, d, (vf){0}) : d * (v_set1(1) - y * y), n);
        store_part(dh + j, (vf){0}, n);
    }
}

/* forward: c = f*c_prev + i*g, h = o*tanh(c);  dc += dh*o*(1 - tanh(c)^2), then dc *= f;  dh = 0 */
static void lstm_cell_backward(const float *z, const float *before, const float *tanh_c, int64_t h, float *dh, float *dc, float *dz) {
    const vf one = v_set1(1);
    for (int64_t j = 0; j < h; j += VL) {
        const int n = (int)min64(VL, h - j);
        const vf i = load_part(z + j, n), f = load_part(z + h + j, n), g = load_part(z + 2 * h + j, n);
        const vf o = load_part(z + 3 * h + j, n), t = load_part(tanh_c + j, n), d = load_part(dh + j, n);
        const vf e = v_fma(d * o, one - t * t, load_part(dc + j, n));
        store_part(dz + j, e * g * i * (one - i), n);
        store_part(dz + h + j, e * load_part(before + j, n) * f * (one - f), n);
        store_part(dz + 2 * h + j, e * i * (one - g * g), n);
        store_part(dz + 3 * h + j, d * t * o * (one - o), n);
        store_part(dc + j, e * f, n);
        store_part(dh + j, (vf){0}, n);
    }
}

/* forward: n = tanh(z_n + r*hn), h = (1 - u)*n + u*h_prev;  dh *= u;  dzh differs from dz by r in the part of n */
static void gru_cell_backward(const float *z, const float *hn, const float *before, int64_t h, float *dh, float *dz, float *dzh) {
    const vf one = v_set1(1);
    for (int64_t j = 0; j < h; j += VL) {
        const int lanes = (int)min64(VL, h - j);
        const vf r = load_part(z + j, lanes), u = load_part(z + h + j, lanes), n = load_part(z + 2 * h + j, lanes);
        const vf d = load_part(dh + j, lanes), dn = d * (one - u) * (one - n * n);
        const vf dr = dn * load_part(hn + j, lanes) * r * (one - r), du = d * (load_part(before + j, lanes) - n) * u * (one - u);
        store_part(dz + j, dr, lanes), store_part(dz + h + j, du, lanes), store_part(dz + 2 * h + j, dn, lanes);
        store_part(dzh + j, dr, lanes), store_part(dzh + h + j, du, lanes), store_part(dzh + 2 * h + j, dn * r, lanes);
        store_part(dh + j, d * u, lanes);
    }
}

/* forward: h' = cell(x[t] @ wx + b + h @ wh);  dz = cell'(dh'), dh = dh'' + dzh @ wh.T, dx[t] = dz @ wx.T,
 * back to the first step of a sequence, or to the next multiple of bptt_steps.  Nobody asks for the gradient of no h0.
 * dout as out, dz and dzh (N, T, G*H), dh and dc (N, H), dx as x or NULL */
KERNEL(recurrent_backward) {
    const int64_t h = a->h, width = gates_of(a->cell) * h, states = (a->t + 1) * h, gates_row = a->t * width;
    const size_t row = (size_t)h * sizeof(float);
    int64_t n0, n1;
    fnn_range(a->n, 1, part, &n0, &n1);
    const int64_t rows = n1 - n0;
    if (!rows) return FNN_OK;
    float *space = fnn_workspace();
    int64_t room = SPACE;
    /* what every step changes lies apart from what another thread changes then */
    const bool apart = rows * h <= SPACE / 16;
    float *const dhs = apart ? take(rows * h, &space, &room) : a->dh + n0 * h;
    float *const dcs = !a->dc ? NULL : apart ? take(rows * h, &space, &room) : a->dc + n0 * h;
    const weights wh = prepare(a->wh, width, h, width, true, false, &space, &room);
    const weights wx = a->dx ? prepare(a->wx, width, a->i, width, true, false, &space, &room) : wh;
    for (int64_t n = 0; n < rows; n++) {
        if (a->sequences) memset(dhs + n * h, 0, row);
        else memcpy(dhs + n * h, a->dout + (n0 + n) * a->d + a->column, row);
        if (dcs) memset(dcs + n * h, 0, row);
    }
    const bool own = a->bptt_steps && a->reverse && a->lengths; /* the windows of a sequence begin at its end */
    for (int64_t s = a->t - 1; s >= 0; s--) {
        if (fnn_interrupted(part)) return FNN_OK;
        const int64_t t = a->reverse ? a->t - 1 - s : s;
        for (int64_t n = n0; n < n1; n++) {
            const int64_t at = n * a->t + t, before = n * states + (t + a->reverse) * h, after = n * states + (t + !a->reverse) * h;
            float *dh = dhs + (n - n0) * h, *dz = a->dz + at * width, *dzh = a->dzh ? a->dzh + at * width : NULL;
            const float *z = a->gates ? a->gates + at * width : NULL;
            if (a->lengths && t >= a->lengths[n]) { /* the state went through: so does its gradient */
                memset(dz, 0, row * (size_t)gates_of(a->cell));
                if (dzh) memset(dzh, 0, row * (size_t)gates_of(a->cell));
                continue;
            }
            if (a->sequences) {
                const float *dout = a->dout + at * a->d + a->column;
                for (int64_t j = 0; j < h; j += VL) {
                    const int lanes = (int)min64(VL, h - j);
                    store_part(dh + j, load_part(dh + j, lanes) + load_part(dout + j, lanes), lanes);
                }
            }
            if (a->cell == FNN_LSTM) lstm_cell_backward(z, a->cs + before, a->extra + at * h, h, dh, dcs + (n - n0) * h, dz);
            else if (a->cell == FNN_GRU) gru_cell_backward(z, a->extra + at * h, a->hs + before, h, dh, dz, dzh);
            else rnn_cell_backward(a->cell == FNN_RNN_RELU, a->hs + after, h, dh, dz);
        }
        const float *dz = a->dz + n0 * gates_row + t * width, *dzh = a->dzh ? a->dzh + n0 * gates_row + t * width : dz;
        /* a GRU's dh may be larger by far than what is added: each term would be rounded as dh is */
        const bool ends = s > 0 ? !own && a->bptt_steps && s % a->bptt_steps == 0 : !a->h0;
        if (!ends) multiply(&wh, space, room, dzh, gates_row, rows, dhs, h, ADD_SCALED, NULL);
        if (a->dx) multiply(&wx, space, room, dz, gates_row, rows, a->dx + (n0 * a->t + t) * a->i, a->t * a->i, STORE, NULL);
        for (int64_t n = 0; n < rows && (ends || own); n++) {
            if (s > 0) {
                const int64_t length = a->lengths ? a->lengths[n0 + n] : a->t, step = own ? length - 1 - t : s;
                if (t >= length || step == 0 || step % a->bptt_steps != 0) continue;
                if (dcs) memset(dcs + n * h, 0, row);
            } else if (a->h0) {
                continue;
            }
            memset(dhs + n * h, 0, row);
        }
    }
    if (apart) memcpy(a->dh + n0 * h, dhs, row * (size_t)rows);
    if (apart && dcs) memcpy(a->dc + n0 * h, dcs, row * (size_t)rows);
    return FNN_OK;
}

/* Columns of a, k long, in groups of as equal a width as run_tiles has them: each is packed MR * k from the last. */
typedef struct {
    const float *a;
    ptrdiff_t stride;
    int64_t columns, groups, width, wider; /* the first `wider` groups have one more than `width` */
} grouped;

static grouped group(const float *a, ptrdiff_t stride, int64_t first, int64_t end) {
    const int64_t columns = end - first, groups = (columns + MR - 1) / MR;
    return (grouped){a + first, stride, columns, groups, groups ? columns / groups : 0, groups ? columns % groups : 0};
}

static void pack_groups(const grouped *a, const run *runs, int64_t n_runs, int64_t k, float *to) {
    for (const run *const end = runs + n_runs; runs < end; runs++)
        for (int64_t r = 0; r < runs->k; r++, to += MR) {
            const float *from = a->a + runs->a + r * a->stride;
            for (int64_t g = 0; g < a->groups - 1; g++) {
                memcpy(to + g * MR * k, from, MR * sizeof(float)); /* the next group's, too */
                from += a->width + (g < a->wider);
            }
            if (a->groups) memcpy(to + (a->groups - 1) * MR * k, from, (size_t)a->width * sizeof(float));
        }
}

/* t.c = a.T @ t.b, of some runs of rows, packed or where they lie */
static void multiply_transposed(tile t, const grouped *a, const float *packed, const run *runs, int64_t n_runs, int64_t k, int nv) {
    const run all = {0, 0, k};
    if (packed) {
        t.runs = &all, t.n_runs = 1;
        t.a = packed, t.as = MR, t.count = 1;
        for (int64_t g = 0; g < a->groups; g++, t.a += MR * k) {
            const int64_t height = a->width + (g < a->wider);
            FN(tiles)[height][nv][TRANSPOSED](&t);
            t.c += height * t.cs;
        }
    } else if (a->groups) {
        t.runs = runs, t.n_runs = n_runs;
        t.a = a->a, t.as = a->stride;
        FN(run_tiles)(&t, a->columns, 1, nv, TRANSPOSED);
    }
}

/* As many rows of x, dz and what was the state before as a panel takes, k in all; of the states n runs, of one
 * sequence each, without those that are 0. */
typedef struct {
    run hs[KC];
    int64_t first, n, k;
} stretch;

/* Of all times of all sequences the rows [pos, end), or as many of them; all states, if they are to be packed. */
static void find_stretch(const fnn_recurrent_backward_w_args *a, int64_t pos, int64_t end, bool all, stretch *to) {
    to->first = pos, to->n = 0, to->k = min64(KC, end - pos);
    for (int64_t done = 0, k; done < to->k; done += k, pos += k) {
        const int64_t n = pos / a->t, t = pos % a->t;
        k = min64(a->t - t, to->k - done);
        const int64_t first = !all && !a->reverse && t == 0, last = !all && a->reverse && t + k == a->t;
        if (k - first - last > 0)
            to->hs[to->n++] = (run){(pos + n + first + a->reverse) * a->h, (done + first) * PANEL, k - first - last};
    }
}

/* Columns of some rows of dz or dzh in a panel. */
static void pack_stretch(const stretch *rows, const float *dz, int64_t width, int columns, float *to) {
    dz += rows->first * width;
    FN(pack)(dz, width, rows->k, columns, to);
    /* the next panel meanwhile: no two rows of one are close enough for the CPU to guess it */
    for (int64_t k = 0; k < rows->k; k++) __builtin_prefetch(dz + k * width + PANEL, 0, 2);
}

/* What is summed for the weights: dwx (I, G*H), dwh (H, G*H), db and dbh (G*H) or NULL. */
typedef struct { float *dwx, *dwh, *db, *dbh; } sums;

/* dwx = x.T @ dz, dwh = hs.T @ dzh, db and dbh the sums of dz and dzh, over all times of sequences [n0, n1) at once;
 * of a block of dwx and below it dwh */
static void sum_sequences(const fnn_recurrent_backward_w_args *a, int64_t n0, int64_t n1, block s, sums to, fnn_part part) {
    const bool pack = s.n1 - s.n0 >= PACKED;
    /* with the zeros a sum may be 0 instead of -0: which are taken must not depend on the columns of a share */
    const bool all = a->h0 || a->width >= PACKED;
    float *const b = fnn_workspace(), *const space = b + KC * PANEL;
    stretch now;
    for (int64_t m = s.m0; m < s.m1 && s.n0 < s.n1; m += MC) {
        /* so many rows of dwx, then of dwh */
        const int64_t end = min64(m + MC, s.m1), x0 = min64(m, a->i), x1 = min64(end, a->i), first = n0 * a->t;
        const grouped xs = group(a->x, a->i, x0, x1), hs = group(a->hs, a->h, m - x0, end - x1);
        float *const xs_packed = pack ? space : NULL, *const hs_packed = pack ? space + xs.groups * MR * KC : NULL;
        for (int64_t pos = first; pos < n1 * a->t; pos += now.k) {
            if (fnn_interrupted(part)) return;
            find_stretch(a, pos, n1 * a->t, all, &now);
            const run x_rows = {pos * a->i, 0, now.k};
            const finish finish = pos > first ? ADD : STORE;
            if (pack) pack_groups(&xs, &x_rows, 1, now.k, xs_packed), pack_groups(&hs, now.hs, now.n, now.k, hs_packed);
            for (int64_t n = s.n0; n < s.n1; n += PANEL) {
                const int columns = (int)min64(PANEL, s.n1 - n), nv = (columns + VL - 1) / VL;
                tile t = {.b = b, .bs = PANEL, .cs = a->width, .last = columns - (nv - 1) * VL, .finish = finish};
                pack_stretch(&now, a->dz + n, a->width, columns, b);
                if (to.db && m == 0) FN(column_sums)(b, now.k, PANEL, 0, columns, finish, 0, to.db + n);
                t.c = to.dwx + x0 * a->width + n;
                multiply_transposed(t, &xs, xs_packed, &x_rows, 1, now.k, nv);
                if (n + columns > a->apart) {
                    pack_stretch(&now, a->dzh + n, a->width, columns, b);
                    if (to.dbh && m == 0)
                        FN(column_sums)(b, now.k, PANEL, n < a->apart ? a->apart - n : 0, columns, finish, 0, to.dbh + (n - a->apart));
                }
                t.c = to.dwh + (m - x0) * a->width + n;
                multiply_transposed(t, &hs, hs_packed, now.hs, now.n, now.k, nv);
            }
        }
    }
}

static void add_row(float *to, const float *from, int64_t n0, int64_t n1) {
    for (int64_t j = n0; j < n1; j += VL) {
        const int lanes = (int)min64(VL, n1 - j);
        store_part(to + j, load_part(to + j, lanes) + load_part(from + j, lanes), lanes);
    }
}

/* to += more, in a block as above */
static void add_sums(const fnn_recurrent_backward_w_args *a, block s, sums to, sums more) {
    if (s.m0 == s.m1) return; /* an empty share, which begins at row 0, too */
    for (int64_t m = s.m0; m < s.m1; m++) {
        if (m < a->i) add_row(to.dwx + m * a->width, more.dwx + m * a->width, s.n0, s.n1);
        else add_row(to.dwh + (m - a->i) * a->width, more.dwh + (m - a->i) * a->width, s.n0, s.n1);
    }
    if (to.db && s.m0 == 0) add_row(to.db, more.db, s.n0, s.n1);
    if (to.dbh && s.m0 == 0) add_row(to.dbh, more.dbh, max64(s.n0 - a->apart, 0), s.n1 - a->apart);
}

/* forward: z = x[t] @ wx + b and h @ wh (+ bh);  their gradients.  With parts half of the shares sum the
 * first half of the sequences, which they have swept, the others the rest; whoever comes last adds the two. */
KERNEL(recurrent_backward_w) {
    const int64_t height = a->i + a->h, size = height * a->width, half = a->parts ? a->n / 2 : a->n;
    const sums whole = {a->dwx, a->dwh, a->db, a->dbh};
    sums more = {NULL, NULL, NULL, NULL};
    if (a->parts) more = (sums){a->parts, a->parts + a->i * a->width, a->parts + size, a->parts + size + a->width};
    const bool halves = a->parts && part.n % 2 == 0;
    const int shares = halves ? part.n / 2 : part.n;
    block s = FN(product_share)(height, a->width, a->t * a->n, (fnn_part){.share = part.share % shares, .n = shares});
    if (!halves || part.share < shares) sum_sequences(a, 0, half, s, whole, part);
    if (a->parts && (!halves || part.share >= shares)) sum_sequences(a, half, a->n, s, more, part);
    if (halves) {
        if (__atomic_add_fetch(a->arrived, 1, __ATOMIC_ACQ_REL) < part.n) return FNN_OK;
        *a->arrived = 0;
        s = (block){0, height, 0, a->width, 0, 0};
    }
    if (a->parts) add_sums(a, s, whole, more);
    return FNN_OK;
}
