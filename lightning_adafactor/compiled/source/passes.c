/* The passes for one instruction set: compiled once for each, with its own compiler options and its own RUN. */

#include <math.h>
#include <string.h>

#include "convert.h"
#include "entry.h"
#include "philox.h"
#include "schedule.h"
#include "vectors.h"

/* Vectorized loops are not inlined: several copies of each would make compiling slow. */
#define OUT_OF_LINE __attribute__((noinline))

enum {
    CHUNK = 512, /* numbers of a row that are converted, or updated, at a time: they stay in the first cache */
    FOLD = 64    /* rows whose squares are summed by column in REAL before the sum is added in double */
};

/* Sums run in LANES lanes, the same number for each REAL on every instruction set, and so give the same bits. */
#define VECTORS (LANES * (int)sizeof(REAL) / VECTOR_BYTES)

struct tile {
    int64_t matrix;
    int64_t row;
    int64_t rows;
    int64_t column;
    int64_t columns;
};

/* Where a matrix of the batch begins. */
struct place {
    const char *grads;
    char *params;
    char *averages; /* of updates, or NULL */
    int64_t first_row; /* its number among all rows of the whole parameter */
};

/* Up to four rows that are processed together. */
struct rows {
    int count;
    int64_t number[4];
};

/* Pieces of four rows, contiguous and of one dtype. */
struct pieces {
    int64_t dtype;
    const void *row[4];
};

/* The rows of a fold that are not skipped, in `groups` of four. */
struct fold {
    int64_t count;
    int64_t groups;
    int64_t number[FOLD];
};

static inline int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int is_marked(const uint8_t *bits, int64_t number)
{
    return bits && bits[number >> 3] >> (number & 7) & 1;
}

static inline void mark(uint8_t *bits, int64_t number, int marked)
{
    uint8_t bit = (uint8_t)(1u << (number & 7));
    bits[number >> 3] = (uint8_t)(marked ? bits[number >> 3] | bit : bits[number >> 3] & ~bit);
}

static struct fold fold_of(const struct tile *t, int64_t first, const uint8_t *passed_over)
{
    struct fold fold = {.count = 0};
    int64_t end = smaller(first + FOLD, t->row + t->rows);
    for (int64_t row = first; row < end; row++)
        if (!is_marked(passed_over, row))
            fold.number[fold.count++] = row;
    fold.groups = (fold.count + 3) / 4;
    return fold;
}

/* A group's rows, a quarter of the fold apart. */
static inline struct rows rows_of(const struct fold *fold, int64_t group)
{
    struct rows rows = {.count = 0};
    for (int64_t i = group; i < fold->count; i += fold->groups)
        rows.number[rows.count++] = fold->number[i];
    return rows;
}

static int64_t size_of(int64_t dtype)
{
    return dtype == FLOAT64 ? 8 : dtype == FLOAT32 ? 4 : 2;
}

static struct place place_of(const struct entry *e, int64_t matrix)
{
    int64_t real = size_of(e->arithmetic);
    char *averages = e->exp_avg.data ? matrix_of(e, &e->exp_avg, matrix, real) : NULL;
    return (struct place){matrix_of(e, &e->grad, matrix, size_of(e->grad.dtype)),
                          matrix_of(e, &e->param, matrix, size_of(e->param.dtype)), averages, first_row_of(e, matrix)};
}

/* The scalars of the third pass; comparisons that are false for NaN, as in rule.py. */
static void find_scale(const struct entry *e, struct stage *stage, double squares_of_p, double squares_of_u)
{
    double rms = sqrt(squares_of_p / e->numel), ratio = sqrt(squares_of_u / e->numel) / e->d;
    double alpha = e->flags & SCALE_PARAMETER ? (rms > e->eps2 ? rms : e->eps2) * e->rho : e->rho;
    double scale = alpha / (ratio > 1 ? ratio : 1);
    stage->scale = e->flags & MAXIMIZE ? -scale : scale;
    stage->decay = 1 - e->weight_decay * (e->flags & DECAY_BY_ALPHA ? alpha : e->lr);
    stage->scaled = 1;
}

#define JOINED(name, suffix) name##_##suffix
#define JOIN(name, suffix) JOINED(name, suffix)
#define NAME(name) JOIN(name, REAL)

#define REAL float
#define REAL_DTYPE FLOAT32
#define REAL_IS_FLOAT 1
#define SQRT sqrtf
#define MIN MIN_FLOAT
#define TINY 0x1p-126f
#define LANES 16
typedef float vector_float VECTOR(float);
#include "rows.h"
#include "numbers.h"
#include "passes.h"
#include "items.h"
#include "shards.h"
#undef REAL
#undef REAL_DTYPE
#undef REAL_IS_FLOAT
#undef SQRT
#undef MIN
#undef TINY
#undef LANES

#define REAL double
#define REAL_DTYPE FLOAT64
#define REAL_IS_FLOAT 0
#define SQRT sqrt
#define MIN MIN_DOUBLE
#define TINY 0x1p-1022
#define LANES 8
typedef double vector_double VECTOR(double);
#include "rows.h"
#include "numbers.h"
#include "passes.h"
#include "items.h"
#include "shards.h"

void RUN(struct step *step, struct stage *stage, int64_t item)
{
    int is_float = step->entries[stage->entry].arithmetic == FLOAT32;
    if (step->phase == ALL_PASSES)
        (is_float ? run_float : run_double)(step, stage, item);
    else
        (is_float ? run_shard_float : run_shard_double)(step, stage, item);
}
