/* The three passes over a tile of a matrix, and over a piece of a vector. Included once for each REAL.
 *
 * Rows are worked on four at a time, a quarter of a fold apart: the memory then delivers four streams at once, which was
 * measured to take 14 to 16 GB/s where one stream takes 9. */

/* What the second and third pass know of a matrix. */
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

/* 1/sqrt(x). Without a floor of V-hat, x itself is kept from zero, as in plain.py. */
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

/* An average takes in the newest mean of squares. */
static inline REAL NAME(averaged)(const struct entry *e, REAL average, double sum, int64_t count)
{
    double omega = e->omega;
    return (REAL)((1 - omega) * (double)average + omega * (sum / (double)count + e->added));
}

/* mean(R) of a matrix, not below its floor; NaN stays NaN. */
static double NAME(mean_of)(const struct entry *e, int64_t matrix)
{
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

/* Pieces of up to four rows as REAL; what is missing of four is a row of zeros, or a buffer that nobody reads. */
static inline void NAME(read_rows)(const struct operand *x, const char *matrix, const struct rows *rows, int64_t column,
                                   int64_t count, REAL unscale, REAL buffers[4][CHUNK], const REAL *pieces[4])
{
    static const REAL zeros[CHUNK];
    int as_it_lies = x->dtype == REAL_DTYPE && unscale == 1;
    if (rows->count == 4 && x->column_stride == 1 && !as_it_lies) {
        int64_t offsets[4];
        for (int k = 0; k < 4; k++) {
            offsets[k] = rows->number[k] * x->row_stride + column;
            pieces[k] = buffers[k];
        }
        NAME(convert_rows)(x->dtype, matrix, offsets, count, unscale, buffers);
        return;
    }
    for (int k = 0; k < 4; k++)
        pieces[k] = k < rows->count ? NAME(read)(x, matrix, rows->number[k], column, count, unscale, buffers[k]) : zeros;
}

/* First pass over pieces of four rows: adds their squares to the columns' sums and to each row's own. */
static OUT_OF_LINE void NAME(square_rows)(const REAL *const g[4], int64_t count, REAL *restrict columns, double sums[4])
{
    NAME(vector) s[4][VECTORS] = {{{0}}};
    REAL rest[4] = {0};
    int64_t j = 0;
    for (; j + LANES <= count; j += LANES)
        for (int v = 0; v < VECTORS; v++) {
            NAME(vector) a = NAME(load)(g[0] + j, v), b = NAME(load)(g[1] + j, v);
            NAME(vector) c = NAME(load)(g[2] + j, v), d = NAME(load)(g[3] + j, v);
            a *= a;
            b *= b;
            c *= c;
            d *= d;
            s[0][v] += a;
            s[1][v] += b;
            s[2][v] += c;
            s[3][v] += d;
            NAME(store)(columns + j, v, NAME(load)(columns + j, v) + ((a + b) + (c + d)));
        }
    for (; j < count; j++) {
        REAL squares[4];
        for (int k = 0; k < 4; k++) {
            squares[k] = g[k][j] * g[k][j];
            rest[k] += squares[k];
        }
        columns[j] += (squares[0] + squares[1]) + (squares[2] + squares[3]);
    }
    for (int k = 0; k < 4; k++)
        sums[k] += (double)NAME(sum_of)(s[k]) + (double)rest[k];
}

/* The sum of the squares of pieces of four rows. */
static OUT_OF_LINE double NAME(sum_of_squares)(const REAL *const x[4], int64_t count)
{
    NAME(vector) s[4][VECTORS] = {{{0}}};
    REAL rest[4] = {0};
    int64_t j = 0;
    for (; j + LANES <= count; j += LANES)
        for (int v = 0; v < VECTORS; v++)
            for (int k = 0; k < 4; k++) {
                NAME(vector) value = NAME(load)(x[k] + j, v);
                s[k][v] += value * value;
            }
    for (; j < count; j++)
        for (int k = 0; k < 4; k++)
            rest[k] += x[k][j] * x[k][j];
    double sum = 0;
    for (int k = 0; k < 4; k++)
        sum += (double)NAME(sum_of)(s[k]) + (double)rest[k];
    return sum;
}

/* Second pass over pieces of four rows: the sum of U^2, U = G * min(1/sqrt(r) * 1/sqrt(C), 1/epsilon1). */
static OUT_OF_LINE double NAME(sum_updates)(const REAL *const g[4], const REAL *columns, const REAL rows[4], REAL cap,
                                            int64_t count)
{
    NAME(vector) s[4][VECTORS] = {{{0}}};
    REAL rest[4] = {0};
    int64_t j = 0;
    for (; j + LANES <= count; j += LANES)
        for (int v = 0; v < VECTORS; v++) {
            NAME(vector) column = NAME(load)(columns + j, v);
            for (int k = 0; k < 4; k++) {
                NAME(vector) u = NAME(load)(g[k] + j, v) * NAME(at_most)(cap, rows[k] * column);
                s[k][v] += u * u;
            }
        }
    for (; j < count; j++)
        for (int k = 0; k < 4; k++) {
            REAL inverse = rows[k] * columns[j], u = g[k][j] * (cap < inverse ? cap : inverse);
            rest[k] += u * u;
        }
    double sum = 0;
    for (int k = 0; k < 4; k++)
        sum += (double)NAME(sum_of)(s[k]) + (double)rest[k];
    return sum;
}

/* Third pass over pieces of four rows: p = keep*p - by*U. */
static OUT_OF_LINE void NAME(apply_rows)(const REAL *const g[4], REAL *const p[4], const REAL *columns,
                                         const REAL rows[4], REAL cap, REAL keep, REAL by, int64_t count)
{
    enum { WIDTH = VECTOR_BYTES / sizeof(REAL) };
    int64_t j = 0;
    for (; j + WIDTH <= count; j += WIDTH) {
        NAME(vector) column = NAME(load)(columns + j, 0);
        for (int k = 0; k < 4; k++) {
            NAME(vector) u = NAME(load)(g[k] + j, 0) * NAME(at_most)(cap, rows[k] * column);
            NAME(store)(p[k] + j, 0, keep * NAME(load)(p[k] + j, 0) - by * u);
        }
    }
    for (; j < count; j++)
        for (int k = 0; k < 4; k++) {
            REAL inverse = rows[k] * columns[j], u = g[k][j] * (cap < inverse ? cap : inverse);
            p[k][j] = keep * p[k][j] - by * u;
        }
}

/* The same with momentum: m = beta1*m + newest*u, p = keep*p - m; u becomes m. */
static OUT_OF_LINE void NAME(apply_momentum)(const struct entry *e, REAL *restrict p, REAL *restrict m,
                                             const REAL *restrict u, double scale, double decay, int64_t count)
{
    REAL beta1 = (REAL)e->beta1, newest = (REAL)((1 - e->beta1) * scale), keep = (REAL)decay;
    for (int64_t j = 0; j < count; j++) {
        m[j] = beta1 * m[j] + newest * u[j];
        p[j] = keep * p[j] - m[j];
    }
}

/* Whether a row's gradient has no bit set; not asked of rows whose numbers lie apart. */
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
    const REAL *p[4];
    double sum = 0;
    for (int64_t fold = t->row; fold < t->row + t->rows; fold += FOLD) {
        struct fold all = fold_of(t, fold, NULL);
        for (int64_t i = 0; i < all.groups; i++) {
            struct rows rows = rows_of(&all, i);
            for (int64_t start = 0; start < t->columns; start += CHUNK) {
                int64_t count = smaller(t->columns - start, CHUNK);
                NAME(read_rows)(&e->param, params, &rows, t->column + start, count, 1, buffers, p);
                sum += NAME(sum_of_squares)(p, count);
            }
        }
    }
    return sum;
}

/* A row's sum of squares goes into R, or where the tile has not all columns, to the sums of its range of columns. */
static void NAME(keep_row)(const struct entry *e, REAL *average, double sum, double *row_sum, int first)
{
    if (row_sum)
        *row_sum = (first ? 0 : *row_sum) + sum;
    else if (first)
        *average = NAME(averaged)(e, *average, sum, e->columns);
    else
        *average = (REAL)((double)*average + e->omega * (sum / (double)e->columns));
}

/* First pass over a tile. The columns' sums go to `slot`, or at once into C if it is NULL: the tile then has all rows.
 * The rows' sums go to `row_sums`, one in `apart`, or at once into R if it is NULL: the tile then has all columns. */
static OUT_OF_LINE void NAME(squares)(const struct entry *e, const struct tile *t, REAL unscale, double *slot,
                                      double *row_sums, int64_t apart, uint8_t *zero_rows)
{
    const char *grads = matrix_of(e, &e->grad, t->matrix, size_of(e->grad.dtype));
    REAL *R = (REAL *)e->row_var + t->matrix * e->rows, *C = (REAL *)e->col_var + t->matrix * e->columns;
    REAL sums[SPAN], buffers[4][CHUNK];
    const REAL *g[4];
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
                    NAME(read_rows)(&e->grad, grads, &rows, span + start, count, unscale, buffers, g);
                    NAME(square_rows)(g, count, sums + start, row_sum);
                }
                for (int k = 0; k < rows.count; k++) {
                    int64_t row = rows.number[k];
                    NAME(keep_row)(e, &R[row], row_sum[k], row_sums ? row_sums + row * apart : NULL, first);
                    if (zero_rows && first)
                        mark(zero_rows, row, row_sum[k] == 0 && NAME(is_zero)(e, grads, row));
                }
            }
            for (int64_t j = 0; j < width; j++)
                total[j] += (double)sums[j];
        }
        for (int64_t j = 0; !slot && j < width; j++)
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
    const REAL *R = (const REAL *)e->row_var + t->matrix * e->rows, *g[4];
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
                    NAME(read_rows)(&e->grad, grads, &rows, span + start, count, unscale, buffers, g);
                    sum += NAME(sum_updates)(g, columns + start, row_factors, f->cap, count);
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
        uint16_t bits[CHUNK];
        struct keys keys = keys_of(e->seed);
        uint32_t row_of_all = (uint32_t)(at->matrix * e->rows + row);
        for (int64_t j = 0; j < count; j += BLOCK * BLOCKS)
            random_blocks(&keys, (uint32_t)((column + j) / BLOCK), row_of_all, (uint32_t)(int64_t)e->t,
                          (uint32_t)e->index, bits + j);
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

/* Third pass over pieces of four rows of any dtype and strides. */
static OUT_OF_LINE void NAME(apply_piece)(const struct entry *e, const struct place *at, const struct rows *rows,
                                          const REAL *const g[4], int64_t column, int64_t count, const REAL *columns,
                                          const REAL row_factors[4], REAL cap, double scale, double decay)
{
    REAL buffers[4][CHUNK], moments[CHUNK];
    const REAL *read[4];
    REAL *p[4];
    NAME(read_rows)(&e->param, at->params, rows, column, count, 1, buffers, read);
    for (int k = 0; k < 4; k++)
        p[k] = k < rows->count ? (REAL *)read[k] : memset(buffers[k], 0, sizeof buffers[k]);
    if (!at->averages)
        NAME(apply_rows)(g, p, columns, row_factors, cap, (REAL)decay, (REAL)scale, count);
    for (int k = 0; k < rows->count; k++) {
        int64_t row = rows->number[k];
        if (at->averages) {
            REAL u[CHUNK];
            for (int64_t j = 0; j < count; j++) {
                REAL inverse = row_factors[k] * columns[j];
                u[j] = g[k][j] * (cap < inverse ? cap : inverse);
            }
            REAL *m = (REAL *)NAME(read)(&e->exp_avg, at->averages, row, column, count, 1, moments);
            NAME(apply_momentum)(e, p[k], m, u, scale, decay, count);
            if (!NAME(in_place)(&e->exp_avg))
                NAME(write)(&e->exp_avg, at->averages, row, column, count, m);
        }
        if (!NAME(in_place)(&e->param))
            NAME(write_back)(e, at, row, column, count, p[k]);
    }
}

/* Third pass over a tile. */
static OUT_OF_LINE void NAME(apply)(const struct entry *e, const struct tile *t, REAL unscale,
                                    const struct NAME(factors) *f, const uint8_t *zero_rows, double scale,
                                    double decay)
{
    struct place at = place_of(e, t->matrix);
    const REAL *R = (const REAL *)e->row_var + t->matrix * e->rows, *g[4];
    REAL buffers[4][CHUNK], factors[SPAN], row_factors[4];
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
                    NAME(read_rows)(&e->grad, at.grads, &rows, span + start, count, unscale, buffers, g);
                    NAME(apply_piece)(e, &at, &rows, g, span + start, count, columns + start, row_factors, f->cap,
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

/* First and second pass over a piece of a vector: V takes in G^2; the sum of U^2. */
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
        const REAL *const pieces[4] = {u, zeros, zeros, zeros};
        sum += NAME(sum_of_squares)(pieces, count);
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
        const REAL *g[4] = {NAME(read)(&e->grad, at.grads, 0, start, count, unscale, buffer), zeros, zeros, zeros};
        for (int64_t j = 0; j < count; j++)
            factors[j] = 1 / SQRT(v[j] < floor ? floor : v[j]);
        const REAL ones[4] = {1, 1, 1, 1};
        NAME(apply_piece)(e, &at, &row, g, start, count, factors, ones, (REAL)INFINITY, scale, decay);
    }
}
