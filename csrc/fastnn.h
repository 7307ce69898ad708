/* What the compiled core offers: one op per kernel, its arguments as a struct, and the three things
 * that run ops: a table per instruction set, a thread pool, a plan.  Python checks; C trusts.
 *
 * An op is `int op(const void *args, fnn_part part)`: it computes share part.share of part.n of its
 * outputs, or of their sums.  No reduction's order depends on the shares, so the result has the same bits
 * for any number of threads.
 * Letters: N batch, I / O features in and out, C classes, M x K times K x N in a product. */
#ifndef FASTNN_H
#define FASTNN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FNN_WORKSPACE = 1 << 20 }; /* bytes of packing space per thread */
enum { FNN_LINE = 16 };           /* numbers in a cache line, which two threads had better not both write */

typedef struct fnn_team fnn_team;

typedef struct {
    int share, n;   /* which, of how many */
    int thread;     /* 0: the one that called */
    fnn_team *team; /* for fnn_interrupted(); NULL where nothing can interrupt */
} fnn_part;

typedef int (*fnn_fn)(const void *args, fnn_part part);

/* FNN_STOP: a loss is not finite; FNN_PAST_END: the clock is past the data.  The plan stops. */
enum { FNN_OK, FNN_STOP, FNN_PAST_END };

/* Every op, in one list: the enum, the tables and the names all come from it. */
#define FNN_OPS(X)                                                                                 \
    X(gemm)                                                                                        \
    X(dense_forward)                                                                               \
    X(dense_backward_x)                                                                            \
    X(dense_backward_w)                                                                            \
    X(conv2d_forward)                                                                              \
    X(conv2d_backward_x)                                                                           \
    X(conv2d_backward_w)                                                                           \
    X(sum_rows)                                                                                    \
    X(recurrent_forward)                                                                           \
    X(recurrent_backward)                                                                          \
    X(recurrent_backward_w)                                                                        \
    X(embedding_forward)                                                                           \
    X(embedding_backward)                                                                          \
    X(add)                                                                                         \
    X(maxpool2d_forward)                                                                           \
    X(maxpool2d_backward)                                                                          \
    X(avgpool2d_forward)                                                                           \
    X(avgpool2d_backward)                                                                          \
    X(upsample2d_forward)                                                                          \
    X(upsample2d_backward)                                                                         \
    X(batchnorm_sums)                                                                              \
    X(batchnorm_moments)                                                                           \
    X(batchnorm_gradients)                                                                         \
    X(batchnorm_forward)                                                                           \
    X(batchnorm_backward)                                                                          \
    X(batchnorm_update)                                                                            \
    X(relu_forward)                                                                                \
    X(relu_backward)                                                                               \
    X(leaky_relu_forward)                                                                          \
    X(leaky_relu_backward)                                                                         \
    X(sigmoid_forward)                                                                             \
    X(sigmoid_backward)                                                                            \
    X(tanh_forward)                                                                                \
    X(tanh_backward)                                                                               \
    X(gelu_forward)                                                                                \
    X(gelu_backward)                                                                               \
    X(dropout_forward)                                                                             \
    X(dropout_backward)                                                                            \
    X(softmax_forward)                                                                             \
    X(softmax_backward)                                                                            \
    X(softmax_cross_entropy)                                                                       \
    X(softmax_cross_entropy_soft)                                                                  \
    X(mean_squared_error)                                                                          \
    X(mean_absolute_error)                                                                         \
    X(huber)                                                                                       \
    X(binary_cross_entropy)                                                                        \
    X(chunk_sums)                                                                                  \
    X(add_chunk_sums)                                                                              \
    X(penalty_gradient)                                                                            \
    X(clip_gradient)                                                                               \
    X(gather_rows)                                                                                 \
    X(gather_labels)                                                                               \
    X(log_step)                                                                                    \
    X(advance)                                                                                     \
    X(delayed)                                                                                     \
    X(sgd_update)                                                                                  \
    X(rmsprop_update)                                                                              \
    X(adam_update)

#define FNN_ENUM(name) FNN_OP_##name,
typedef enum { FNN_OPS(FNN_ENUM) FNN_OP_COUNT } fnn_op;
#undef FNN_ENUM

/* ---- arguments ------------------------------------------------------------------------------ */

/* out (M, N) = op(a) @ op(b); transpose_a: a is (K, M); transpose_b: b is (N, K) */
typedef struct {
    const float *a, *b;
    float *out;
    int64_t m, n, k;
    bool transpose_a, transpose_b;
} fnn_gemm_args;

/* An activation that a product applies to its own output while it is in cache. */
typedef enum { FNN_LINEAR, FNN_RELU, FNN_LEAKY_RELU, FNN_SIGMOID, FNN_TANH, FNN_GELU, FNN_GELU_TANH } fnn_activation;

/* A product's sum of k terms is that of the sums of equal blocks: one block, or an even number as a rule, so that two
 * threads can have half of them each.  So many terms; so many blocks. */
enum { FNN_TERMS = 400, FNN_UNDIVIDED = 256 };
static inline int64_t fnn_block_terms(int64_t k) {
    const int64_t blocks = k <= FNN_UNDIVIDED ? 1 : (k + 2 * FNN_TERMS - 1) / (2 * FNN_TERMS) * 2;
    return k > 0 ? ((k + blocks - 1) / blocks + 7) / 8 * 8 : 8;
}
static inline int64_t fnn_blocks(int64_t k) { return (k + fnn_block_terms(k) - 1) / fnn_block_terms(k); }

/* out (N, O) = x (N, I) @ w (I, O) + b (O); b may be NULL.
 * Fused: y = activation(out) as well (y == out where the activation works in place).
 * batchwise: what most rows have in a column of x may be subtracted there and summed once for all. A row of out
 * then depends, within rounding, on the rows that it came with, and a product's precision on the largest
 * number of each column. */
typedef struct {
    const float *x, *w, *b;
    float *out;
    int64_t n, i, o;
    fnn_activation activation;
    float slope;
    float *y;
    bool batchwise;
    float *parts; /* scratch (fnn_blocks(I) / 2, N, O), and counters that are 0, FNN_LINE apart; or NULL */
    int *arrived;
} fnn_dense_forward_args;

/* dx (N, I) = dout (N, O) @ w.T.  Fused: dx *= activation'(saved), saved (N, I) being the output of
 * the activation that stands before this layer (GELU: its input). */
typedef struct {
    const float *dout, *w;
    float *dx;
    int64_t n, i, o;
    fnn_activation activation;
    float slope;
    const float *saved;
} fnn_dense_backward_x_args;

/* dw (I, O) = x.T (I, N) @ dout (N, O); db (O) = dout.sum(0), or NULL.
 * Fused with plain SGD: w -= lr * dw, b -= lr * db instead, lr read from the table at clock; and with
 * the gradient of a penalty: w -= lr * (dw + l1 * sign(w) + 2 * l2 * w).  batchwise: as in dense_forward. */
typedef struct {
    const float *dout, *x;
    float *dw, *db;
    int64_t n, i, o;
    const float *lr; /* NULL: not fused */
    int64_t lr_len;
    const int64_t *clock;
    float *w, *b;
    float l1, l2;
    bool batchwise;
} fnn_dense_backward_w_args;

/* A convolution of x (N, H, W, C) with w (KH, KW, C, K) to out (N, OH, OW, K); its stride, its padding at
 * the top and at the left, its dilation. */
typedef struct {
    int64_t n, h, w, c, oh, ow, k, kh, kw, sh, sw, top, left, dh, dw;
} fnn_conv2d;

/* Windows of KH x KW pixels over images (N, H, W, C), OH x OW of them; padding above and at the left.
 * Each has at least one pixel in the image. */
typedef struct {
    int64_t n, h, w, c, oh, ow, kh, kw, sh, sw, top, left;
} fnn_pool2d;

/* b may be NULL; relu: out = max(out, 0) as well; pooled, if not NULL, is instead of out, which is then
 * used by nobody: the largest of each window of it, and index their places */
typedef struct {
    fnn_conv2d shape;
    const float *x, *w, *b;
    float *out;
    bool relu;
    fnn_pool2d pool;
    bool wide;
    void *index;
    float *pooled;
} fnn_conv2d_forward_args;

/* Whether a thread's workspace has room for all of w, packed, and for the images of one block. */
static inline bool fnn_conv2d_pools(const fnn_conv2d *f) {
    const int64_t widest = 32, panels = (f->k + widest - 1) / widest, room = FNN_WORKSPACE / 4;
    const int64_t image = f->oh * f->ow * f->k, terms = f->kh * f->kw * f->c;
    return image <= room / 4 && terms <= room / widest && panels * widest * terms <= room / 4;
}

/* The gradient of x; or, with b (C) added, the transposed convolution of dout.
 * Fused: dx *= activation'(saved), as in dense_backward_x; or dx = max(dx, 0). */
typedef struct {
    fnn_conv2d shape;
    const float *dout, *w, *b;
    float *dx;
    bool relu;
    fnn_activation activation;
    float slope;
    const float *saved;
} fnn_conv2d_backward_x_args;

/* dw, and the sums db of dout's pixels (or of x's, of a transposed convolution), or NULL.
 * chunks > 0: not these, but the parts of each chunk of the batch: scratch (chunks, KH*KW*C*K + K or C). */
typedef struct {
    fnn_conv2d shape;
    const float *dout, *x;
    bool transposed;
    int64_t chunks;
    float *scratch, *dw, *db;
} fnn_conv2d_backward_w_args;

/* out (C) = sum over rows of x (N, C), each `stride` floats after the other */
typedef struct { const float *x; int64_t stride; float *out; int64_t n, c; } fnn_sum_rows_args;

/* Recurrent layers; lengths, h0 (NULL: zeros, whose gradient nobody wants), c0, bh, gates, cs, extra, dzh, dc and dx where the
 * cell has them or they are wanted, else NULL; see csrc/rnn.c. */
typedef enum { FNN_RNN_TANH, FNN_RNN_RELU, FNN_LSTM, FNN_GRU } fnn_cell;
typedef struct {
    fnn_cell cell;
    bool reverse, sequences;
    int64_t n, t, i, h, d, column;
    const int32_t *lengths;
    const float *x, *h0, *c0, *wx, *wh, *b, *bh;
    float *gates, *hs, *cs, *extra, *out;
} fnn_recurrent_forward_args;
typedef struct {
    fnn_cell cell;
    bool reverse, sequences;
    int64_t n, t, i, h, d, column, bptt_steps;
    const int32_t *lengths;
    const float *dout, *h0, *wx, *wh, *gates, *hs, *cs, *extra;
    float *dz, *dzh, *dh, *dc, *dx;
} fnn_recurrent_backward_args;
typedef struct {
    bool reverse;
    int64_t n, t, i, h, width, apart; /* apart: the column from which on dzh is not dz */
    const float *x, *h0, *hs, *dz, *dzh;
    float *dwx, *dwh, *db, *dbh;
    float *parts; /* scratch as large as dwx, dwh, db and dbh of as many columns, and a counter that is 0; or NULL */
    int *arrived;
} fnn_recurrent_backward_w_args;

/* out (N, OH, OW, C) = max of each window of x; index: its place r*KW + q, the first of equals, uint8
 * or, where wide, int32; or NULL */
typedef struct {
    fnn_pool2d shape;
    const float *x;
    bool wide;
    void *index;
    float *out;
} fnn_maxpool2d_forward_args;
typedef struct {
    fnn_pool2d shape;
    const float *dout;
    bool wide;
    const void *index;
    const float *mask; /* if not NULL, dout counts only where this (N, OH, OW, C) is above 0 */
    float *dx;
} fnn_maxpool2d_backward_args;

/* out (N, OH, OW, C) = scale * sum of each window of x (N, H, W, C); where by_count, scale is divided by
 * the number of the window's pixels that are in the image */
typedef struct {
    fnn_pool2d shape;
    const float *x;
    float scale;
    bool by_count;
    float *out;
} fnn_avgpool2d_forward_args;
typedef struct {
    fnn_pool2d shape;
    const float *dout;
    float scale;
    bool by_count;
    float *dx;
} fnn_avgpool2d_backward_args;

/* Nearest upsampling repeats pixels, as the gradient of their sum does: the same, the other way round. */
typedef fnn_avgpool2d_backward_args fnn_upsample2d_forward_args;
typedef fnn_avgpool2d_forward_args fnn_upsample2d_backward_args;

/* Batch normalisation of rows x (N, C).  Sums over rows are in double, over chunks of rows and then over
 * the chunks, so that they do not depend on the threads.
 * scratch (ceil(N / FNN_BATCHNORM_ROWS), 2, C), of each chunk: its mean and the sum of squares around it;
 * or, with dout, sum(dout) and sum(dout * (x - mean)). */
enum { FNN_BATCHNORM_ROWS = 256 };
typedef struct { const float *dout, *x, *mean; double *scratch; int64_t n, c; } fnn_batchnorm_sums_args;
/* mean and var of all rows, from those of the chunks */
typedef struct { const double *scratch; float *mean, *var; int64_t n, c; } fnn_batchnorm_moments_args;
/* dgamma = sum(dout * (x - mean)) / sqrt(var + eps), dbeta = sum(dout) */
typedef struct {
    const double *scratch;
    const float *var;
    float eps, *dgamma, *dbeta;
    int64_t n, c;
} fnn_batchnorm_gradients_args;
/* out = (x - mean) / sqrt(var + eps) * gamma + beta */
typedef struct {
    const float *x, *gamma, *beta, *mean, *var;
    float eps, *out;
    int64_t n, c;
} fnn_batchnorm_forward_args;
/* dx = gamma / sqrt(var + eps) * (dout - dbeta / N - (x - mean) / sqrt(var + eps) * dgamma / N) */
typedef struct {
    const float *dout, *x, *gamma, *mean, *var, *dgamma, *dbeta;
    float eps, *dx;
    int64_t n, c;
} fnn_batchnorm_backward_args;
/* running += momentum * (batch - running), with the unbiased variance */
typedef struct {
    const float *mean, *var;
    int64_t rows;
    float momentum, *running_mean, *running_var;
    int64_t c;
} fnn_batchnorm_update_args;

/* out (R, U) = w (V, U)[x], tokens x (R,) in [0, V) */
typedef struct { const int32_t *x; const float *w; float *out; int64_t r, u; } fnn_embedding_forward_args;
/* dw (V, U) = 0, dw[x] += dout (R, U); clean (V,) or NULL: 1 where a row of dw is 0, before and after */
typedef struct { const float *dout; const int32_t *x; uint8_t *clean; float *dw; int64_t r, v, u; } fnn_embedding_backward_args;

/* elementwise, n values; out may be x, dx may be dout */
typedef struct { const float *x; float *out; int64_t n; } fnn_map_args;
typedef struct { const float *x, *y; float *out; int64_t n; } fnn_add_args;
typedef struct { const float *dout, *out; float *dx; int64_t n; } fnn_map_backward_args;
typedef fnn_map_args fnn_relu_forward_args, fnn_sigmoid_forward_args, fnn_tanh_forward_args;
typedef fnn_map_backward_args fnn_relu_backward_args, fnn_sigmoid_backward_args, fnn_tanh_backward_args;
typedef struct { const float *x; float slope; float *out; int64_t n; } fnn_leaky_relu_forward_args;
typedef struct { const float *dout, *out; float slope; float *dx; int64_t n; } fnn_leaky_relu_backward_args;
typedef struct { const float *x; bool approximate; float slope; float *out; int64_t n; } fnn_gelu_forward_args;
typedef struct { const float *dout, *x; bool approximate; float slope; float *dx; int64_t n; } fnn_gelu_backward_args;

/* keep element e where word e of Philox4x32-10(key seed; counter e / 4, step, stream) >= threshold */
typedef struct {
    const float *x;
    double rate;
    uint64_t seed;
    uint32_t stream;
    const int64_t *clock;
    uint8_t *mask;
    float *out;
    int64_t n;
} fnn_dropout_forward_args;
typedef struct { const float *dout; double rate; const uint8_t *mask; float *dx; int64_t n; } fnn_dropout_backward_args;

/* rows: (N, C) */
typedef struct { const float *x; float *out; int64_t n, c; } fnn_softmax_forward_args;
typedef struct { const float *dout, *out; float *dx; int64_t n, c; } fnn_softmax_backward_args;

/* losses: mean over the counted rows in loss[0]; dx may be NULL; weights (N) too, then all count as 1 */
typedef struct {
    const float *x;
    const int32_t *labels;
    const float *weights;
    float *dx, *loss;
    int64_t *correct;
    int64_t n, c;
} fnn_softmax_cross_entropy_args;
typedef struct {
    const float *x, *target, *weights;
    float *dx, *loss;
    int64_t *correct;
    int64_t n, c;
} fnn_softmax_cross_entropy_soft_args;
typedef struct {
    const float *x, *target, *weights;
    float delta; /* of huber */
    float *dx, *loss;
    int64_t *correct; /* of binary_cross_entropy */
    int64_t n, f;
} fnn_elementwise_loss_args;
typedef fnn_elementwise_loss_args fnn_mean_squared_error_args, fnn_mean_absolute_error_args;
typedef fnn_elementwise_loss_args fnn_huber_args, fnn_binary_cross_entropy_args;

/* Sums over many weights, in double, one per chunk: chunks do not depend on the threads.
 * sums[i] = sum(l1 * abs(x) + l2 * x**2) over chunk i of x (n). */
enum { FNN_CHUNK = 1024 };
typedef struct { const float *x; float l1, l2; double *sums; int64_t n; } fnn_chunk_sums_args;
/* loss[0] += sum(sums) */
typedef struct { const double *sums; float *loss; int64_t n; } fnn_add_chunk_sums_args;
/* dw += l1 * sign(w) + 2 * l2 * w */
typedef struct { const float *w; float l1, l2; float *dw; int64_t n; } fnn_penalty_gradient_args;
/* grad *= min(1, clip_norm / sqrt(sum(squares))) */
typedef struct { const double *squares; double clip_norm; float *grad; int64_t chunks, n; } fnn_clip_gradient_args;

/* The state of a step: clock = {row cursor in the epoch, global step, batch index in the epoch}. */
enum { FNN_ROW, FNN_STEP, FNN_BATCH };

/* out (N, F) = data[rows[clock[FNN_ROW] + i]] * scale; data is uint8 where is_u8; rows NULL: 0, 1, ...;
 * limit: how many rows an epoch has */
typedef struct {
    const void *data;
    bool is_u8;
    const int64_t *rows;
    float scale;
    const int64_t *clock;
    float *out;
    int64_t n, f, limit;
} fnn_gather_rows_args;
/* A part of what steps do with a first dense layer whose weight they move once for all of them (delayed.c). */
typedef enum {
    FNN_GATHER_BLOCK, FNN_MULTIPLY_BLOCK, FNN_FORWARD_STEP, FNN_PENALTY_STEP, FNN_BACKWARD_STEP, FNN_UPDATE_BLOCK
} fnn_delayed_part;
typedef struct {
    int64_t first;  /* where the block begins, in the clock's rows */
    double penalty; /* l2 times the sum of the squares of the weight as it would be by now */
    double kept;    /* what L2 has left of the weight, as a part of it */
} fnn_delayed_state;
typedef struct {
    fnn_delayed_part part;
    fnn_gather_rows_args gather;
    fnn_dense_forward_args forward;
    fnn_dense_backward_w_args backward; /* fused with SGD, without L1 */
    fnn_chunk_sums_args squares;        /* of the weight as the block begins, where L2 adds to the loss */
    int64_t rows;        /* samples that a block has at most, a multiple of a step's */
    const int64_t *left; /* steps to be done from this block on */
    fnn_delayed_state *state;
    float *x, *z, *g, *d; /* scratch: (R, I), (R, O), (R, R), (R, O) */
} fnn_delayed_args;

typedef struct { const int32_t *labels; const int64_t *rows, *clock; int32_t *out; int64_t n, p, limit; } fnn_gather_labels_args;
/* losses[batch] = loss[0], corrects[batch] = correct[0]; FNN_STOP where the loss is not finite */
typedef struct {
    const float *loss;
    const int64_t *correct, *clock;
    float *losses;
    int64_t *corrects;
    int64_t limit; /* batches that an epoch has */
} fnn_log_step_args;
typedef struct { int64_t n, *clock; } fnn_advance_args;

/* optimizers: theta and their state in place, n parameters */
typedef struct {
    const float *grad, *lr;
    int64_t lr_len;
    float momentum;
    bool nesterov;
    const int64_t *clock;
    float *velocity, *theta;
    int64_t n, n_cuts;
    const int64_t *cuts; /* where numbers begin that the threads split by themselves, increasing; or NULL */
} fnn_sgd_update_args;
typedef struct {
    const float *grad, *lr;
    int64_t lr_len;
    double rho;
    float eps;
    const int64_t *clock;
    float *sq, *theta;
    int64_t n, n_cuts;
    const int64_t *cuts; /* as in sgd_update */
} fnn_rmsprop_update_args;
typedef struct {
    const float *grad, *lr;
    int64_t lr_len;
    double beta1, beta2;
    float eps, weight_decay;
    const int64_t *clock;
    float *m, *v, *theta;
    int64_t n, n_cuts;
    const int64_t *cuts; /* as in sgd_update */
} fnn_adam_update_args;

/* ---- dispatch ------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    const fnn_fn *ops; /* FNN_OP_COUNT of them */
} fnn_isa;

/* The best instruction set that both this build and this CPU have, or the one named; NULL: neither. */
const fnn_isa *fnn_select_isa(const char *name);
/* The i-th instruction set of this build that this CPU has, best first; NULL past the last. */
const fnn_isa *fnn_available_isa(int i);
extern const fnn_isa *fnn_current_isa;
extern const char *const fnn_op_names[FNN_OP_COUNT];

/* ---- threads -------------------------------------------------------------------------------- */

enum { FNN_MAX_THREADS = 256 };

typedef void (*fnn_job)(void *context, fnn_team *team, int thread);

int fnn_cpu_count(void); /* CPUs that this process may use */
int fnn_get_threads(void);
void fnn_set_threads(int n);
/* Runs job by the caller, as thread 0, and by up to n - 1 others, as soon as they come; returns when
 * none is in it any more.  Where the pool serves somebody else, the caller is alone. */
void fnn_parallel(fnn_job job, void *context, int n, fnn_team *team);

/* The threads inside one fnn_parallel, and how far they are.  What one writes in every phase and the others
 * wait for has a cache line of its own, and so has what only its writer needs. */
struct fnn_team {
    int n;             /* threads, if all come */
    int halt;          /* atomic; nobody goes on after this phase */
    int interrupted;   /* atomic; the user wants to stop: what is being computed may be dropped */
    int sleepers;      /* atomic */
    int (*poll)(void); /* asks whether the user wants to stop; NULL: cannot */
    int64_t next_poll; /* ns */
    struct {
        _Alignas(64) uint32_t phase; /* atomic; the last one in which this share was taken */
    } taken[FNN_MAX_THREADS];
    struct {
        _Alignas(64) uint32_t phase; /* futex: the last one in which this share was done, times two; bit 0: and halt was set */
    } done[FNN_MAX_THREADS];
};
void fnn_team_init(fnn_team *team, int (*poll)(void));
/* One phase of a job, 1, 2, ..., cut in shares: runs those that nobody has taken yet, this thread's own
 * first, and waits for the rest.  True when nobody goes on: somebody set halt. */
bool fnn_phase(fnn_team *team, int thread, uint32_t phase, int shares, void (*run)(void *context, fnn_part part), void *context);
/* For long loops, between blocks: true when the work may be dropped.  Thread 0 asks poll, at most
 * every 20 ms. */
bool fnn_interrupted(fnn_part part);
/* This thread's packing space, FNN_WORKSPACE bytes, 64-byte aligned. */
float *fnn_workspace(void);
int64_t fnn_now(void); /* monotonic clock, ns */

/* Share part of n items, cut at multiples of grain: [*lo, *hi). */
static inline void fnn_range(int64_t n, int64_t grain, fnn_part part, int64_t *lo, int64_t *hi) {
    int64_t blocks = (n + grain - 1) / grain;
    int64_t first = blocks * part.share / part.n, last = blocks * (part.share + 1) / part.n;
    *lo = first * grain < n ? first * grain : n;
    *hi = last * grain < n ? last * grain : n;
}

/* ---- plan ----------------------------------------------------------------------------------- */

typedef struct {
    fnn_op op;
    void *args;      /* owned */
    double work;     /* rough FLOPs */
    bool serial;     /* too little work to share: share 0 does it alone */
    bool barrier;    /* the team meets after it */
    bool commits;    /* changes the parameters: from the first such op on, a step is not interrupted */
    double seconds;  /* spent, while profiling */
} fnn_plan_op;

/* How many threads run a plan: see try_others in csrc/plan.c. */
typedef struct {
    int most;      /* allowed */
    int threads;   /* used now */
    bool more;     /* the next trial is of more threads */
    int64_t wait;  /* ns of running until it */
    int64_t pause; /* ns of running between the last two */
    double step;   /* ns of a step; 0: unknown */
} fnn_pace;

typedef struct {
    fnn_plan_op *ops;
    fnn_pace pace;
    int n, capacity;
    int block;    /* steps, 1 as a rule; of these */
    int first;    /* so many ops belong to the first one alone, */
    int last;     /* and so many to the last one */
    int64_t left; /* steps still to be done in this run */
    double work;
} fnn_plan;

typedef enum { FNN_RAN, FNN_HALTED_LOSS, FNN_HALTED_END, FNN_HALTED_USER } fnn_outcome;

/* Op i is a new one, which owns a copy of its arguments; false where there is no memory. */
bool fnn_plan_insert(fnn_plan *plan, int i, fnn_op op, const void *args, size_t size, double work);
void fnn_plan_remove(fnn_plan *plan, int i);
void fnn_plan_clear(fnn_plan *plan);
/* Replays whole steps until `steps` are done or, at the end of a block, `budget` ns are over. */
fnn_outcome fnn_plan_run(fnn_plan *plan, int64_t steps, int64_t budget, bool profile, int (*poll)(void), int64_t *done);
/* One op, now, outside any plan. */
fnn_outcome fnn_run_op(fnn_op op, const void *args, double work, int (*poll)(void));

/* Ops at or above this much work are shared between threads. */
#define FNN_PARALLEL_WORK 250e3
/* Steps at or above this much work may be interrupted inside. */
#define FNN_LONG_WORK 1e9

#endif
