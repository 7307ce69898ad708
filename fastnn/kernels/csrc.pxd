"""csrc/fastnn.h, as the Cython modules see it."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "fastnn.h" nogil:
    ctypedef bint cbool "bool"

    ctypedef enum fnn_op:
        FNN_OP_gemm
        FNN_OP_dense_forward
        FNN_OP_dense_backward_x
        FNN_OP_dense_backward_w
        FNN_OP_conv2d_forward
        FNN_OP_conv2d_backward_x
        FNN_OP_conv2d_backward_w
        FNN_OP_sum_rows
        FNN_OP_recurrent_forward
        FNN_OP_recurrent_backward
        FNN_OP_recurrent_backward_w
        FNN_OP_embedding_forward
        FNN_OP_embedding_backward
        FNN_OP_add
        FNN_OP_maxpool2d_forward
        FNN_OP_maxpool2d_backward
        FNN_OP_avgpool2d_forward
        FNN_OP_avgpool2d_backward
        FNN_OP_upsample2d_forward
        FNN_OP_upsample2d_backward
        FNN_OP_batchnorm_sums
        FNN_OP_batchnorm_moments
        FNN_OP_batchnorm_gradients
        FNN_OP_batchnorm_forward
        FNN_OP_batchnorm_backward
        FNN_OP_batchnorm_update
        FNN_OP_relu_forward
        FNN_OP_relu_backward
        FNN_OP_leaky_relu_forward
        FNN_OP_leaky_relu_backward
        FNN_OP_sigmoid_forward
        FNN_OP_sigmoid_backward
        FNN_OP_tanh_forward
        FNN_OP_tanh_backward
        FNN_OP_gelu_forward
        FNN_OP_gelu_backward
        FNN_OP_dropout_forward
        FNN_OP_dropout_backward
        FNN_OP_softmax_forward
        FNN_OP_softmax_backward
        FNN_OP_softmax_cross_entropy
        FNN_OP_softmax_cross_entropy_soft
        FNN_OP_mean_squared_error
        FNN_OP_mean_absolute_error
        FNN_OP_huber
        FNN_OP_binary_cross_entropy
        FNN_OP_chunk_sums
        FNN_OP_add_chunk_sums
        FNN_OP_penalty_gradient
        FNN_OP_clip_gradient
        FNN_OP_gather_rows
        FNN_OP_gather_labels
        FNN_OP_log_step
        FNN_OP_advance
        FNN_OP_delayed
        FNN_OP_sgd_update
        FNN_OP_rmsprop_update
        FNN_OP_adam_update

    ctypedef struct fnn_gemm_args:
        const float *a
        const float *b
        float *out
        int64_t m, n, k
        cbool transpose_a, transpose_b

    ctypedef enum fnn_activation:
        FNN_LINEAR
        FNN_RELU
        FNN_LEAKY_RELU
        FNN_SIGMOID
        FNN_TANH
        FNN_GELU
        FNN_GELU_TANH

    ctypedef struct fnn_dense_forward_args:
        const float *x
        const float *w
        const float *b
        float *out
        int64_t n, i, o
        fnn_activation activation
        float slope
        float *y
        cbool batchwise
        float *parts
        int *arrived

    ctypedef struct fnn_dense_backward_x_args:
        const float *dout
        const float *w
        float *dx
        int64_t n, i, o
        fnn_activation activation
        float slope
        const float *saved

    ctypedef struct fnn_dense_backward_w_args:
        const float *dout
        const float *x
        float *dw
        float *db
        int64_t n, i, o
        const float *lr
        int64_t lr_len
        const int64_t *clock
        float *w
        float *b
        float l1, l2
        cbool batchwise

    ctypedef struct fnn_conv2d:
        int64_t n, h, w, c, oh, ow, k, kh, kw, sh, sw, top, left, dh, dw

    ctypedef struct fnn_pool2d:
        int64_t n, h, w, c, oh, ow, kh, kw, sh, sw, top, left

    ctypedef struct fnn_conv2d_forward_args:
        fnn_conv2d shape
        const float *x
        const float *w
        const float *b
        float *out
        cbool relu
        fnn_pool2d pool
        cbool wide
        void *index
        float *pooled

    cbool fnn_conv2d_pools(const fnn_conv2d *f)

    ctypedef struct fnn_conv2d_backward_x_args:
        fnn_conv2d shape
        const float *dout
        const float *w
        const float *b
        float *dx
        cbool relu
        fnn_activation activation
        float slope
        const float *saved

    ctypedef struct fnn_conv2d_backward_w_args:
        fnn_conv2d shape
        const float *dout
        const float *x
        cbool transposed
        int64_t chunks
        float *scratch
        float *dw
        float *db

    ctypedef struct fnn_sum_rows_args:
        const float *x
        int64_t stride
        float *out
        int64_t n, c

    ctypedef enum fnn_cell:
        FNN_RNN_TANH
        FNN_RNN_RELU
        FNN_LSTM
        FNN_GRU

    ctypedef struct fnn_recurrent_forward_args:
        fnn_cell cell
        cbool reverse, sequences
        int64_t n, t, i, h, d, column
        const int32_t *lengths
        const float *x
        const float *h0
        const float *c0
        const float *wx
        const float *wh
        const float *b
        const float *bh
        float *gates
        float *hs
        float *cs
        float *extra
        float *out

    ctypedef struct fnn_recurrent_backward_args:
        fnn_cell cell
        cbool reverse, sequences
        int64_t n, t, i, h, d, column, bptt_steps
        const int32_t *lengths
        const float *dout
        const float *h0
        const float *wx
        const float *wh
        const float *gates
        const float *hs
        const float *cs
        const float *extra
        float *dz
        float *dzh
        float *dh
        float *dc
        float *dx
    ctypedef struct fnn_recurrent_backward_w_args:
        cbool reverse
        int64_t n, t, i, h, width, apart
        const float *x
        const float *h0
        const float *hs
        const float *dz
        const float *dzh
        float *dwx
        float *dwh
        float *db
        float *dbh
        float *parts
        int *arrived

    ctypedef struct fnn_embedding_forward_args:
        const int32_t *x
        const float *w
        float *out
        int64_t r, u
    ctypedef struct fnn_embedding_backward_args:
        const float *dout
        const int32_t *x
        uint8_t *clean
        float *dw
        int64_t r, v, u
    ctypedef struct fnn_add_args:
        const float *x
        const float *y
        float *out
        int64_t n
    ctypedef struct fnn_maxpool2d_forward_args:
        fnn_pool2d shape
        const float *x
        cbool wide
        void *index
        float *out

    ctypedef struct fnn_maxpool2d_backward_args:
        fnn_pool2d shape
        const float *dout
        cbool wide
        const void *index
        const float *mask
        float *dx

    ctypedef struct fnn_avgpool2d_forward_args:
        fnn_pool2d shape
        const float *x
        float scale
        cbool by_count
        float *out

    ctypedef struct fnn_avgpool2d_backward_args:
        fnn_pool2d shape
        const float *dout
        float scale
        cbool by_count
        float *dx

    int64_t FNN_BATCHNORM_ROWS

    ctypedef struct fnn_batchnorm_sums_args:
        const float *dout
        const float *x
        const float *mean
        double *scratch
        int64_t n, c

    ctypedef struct fnn_batchnorm_moments_args:
        const double *scratch
        float *mean
        float *var
        int64_t n, c

    ctypedef struct fnn_batchnorm_gradients_args:
        const double *scratch
        const float *var
        float eps
        float *dgamma
        float *dbeta
        int64_t n, c

    ctypedef struct fnn_batchnorm_forward_args:
        const float *x
        const float *gamma
        const float *beta
        const float *mean
        const float *var
        float eps
        float *out
        int64_t n, c

    ctypedef struct fnn_batchnorm_backward_args:
        const float *dout
        const float *x
        const float *gamma
        const float *mean
        const float *var
        const float *dgamma
        const float *dbeta
        float eps
        float *dx
        int64_t n, c

    ctypedef struct fnn_batchnorm_update_args:
        const float *mean
        const float *var
        int64_t rows
        float momentum
        float *running_mean
        float *running_var
        int64_t c

    ctypedef struct fnn_map_args:
        const float *x
        float *out
        int64_t n

    ctypedef struct fnn_map_backward_args:
        const float *dout
        const float *out
        float *dx
        int64_t n

    ctypedef struct fnn_leaky_relu_forward_args:
        const float *x
        float slope
        float *out
        int64_t n

    ctypedef struct fnn_leaky_relu_backward_args:
        const float *dout
        const float *out
        float slope
        float *dx
        int64_t n

    ctypedef struct fnn_gelu_forward_args:
        const float *x
        cbool approximate
        float slope
        float *out
        int64_t n

    ctypedef struct fnn_gelu_backward_args:
        const float *dout
        const float *x
        cbool approximate
        float slope
        float *dx
        int64_t n

    ctypedef struct fnn_dropout_forward_args:
        const float *x
        double rate
        uint64_t seed
        uint32_t stream
        const int64_t *clock
        uint8_t *mask
        float *out
        int64_t n

    ctypedef struct fnn_dropout_backward_args:
        const float *dout
        double rate
        const uint8_t *mask
        float *dx
        int64_t n

    ctypedef struct fnn_softmax_forward_args:
        const float *x
        float *out
        int64_t n, c

    ctypedef struct fnn_softmax_backward_args:
        const float *dout
        const float *out
        float *dx
        int64_t n, c

    ctypedef struct fnn_softmax_cross_entropy_args:
        const float *x
        const int32_t *labels
        const float *weights
        float *dx
        float *loss
        int64_t *correct
        int64_t n, c

    ctypedef struct fnn_softmax_cross_entropy_soft_args:
        const float *x
        const float *target
        const float *weights
        float *dx
        float *loss
        int64_t *correct
        int64_t n, c

    ctypedef struct fnn_elementwise_loss_args:
        const float *x
        const float *target
        const float *weights
        float delta
        float *dx
        float *loss
        int64_t *correct
        int64_t n, f

    int FNN_CHUNK

    ctypedef struct fnn_chunk_sums_args:
        const float *x
        float l1, l2
        double *sums
        int64_t n

    ctypedef struct fnn_add_chunk_sums_args:
        const double *sums
        float *loss
        int64_t n

    ctypedef struct fnn_penalty_gradient_args:
        const float *w
        float l1, l2
        float *dw
        int64_t n

    ctypedef struct fnn_clip_gradient_args:
        const double *squares
        double clip_norm
        float *grad
        int64_t chunks, n

    ctypedef struct fnn_gather_rows_args:
        const void *data
        cbool is_u8
        const int64_t *rows
        float scale
        const int64_t *clock
        float *out
        int64_t n, f, limit

    ctypedef enum fnn_delayed_part:
        FNN_GATHER_BLOCK
        FNN_MULTIPLY_BLOCK
        FNN_FORWARD_STEP
        FNN_PENALTY_STEP
        FNN_BACKWARD_STEP
        FNN_UPDATE_BLOCK

    ctypedef struct fnn_delayed_state:
        pass

    ctypedef struct fnn_delayed_args:
        fnn_delayed_part part
        fnn_gather_rows_args gather
        fnn_dense_forward_args forward
        fnn_dense_backward_w_args backward
        fnn_chunk_sums_args squares
        int64_t rows
        const int64_t *left
        fnn_delayed_state *state
        float *x
        float *z
        float *g
        float *d

    ctypedef struct fnn_gather_labels_args:
        const int32_t *labels
        const int64_t *rows
        const int64_t *clock
        int32_t *out
        int64_t n, p, limit

    ctypedef struct fnn_log_step_args:
        const float *loss
        const int64_t *correct
        const int64_t *clock
        float *losses
        int64_t *corrects
        int64_t limit

    int FNN_ROW, FNN_BATCH

    ctypedef struct fnn_advance_args:
        int64_t n
        int64_t *clock

    ctypedef struct fnn_sgd_update_args:
        const float *grad
        const float *lr
        int64_t lr_len
        float momentum
        cbool nesterov
        const int64_t *clock
        float *velocity
        float *theta
        int64_t n, n_cuts
        const int64_t *cuts

    ctypedef struct fnn_rmsprop_update_args:
        const float *grad
        const float *lr
        int64_t lr_len
        double rho
        float eps
        const int64_t *clock
        float *sq
        float *theta
        int64_t n, n_cuts
        const int64_t *cuts

    ctypedef struct fnn_adam_update_args:
        const float *grad
        const float *lr
        int64_t lr_len
        double beta1, beta2
        float eps, weight_decay
        const int64_t *clock
        float *m
        float *v
        float *theta
        int64_t n, n_cuts
        const int64_t *cuts

    # dispatch
    ctypedef void *fnn_fn
    ctypedef struct fnn_isa:
        const char *name
        const fnn_fn *ops
    const fnn_isa *fnn_select_isa(const char *name)
    const fnn_isa *fnn_available_isa(int i)
    const fnn_isa *fnn_current_isa
    const char *fnn_op_names[]

    # threads
    int fnn_cpu_count()
    int fnn_get_threads()
    void fnn_set_threads(int n)
    int FNN_MAX_THREADS

    # plan
    ctypedef struct fnn_plan_op:
        fnn_op op
        void *args
        double work
        cbool serial, barrier, commits
        double seconds
    ctypedef struct fnn_pace:
        int threads
    ctypedef struct fnn_plan:
        fnn_plan_op *ops
        fnn_pace pace
        int n
        int block, first, last
        int64_t left
        double work
    ctypedef enum fnn_outcome:
        FNN_HALTED_LOSS
        FNN_HALTED_END
        FNN_HALTED_USER
    cbool fnn_plan_insert(fnn_plan *plan, int i, fnn_op op, const void *args, size_t size, double work)
    void fnn_plan_remove(fnn_plan *plan, int i)
    void fnn_plan_clear(fnn_plan *plan)
    fnn_outcome fnn_plan_run(fnn_plan *plan, int64_t steps, int64_t budget, cbool profile, int (*poll)() noexcept nogil, int64_t *done)
    fnn_outcome fnn_run_op(fnn_op op, const void *args, double work, int (*poll)() noexcept nogil)
    double FNN_PARALLEL_WORK, FNN_LONG_WORK
    int FNN_LINE
    int64_t fnn_blocks(int64_t k)
