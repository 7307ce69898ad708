/* Optimizers: parameters and their state updated in place, in one pass over the flat vectors.
 * Threads split the vectors; what all parameters of a step share is computed first, in double. */
#include "kernel.h"

#define GRAIN 256 /* floats; a share starts on a cache line */
#define AHEAD 96  /* floats: so far ahead weights that other threads have read are asked back */

/* Runs body(i, n) on vectors of n lanes from element i on, over this thread's share of every piece between two cuts:
 * it has computed these gradients, and multiplies with these weights. */
#define FOR_PIECES(body)                                                                           \
    for (int64_t piece_ = 0, start_ = 0, end_; piece_ <= s.n_cuts; piece_++, start_ = end_) {      \
        int64_t i_, hi_;                                                                           \
        end_ = piece_ < s.n_cuts ? s.cuts[piece_] : s.n;                                           \
        fnn_range(end_ - start_, GRAIN, part, &i_, &hi_);                                          \
        for (i_ += start_, hi_ += start_; i_ + VL <= hi_; i_ += VL) {                              \
            __builtin_prefetch(s.theta + i_ + AHEAD, 1);                                           \
            body(i_, VL);                                                                          \
        }                                                                                          \
        if (i_ < hi_) body(i_, (int)(hi_ - i_));                                                   \
    }

/* base ** n by squaring: no library's pow, so the same bits everywhere */
static double power(double base, int64_t n) {
    double result = 1;
    for (; n > 0; n >>= 1, base *= base)
        if (n & 1) result *= base;
    return result;
}

/* velocity = momentum * velocity + grad
 * theta -= rate * (nesterov ? grad + momentum * velocity : velocity) */
KERNEL(sgd_update) {
    const fnn_sgd_update_args s = *a;
    const vf step = v_set1(-rate_now(s.lr, s.lr_len, s.clock)), momentum = v_set1(s.momentum);
#define PLAIN(i, n)                                                                                \
    store_part(s.theta + i, v_fma(step, load_part(s.grad + i, n), load_part(s.theta + i, n)), n)
#define MOMENTUM(i, n)                                                                             \
    do {                                                                                           \
        vf grad = load_part(s.grad + i, n);                                                        \
        vf velocity = v_fma(momentum, load_part(s.velocity + i, n), grad);                         \
        store_part(s.velocity + i, velocity, n);                                                   \
        vf move = s.nesterov ? v_fma(momentum, velocity, grad) : velocity;                         \
        store_part(s.theta + i, v_fma(step, move, load_part(s.theta + i, n)), n);                  \
    } while (0)
    if (s.velocity) FOR_PIECES(MOMENTUM)
    else FOR_PIECES(PLAIN)
    return FNN_OK;
}

/* sq = rho * sq + (1 - rho) * grad**2; theta -= rate * grad / (sqrt(sq) + eps) */
KERNEL(rmsprop_update) {
    const fnn_rmsprop_update_args s = *a;
    const vf step = v_set1(-rate_now(s.lr, s.lr_len, s.clock)), eps = v_set1(s.eps);
    const vf rho = v_set1((float)s.rho), fresh = v_set1((float)(1.0 - s.rho));
#define RMSPROP(i, n)                                                                              \
    do {                                                                                           \
        vf grad = load_part(s.grad + i, n);                                                        \
        vf sq = v_fma(rho, load_part(s.sq + i, n), fresh * grad * grad);                           \
        store_part(s.sq + i, sq, n);                                                               \
        vf move = step * grad / (v_sqrt(sq) + eps);                                                \
        store_part(s.theta + i, load_part(s.theta + i, n) + move, n);                              \
    } while (0)
    FOR_PIECES(RMSPROP)
    return FNN_OK;
}

/* m = beta1 * m + (1 - beta1) * grad; v = beta2 * v + (1 - beta2) * grad**2
 * theta = theta * (1 - rate * weight_decay)
 *         - rate * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps) */
KERNEL(adam_update) {
    const fnn_adam_update_args s = *a;
    const double rate = rate_now(s.lr, s.lr_len, s.clock);
    const int64_t t = s.clock[FNN_STEP] + 1;
    const vf step = v_set1((float)(-rate / (1.0 - power(s.beta1, t))));
    const vf root_scale = v_sqrt(v_set1((float)(1.0 / (1.0 - power(s.beta2, t)))));
    const vf keep = v_set1((float)(1.0 - rate * (double)s.weight_decay)), eps = v_set1(s.eps);
    const vf beta1 = v_set1((float)s.beta1), fresh1 = v_set1((float)(1.0 - s.beta1));
    const vf beta2 = v_set1((float)s.beta2), fresh2 = v_set1((float)(1.0 - s.beta2));
#define ADAM(i, n)                                                                                 \
    do {                                                                                           \
        vf grad = load_part(s.grad + i, n);                                                        \
        vf m = v_fma(beta1, load_part(s.m + i, n), fresh1 * grad);                                 \
        vf v = v_fma(beta2, load_part(s.v + i, n), fresh2 * grad * grad);                          \
        store_part(s.m + i, m, n);                                                                 \
        store_part(s.v + i, v, n);                                                                 \
        vf move = step * m / v_fma(v_sqrt(v), root_scale, eps);                                    \
        store_part(s.theta + i, v_fma(keep, load_part(s.theta + i, n), move), n);                  \
    } while (0)
    FOR_PIECES(ADAM)
    return FNN_OK;
}
