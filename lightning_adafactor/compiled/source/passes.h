/* The three passes over a tile of a matrix, and over a piece of a vector. Included once for each REAL.
 *
 * Rows are processed four at a time, a quarter of a fold apart: reading four streams at once was measured at 14 to 16
 * GB/s, one stream at 9. */

/* What the second and third pass need of a matrix. */
struct NAME(factors) {
    REAL mean;            /* mean(R), not below its floor */
    REAL floor;           /* the smallest V-hat, 0 for none */
    REAL cap;             /* its inverse square root, infinity for none */
    const REAL *columns;  /* 1/sqrt(C) of all columns, or NULL */
};

static struct NAME(factors) NAME(factors_of)(const struct entry *e, double mean, const REAL *columns)
{
    REAL floor = (REAL)e->variance_floor;
    REAL cap = floor > 0 ? 1 / SQRT(floor) : (REAL)INFINITY;
    return (struct NAME(factors)){(REAL)mean, floor, cap, columns};
}

/* 1/sqrt(x). Without a floor of V-hat, x itself is kept above zero, as in plain.py. */
static inline REAL NAME(factor)(REAL x, REAL floor)
{
    if (floor == 0)
        x = x < TINY ? TINY : x;
    return 1 / SQRT(x);
}

static OUT_OF_LINE void NAME(column_factors)(const REAL *averages, int64_t count, REAL floor, REAL *restrict factors)
{
    if (floor == 0)
        for (int64_t j = 0; j < count; j++)
            factors[j] = 1 / SQRT(averages[j] < TINY ? TINY : averages[j]);
    else
        for (int64_t j = 0; j < count; j++)
            factors[j] = 1 / SQRT(averages[j]);
}

/* Updates an average with the newest mean of squares. */
static inline REAL NAME(averaged)(const struct entry *e, REAL average, double sum, int64_t count)
{
    double omega = e->omega;
    return (REAL)((1 - omega) * (double)average + omega * (sum / (double)count + e->added));
}

/* mean(R) of a matrix, not below its floor; NaN stays NaN. */
static double NAME(mean_of)(const struct entry *e, int64_t matrix)
{
    if (e->mean_sums) {
        int64_t size = e->flags & MEAN_OF_COLUMNS ? e->whole_columns : e->whole_rows;
        double mean = sum_at(e, e->mean_sums, matrix) / (double)size;
        return mean < e->mean_floor ? e->mean_floor : mean;
    }
    int columns = (e->flags & MEAN_OF_COLUMNS) != 0;
    int64_t count = columns ? e->columns : e->rows;
    const REAL *averages = (const REAL *)(columns ? e->col_var : e->row_var) + matrix * count;
    double sums[8] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int k = 0; k < 8; k++)
            sums[k] += (double)averages[i + k];
    for (; i < count; i++)
        sum += (double)averages[i];
    for (int k = 0; k < 8; k++)
        sum += sums[k];
    double mean = sum / (double)count;
    return mean < e->mean_floor ? e->mean_floor : mean;
}

/* Reads pieces of up to four rows: in place if the kernels accept their dtype, else as REAL in the buffers.
 * Rows missing to four are zeros, of any dtype. */
static inline struct pieces NAME(read_rows)(const struct operand *x, const char *matrix, const struct rows *rows,
                                            int64_t column, int64_t count, REAL unscale, int real,
                                            REAL buffers[4][CHUNK])
{
    static const REAL zeros[CHUNK];
    struct pieces pieces = {.dtype = REAL_DTYPE};
    int close = x->column_stride == 1 && unscale == 1;
    if (close && (x->dtype == REAL_DTYPE || (REAL_IS_FLOAT && x->dtype == BFLOAT16 && !real)))
        pieces.dtype = x->dtype;
    else
        close = 0;
    int64_t size = size_of(pieces.dtype), offsets[4];
    for (int k = 0; k < rows->count; k++) {
        offsets[k] = rows->number[k] * x->row_stride + column * x->column_stride;
        pieces.row[k] = close ? (const void *)(matrix + offsets[k] * size) : buffers[k];
    }
    for (int k = rows->count; k < 4; k++)
        pieces.row[k] = zeros;
    if (!close && rows->count == 4 && x->column_stride == 1)
        NAME(convert_rows)(x->dtype, matrix, offsets, count, unscale, buffers);
    else if (!close)
        for (int k = 0; k < rows->count; k++)
            NAME(convert)(x, matrix, offsets[k], count, unscale, buffers[k]);
    return pieces;
}

/* Whether a row's gradient has no bit set; not checked for rows that are not contiguous. */
static OUT_OF_LINE int NAME(is_zero)(const struct entry *e, const char *grads, int64_t row)
{
    if (e->grad.column_stride != 1)
        return 0;
    int64_t size = size_of(e->grad.dtype), count = e->columns * size;
    const char *bytes = grads + row * e->grad.row_stride * size;
    char bits = 0;
    for (int64_t j = 0; j < count; j++)
        bits |= bytes[j];
    return bits == 0;
}

static OUT_OF_LINE double NAME(squares_of_p)(const struct entry *e, const struct tile *t)
{
    const char *params = matrix_of(e, &e->param, t->matrix, size_of(e->param.dtype));
    REAL buffers[4][CHUNK];
    double sum = 0;
    for (int64_t fold = t->row; fold < t->row + t->rows; fold += FOLD) {
        struct fold all = fold_of(t, fold, NULL);
        for (int64_t i = 0; i < all.groups; i++) {
            struct rows rows = rows_of(&all, i);
            for (int64_t start = 0; start < t->columns; start += CHUNK) {
                int64_t count = smaller(t->columns - start, CHUNK);
                struct pieces p =
                    NAME(read_rows)(&e->param, params, &rows, t->column + start, count, 1, 0, buffers);
                sum += NAME(sum_of_squares)(&p, count);
            }
        }
    }
    return sum;
}

/* Adds a row's sum of squares to R, or, if the tile does not have all columns, to the sums of its range of columns. Of
 * a shard it is kept among the sums that processes exchange. `row` counts the rows of all matrices. */
static void NAME(keep_row)(const struct entry *e, int64_t row, double sum, double *row_sum, int first)
{
    REAL *average = (REAL *)e->row_var + row;
    if (row_sum)
        *row_sum = (first ? 0 : *row_sum) + sum;
    else if (e->row_sums)
        set_sum(e, e->row_sums, row, (first ? 0 : sum_at(e, e->row_sums, row)) + sum);
    else if (first)
        *average = NAME(averaged)(e, *average, sum, e->columns);
    else
        *average = (REAL)((double)*average + e->omega * (sum / (double)e->columns));
}

/* First pass over a tile. Column sums go to `slot`, or directly into C if it is NULL: the tile then has all rows. Row
 * sums go to `row_sums` with stride `apart`, or directly into R if it is NULL: the tile then has all columns. */
static OUT_OF_LINE void NAME(squares)(const struct entry *e, const struct tile *t, REAL unscale, double *slot,
                                      double *row_sums, int64_t apart, uint8_t *zero_rows)
{
    const char *grads = matrix_of(e, &e->grad, t->matrix, size_of(e->grad.dtype));
    REAL *C = (REAL *)e->col_var + t->matrix * e->columns;
    REAL sums[SPAN], buffers[4][CHUNK];
    double totals[SPAN];
    for (int64_t span = t->column; span < t->column + t->columns; span += SPAN) {
        int64_t width = smaller(t->column + t->columns - span, SPAN);
        int first = span == t->column;
        double *total = slot ? slot + span : totals;
        memset(total, 0, (size_t)width * sizeof(double));
        for (int64_t fold = t->row; fold < t->row + t->rows; fold += FOLD) {
            struct fold all = fold_of(t, fold, NULL);
            memset(sums, 0, (size_t)width * sizeof(REAL));
            for (int64_t i = 0; i < all.groups; i++) {
                struct rows rows = rows_of(&all, i);
                double row_sum[4] = {0};
                for (int64_t start = 0; start < width; start += CHUNK) {
                    int64_t count = smaller(width - start, CHUNK);
                    struct pieces g =
                        NAME(read_rows)(&e->grad, grads, &rows, span + start, count, unscale, 0, buffers);
                    NAME(square_rows)(&g, count, sums + start, row_sum);
                }
                for (int k = 0; k < rows.count; k++) {
                    int64_t row = rows.number[k];
                    NAME(keep_row)(e, t->matrix * e->rows + row, row_sum[k], row_sums ? row_sums + row * apart : NULL, first);
                    if (zero_rows && first)
                        mark(zero_rows, row, row_sum[k] == 0 && NAME(is_zero)(e, grads, row));
                }
            }
            for (int64_t j = 0; j < width; j++)
                total[j] += (double)sums[j];
        }
        for (int64_t j = 0; !slot && e->column_sums && j < width; j++)
            set_sum(e, e->column_sums, t->matrix * e->columns + span + j, total[j]);
        for (int64_t j = 0; !slot && !e->column_sums && j < width; j++)
            C[span + j] = NAME(averaged)(e, C[span + j], total[j], e->rows);
    }
}

/* 1/sqrt(C) of a span of columns: those of all columns where they are known. */
static const REAL *NAME(factors_of_span)(const struct entry *e, const struct NAME(factors) *f, int64_t matrix,
                                         int64_t span, int64_t width, REAL *restrict buffer)
{
    if (f->columns)
        return f->columns + span;
    NAME(column_factors)((const REAL *)e->col_var + matrix * e->columns + span, width, f->floor, buffer);
    return buffer;
}

/* 1/sqrt(r) of four rows, r = R/mean(R). */
static inline void NAME(row_factors)(const REAL *R, const struct rows *rows, const struct NAME(factors) *f,
                                     REAL factors[4])
{
    for (int k = 0; k < 4; k++)
        factors[k] = k < rows->count ? NAME(factor)(R[rows->number[k]] / f->mean, f->floor) : 1;
}

/* Second pass over a tile: the sum of U^2. */
static OUT_OF_LINE double NAME(updates)(const struct entry *e, const struct tile *t, REAL unscale,
                                        const struct NAME(factors) *f, const uint8_t *zero_rows)
{
    const char *grads = matrix_of(e, &e->grad, t->matrix, size_of(e->grad.dtype));
    const REAL *R = (const REAL *)e->row_var + t->matrix * e->rows;
    REAL buffers[4][CHUNK], factors[SPAN], row_factors[4];
    double sum = 0;
    for (int64_t span = t->column; span < t->column + t->columns; span += SPAN) {
        int64_t width = smaller(t->column + t->columns - span, SPAN);
        const REAL *columns = NAME(factors_of_span)(e, f, t->matrix, span, width, factors);
        for (int64_t fold = t->row; fold < t->row + t->rows; fold += FOLD) {
            struct fold some = fold_of(t, fold, zero_rows);
            for (int64_t i = 0; i < some.groups; i++) {
                struct rows rows = rows_of(&some, i);
                NAME(row_factors)(R, &rows, f, row_factors);
                for (int64_t start = 0; start < width; start += CHUNK) {
                    int64_t count = smaller(width - start, CHUNK);
                    struct pieces g =
                        NAME(read_rows)(&e->grad, grads, &rows, span + start, count, unscale, 0, buffers);
                    sum += NAME(sum_updates)(&g, columns + start, row_factors, f->cap, count);
                }
            }
        }
    }
    return sum;
}

/* The end of the third pass: p in the parameter's dtype. */
static OUT_OF_LINE void NAME(write_back)(const struct entry *e, const struct place *at, int64_t row, int64_t column,
                                         int64_t count, const REAL *values)
{
#if REAL_IS_FLOAT
    if (e->flags & STOCHASTIC) {
        int64_t stride = e->param.column_stride;
        uint16_t *to = (uint16_t *)at->params + row * e->param.row_stride + column * stride;
        uint16_t blocks[CHUNK + BLOCK * BLOCKS];
        struct keys keys = keys_of(e->seed);
        uint32_t row_of_all = (uint32_t)(at->first_row + row);
        int64_t column_of_all = e->first_column + column, lane = column_of_all % BLOCK;
        const uint16_t *bits = blocks + lane;
        for (int64_t j = 0; j < lane + count; j += BLOCK * BLOCKS)
            random_blocks(&keys, (uint32_t)((column_of_all + j) / BLOCK), row_of_all, (uint32_t)(int64_t)e->t,
                          (uint32_t)e->index, blocks + j);
        if (stride == 1)
            for (int64_t j = 0; j < count; j++)
                to[j] = bfloat16_at_random(values[j], bits[j]);
        else
            for (int64_t j = 0; j < count; j++)
                to[j * stride] = bfloat16_at_random(values[j], bits[j]);
        return;
    }
#endif
    NAME(write)(&e->param, at->params, row, column, count, values);
}

/* Third pass over a piece of one row, with momentum. */
static OUT_OF_LINE void NAME(apply_momentum)(const struct entry *e, const struct place *at, int64_t row, int64_t column,
                                             int64_t count, const REAL *g, const REAL *columns, REAL row_factor,
                                             REAL cap, double scale, double decay, REAL *restrict p)
{
    REAL beta1 = (REAL)e->beta1, newest = (REAL)((1 - e->beta1) * scale), keep = (REAL)decay, buffer[CHUNK];
    REAL *m = (REAL *)NAME(read)(&e->exp_avg, at->averages, row, column, count, 1, buffer);
    for (int64_t j = 0; j < count; j++) {
        REAL inverse = row_factor * columns[j], u = g[j] * (cap < inverse ? cap : inverse);
        m[j] = beta1 * m[j] + newest * u;
        p[j] = keep * p[j] - m[j];
    }
    if (!NAME(in_place)(&e->exp_avg))
        NAME(write)(&e->exp_avg, at->averages, row, column, count, m);
}

/* Third pass over pieces of four rows: p is updated in place, or in a buffer and then written back. */
static OUT_OF_LINE void NAME(apply_pieces)(const struct entry *e, const struct place *at, const struct rows *rows,
                                           const struct pieces *g, int64_t column, int64_t count, const REAL *columns,
                                           const REAL row_factors[4], REAL cap, double scale, double decay)
{
    REAL buffers[4][CHUNK];
    REAL *out[4];
    int momentum = at->averages != NULL;
    struct pieces p = NAME(read_rows)(&e->param, at->params, rows, column, count, 1,
                                      momentum || g->dtype != e->param.dtype, buffers);
    for (int k = 0; k < 4; k++)
        out[k] = k < rows->count && NAME(in_place)(&e->param) ? (REAL *)p.row[k] : buffers[k];
    if (!momentum)
        NAME(apply_rows)(g, &p, columns, row_factors, cap, (REAL)decay, (REAL)scale, count, out);
    for (int k = 0; k < rows->count; k++) {
        if (momentum)
            NAME(apply_momentum)(e, at, rows->number[k], column, count, g->row[k], columns, row_factors[k], cap, scale,
                                 decay, out[k]);
        if (!NAME(in_place)(&e->param))
            NAME(write_back)(e, at, rows->number[k], column, count, out[k]);
    }
}

/* Third pass over a tile. */
static OUT_OF_LINE void NAME(apply)(const struct entry *e, const struct tile *t, REAL unscale,
                                    const struct NAME(factors) *f, const uint8_t *zero_rows, double scale,
                                    double decay)
{
    struct place at = place_of(e, t->matrix);
    const REAL *R = (const REAL *)e->row_var + t->matrix * e->rows;
    REAL buffers[4][CHUNK], factors[SPAN], row_factors[4];
    int real = at.averages || e->param.dtype != e->grad.dtype || e->param.column_stride != 1;
    for (int64_t span = t->column; span < t->column + t->columns; span += SPAN) {
        int64_t width = smaller(t->column + t->columns - span, SPAN);
        const REAL *columns = NAME(factors_of_span)(e, f, t->matrix, span, width, factors);
        for (int64_t fold = t->row; fold < t->row + t->rows; fold += FOLD) {
            struct fold some = fold_of(t, fold, zero_rows);
            for (int64_t i = 0; i < some.groups; i++) {
                struct rows rows = rows_of(&some, i);
                NAME(row_factors)(R, &rows, f, row_factors);
                for (int64_t start = 0; start < width; start += CHUNK) {
                    int64_t count = smaller(width - start, CHUNK);
                    struct pieces g =
                        NAME(read_rows)(&e->grad, at.grads, &rows, span + start, count, unscale, real, buffers);
                    NAME(apply_pieces)(e, &at, &rows, &g, span + start, count, columns + start, row_factors, f->cap,
                                       scale, decay);
                }
            }
        }
    }
}

/* U on a piece of a vector. */
static OUT_OF_LINE void NAME(update_vector)(const REAL *g, const REAL *v, REAL floor, int64_t count, REAL *restrict u)
{
    for (int64_t j = 0; j < count; j++)
        u[j] = g[j] * (1 / SQRT(v[j] < floor ? floor : v[j]));
}

/* First and second pass over a piece of a vector: updates V with G^2; the sum of U^2. */
static OUT_OF_LINE double NAME(measure_vector)(const struct entry *e, int64_t start, int64_t end, REAL unscale)
{
    static const REAL zeros[CHUNK];
    REAL buffer[CHUNK], u[CHUNK];
    REAL keep = (REAL)(1 - e->omega), newest = (REAL)e->omega, added = (REAL)(e->omega * e->added);
    double sum = 0;
    for (; start < end; start += CHUNK) {
        int64_t count = smaller(end - start, CHUNK);
        const REAL *g = NAME(read)(&e->grad, e->grad.data, 0, start, count, unscale, buffer);
        REAL *restrict v = (REAL *)e->variance + start;
        for (int64_t j = 0; j < count; j++)
            v[j] = keep * v[j] + added + newest * (g[j] * g[j]);
        NAME(update_vector)(g, v, (REAL)e->variance_floor, count, u);
        struct pieces pieces = {REAL_DTYPE, {u, zeros, zeros, zeros}};
        sum += NAME(sum_of_squares)(&pieces, count);
    }
    return sum;
}

/* Third pass over a piece of a vector: one row whose columns' factors are 1/sqrt(V). */
static OUT_OF_LINE void NAME(apply_vector)(const struct entry *e, int64_t start, int64_t end, REAL unscale,
                                           double scale, double decay)
{
    static const REAL zeros[CHUNK];
    struct place at = place_of(e, 0);
    struct rows row = {1, {0}};
    REAL buffer[CHUNK], factors[CHUNK], floor = (REAL)e->variance_floor;
    for (; start < end; start += CHUNK) {
        int64_t count = smaller(end - start, CHUNK);
        const REAL *v = (const REAL *)e->variance + start;
        const REAL *gradient = NAME(read)(&e->grad, at.grads, 0, start, count, unscale, buffer);
        struct pieces g = {REAL_DTYPE, {gradient, zeros, zeros, zeros}};
        for (int64_t j = 0; j < count; j++)
            factors[j] = 1 / SQRT(v[j] < floor ? floor : v[j]);
        const REAL ones[4] = {1, 1, 1, 1};
        NAME(apply_pieces)(e, &at, &row, &g, start, count, factors, ones, (REAL)INFINITY, scale, decay);
    }
}
