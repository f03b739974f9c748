/* What Python hands to a step: one struct for each parameter, laid out as in ../table.py. */

#ifndef ENTRY_H
#define ENTRY_H

#include <stdint.h>

enum dtype { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };

enum flag {
    FACTORED = 1,           /* second moments as row_var and col_var, not as variance */
    MEAN_OF_COLUMNS = 2,    /* mean(R) is that of col_var: the last two dimensions are swapped */
    SCALE_PARAMETER = 4,
    RELATIVE_STEP = 8,
    WARMUP_INIT = 16,
    DECAY_BY_ALPHA = 32,    /* weight decay multiplied by alpha, not by lr */
    STOCHASTIC = 64,        /* stochastic rounding of a bfloat16 parameter */
    MAXIMIZE = 128
};

/* A tensor of any strides, in elements: up to three batch dimensions, rows, columns. */
struct operand {
    char *data;
    int64_t batch_strides[3];
    int64_t row_stride;
    int64_t column_stride;
    int64_t dtype;
};

struct entry {
    struct operand param;
    struct operand grad;
    struct operand exp_avg; /* of the arithmetic's dtype; data is NULL without momentum */
    void *row_var;          /* (matrices, rows), contiguous, of the arithmetic's dtype; NULL if not factored */
    void *col_var;          /* (matrices, columns) */
    void *variance;         /* (columns,) of a vector, which is one row; NULL if factored */
    void *rms;              /* where RMS(p) is written, of the arithmetic's dtype, or NULL */
    void *step;             /* t, float32 or float64, by step_dtype */
    int64_t step_dtype;
    int64_t batch[3];       /* sizes of the batch dimensions, 1 where there is none */
    int64_t rows;
    int64_t columns;
    int64_t arithmetic;     /* FLOAT32 or FLOAT64 */
    int64_t flags;
    uint64_t seed;          /* key of the random bits */
    uint64_t index;         /* the parameter's position in the optimizer, a part of their counter */
    double lr;
    double beta2_decay;
    double eps2;
    double d;
    double weight_decay;
    double beta1;
    double added;           /* what the dialect adds to squared gradients */
    double mean_floor;      /* the smallest mean(R) */
    double variance_floor;  /* the smallest V-hat; 0 for none */
    /* written by the step before its passes begin */
    double t;
    double omega;           /* weight of the newest squared gradients */
    double rho;             /* relative step size */
};

static inline int64_t matrices_of(const struct entry *e)
{
    return e->batch[0] * e->batch[1] * e->batch[2];
}

/* Address of a matrix of the batch. */
static inline char *matrix_of(const struct entry *e, const struct operand *x, int64_t matrix, int64_t bytes)
{
    int64_t last = matrix % e->batch[2], rest = matrix / e->batch[2];
    int64_t offset = last * x->batch_strides[2] + rest % e->batch[1] * x->batch_strides[1] +
                     rest / e->batch[1] * x->batch_strides[0];
    return x->data + offset * bytes;
}

#endif
