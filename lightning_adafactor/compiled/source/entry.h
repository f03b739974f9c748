/* What Python hands to a step: one struct for each parameter, laid out as in ../table.py. */

#ifndef ENTRY_H
#define ENTRY_H

#include <stddef.h>
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
    MAXIMIZE = 128,
    HOLDS_FACTOR = 256      /* of a shard: this process adds the old R to the sum of R */
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
    /* sums that processes exchange, where this is a shard; else NULL. Three: before R, C and V are updated */
    void *row_sums;         /* of G^2 over columns, (matrices, rows); NULL for a vector */
    void *column_sums;      /* of G^2 over rows, (matrices, columns); NULL for a vector */
    void *mean_sums;        /* of R, (matrices,); NULL if this process has all of a matrix's R */
    void *parameter_sum;    /* of p^2; NULL without SCALE_PARAMETER */
    void *update_sum;       /* of U^2 */
    int64_t sums_dtype;     /* FLOAT32 or FLOAT64 */
    /* of the whole parameter; of one that is not a shard its own sizes, and zeros */
    int64_t whole_rows;
    int64_t whole_columns;
    int64_t first_row;      /* number of the shard's first row among all rows, matrix after matrix */
    int64_t first_column;
    int64_t rows_between[3]; /* how many rows lie between neighbors in each batch dimension */
    double numel;           /* elements of the whole parameter */
};

static inline int is_shard(const struct entry *e)
{
    return e->update_sum != NULL;
}

static inline double sum_at(const struct entry *e, const void *sums, int64_t place)
{
    return e->sums_dtype == FLOAT64 ? ((const double *)sums)[place] : (double)((const float *)sums)[place];
}

static inline void set_sum(const struct entry *e, void *sums, int64_t place, double sum)
{
    if (e->sums_dtype == FLOAT64)
        ((double *)sums)[place] = sum;
    else
        ((float *)sums)[place] = (float)sum;
}

static inline int64_t matrices_of(const struct entry *e)
{
    return e->batch[0] * e->batch[1] * e->batch[2];
}

/* The number of a matrix's first row among all rows of the whole parameter. */
static inline int64_t first_row_of(const struct entry *e, int64_t matrix)
{
    int64_t last = matrix % e->batch[2], rest = matrix / e->batch[2];
    if (!is_shard(e))
        return matrix * e->rows;
    return e->first_row + last * e->rows_between[2] + rest % e->batch[1] * e->rows_between[1] +
           rest / e->batch[1] * e->rows_between[0];
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
