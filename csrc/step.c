/* What a training step does besides computing: fetch its batch, log its loss, count itself. */
#include "kernel.h"

static int64_t row_at(const int64_t *rows, int64_t i) { return rows ? rows[i] : i; }

/* to = the epoch's i-th row of data, scaled */
static void gather_row(const fnn_gather_rows_args *a, int64_t i, float *to) {
    const size_t row = (size_t)row_at(a->rows, i) * (size_t)a->f;
    const vf scale = v_set1(a->scale);
    int64_t j = 0;
    if (a->is_u8) {
        const uint8_t *x = (const uint8_t *)a->data + row;
        for (; j + VL <= a->f; j += VL) v_store(to + j, v_load_u8(x + j) * scale);
        for (; j < a->f; j++) to[j] = (float)x[j] * a->scale;
    } else {
        const float *x = (const float *)a->data + row;
        for (; j + VL <= a->f; j += VL) v_store(to + j, v_load(x + j) * scale);
        for (; j < a->f; j++) to[j] = x[j] * a->scale;
    }
}

/* out[i] = data[rows[clock[0] + i]] * scale */
KERNEL(gather_rows) {
    enum { AHEAD = 4, LINE = 64, POLL = 256 };
    const int64_t f = a->f, first = a->clock[FNN_ROW];
    if (past_end(first, a->n, a->limit)) return FNN_PAST_END;
    const size_t row_bytes = (size_t)f * (a->is_u8 ? 1 : sizeof(float));
    int64_t lo, hi;
    fnn_range(a->n, 1, part, &lo, &hi);
    for (int64_t i = lo; i < hi; i++) {
        if (i % POLL == 0 && fnn_interrupted(part)) return FNN_OK;
        /* the next rows lie anywhere in memory */
        if (i + AHEAD < hi) {
            const char *next = (const char *)a->data + (size_t)row_at(a->rows, first + i + AHEAD) * row_bytes;
            for (size_t b = 0; b < row_bytes; b += LINE) __builtin_prefetch(next + b);
        }
        gather_row(a, first + i, a->out + i * f);
    }
    return FNN_OK;
}

/* out (N, P): out[i] = labels[rows[clock[0] + i]]; share 0 does it */
KERNEL(gather_labels) {
    if (part.share > 0) return FNN_OK;
    if (past_end(a->clock[FNN_ROW], a->n, a->limit)) return FNN_PAST_END;
    for (int64_t i = 0; i < a->n; i++)
        memcpy(a->out + i * a->p, a->labels + row_at(a->rows, a->clock[FNN_ROW] + i) * a->p, sizeof(int32_t) * (size_t)a->p);
    return FNN_OK;
}

/* losses[clock[2]] = loss; corrects[clock[2]] = correct; share 0 does it */
KERNEL(log_step) {
    if (part.share > 0) return FNN_OK;
    const int64_t batch = a->clock[FNN_BATCH];
    if (past_end(batch, 1, a->limit)) return FNN_PAST_END;
    a->losses[batch] = a->loss[0];
    if (a->corrects) a->corrects[batch] = a->correct[0];
    return __builtin_isfinite(a->loss[0]) ? FNN_OK : FNN_STOP;
}

/* clock += [n, 1, 1]; share 0 does it */
KERNEL(advance) {
    if (part.share > 0) return FNN_OK;
    a->clock[FNN_ROW] += a->n;
    a->clock[FNN_STEP] += 1;
    a->clock[FNN_BATCH] += 1;
    return FNN_OK;
}
