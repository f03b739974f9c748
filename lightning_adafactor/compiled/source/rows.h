/* Rows of tensors as contiguous numbers of the arithmetic's dtype, REAL. Included once for each REAL. */

#ifndef EACH_DTYPE
/* The cases of a switch over dtypes: COPY(type of a number in memory, its conversion). */
#define EACH_DTYPE(COPY, OF_BFLOAT16, OF_FLOAT16)                                                                      \
    case FLOAT32:                                                                                                      \
        COPY(float, )                                                                                                  \
    case FLOAT64:                                                                                                      \
        COPY(double, )                                                                                                 \
    case BFLOAT16:                                                                                                     \
        COPY(uint16_t, OF_BFLOAT16)                                                                                    \
    case FLOAT16:                                                                                                      \
        COPY(uint16_t, OF_FLOAT16)
#endif

/* Copies a piece of a row into the buffer as REAL. */
static OUT_OF_LINE void NAME(convert)(const struct operand *x, const char *matrix, int64_t offset, int64_t count,
                                      REAL unscale, REAL *restrict buffer)
{
    int64_t stride = x->column_stride;
    switch (x->dtype) {
#define COPY(TYPE, CONVERT)                                                                                            \
    {                                                                                                                  \
        const TYPE *from = (const TYPE *)matrix + offset;                                                              \
        if (stride == 1)                                                                                               \
            for (int64_t j = 0; j < count; j++)                                                                        \
                buffer[j] = (REAL)CONVERT(from[j]) * unscale;                                                          \
        else                                                                                                           \
            for (int64_t j = 0; j < count; j++)                                                                        \
                buffer[j] = (REAL)CONVERT(from[j * stride]) * unscale;                                                 \
        break;                                                                                                         \
    }
        EACH_DTYPE(COPY, float_of_bfloat16, float_of_float16)
#undef COPY
    }
}

/* Copies contiguous pieces of four rows into the buffers as REAL: four streams at once. */
static OUT_OF_LINE void NAME(convert_rows)(int64_t dtype, const char *matrix, const int64_t offsets[4], int64_t count,
                                           REAL unscale, REAL (*restrict buffers)[CHUNK])
{
    switch (dtype) {
#define COPY(TYPE, CONVERT)                                                                                            \
    {                                                                                                                  \
        const TYPE *from = (const TYPE *)matrix, *from0 = from + offsets[0], *from1 = from + offsets[1];               \
        const TYPE *from2 = from + offsets[2], *from3 = from + offsets[3];                                             \
        for (int64_t j = 0; j < count; j++) {                                                                          \
            buffers[0][j] = (REAL)CONVERT(from0[j]) * unscale;                                                         \
            buffers[1][j] = (REAL)CONVERT(from1[j]) * unscale;                                                         \
            buffers[2][j] = (REAL)CONVERT(from2[j]) * unscale;                                                         \
            buffers[3][j] = (REAL)CONVERT(from3[j]) * unscale;                                                         \
        }                                                                                                              \
        break;                                                                                                         \
    }
        EACH_DTYPE(COPY, float_of_bfloat16, float_of_float16)
#undef COPY
    }
}

/* A piece of a row as REAL: in place if it already is, else in the buffer. */
static inline const REAL *NAME(read)(const struct operand *x, const char *matrix, int64_t row, int64_t column,
                                     int64_t count, REAL unscale, REAL *restrict buffer)
{
    int64_t offset = row * x->row_stride + column * x->column_stride;
    if (x->dtype == REAL_DTYPE && x->column_stride == 1 && unscale == 1)
        return (const REAL *)matrix + offset;
    NAME(convert)(x, matrix, offset, count, unscale, buffer);
    return buffer;
}

/* Whether a row can be written in place. */
static int NAME(in_place)(const struct operand *x)
{
    return x->dtype == REAL_DTYPE && x->column_stride == 1;
}

/* Writes a piece of a row, each number rounded to nearest. */
static OUT_OF_LINE void NAME(write)(const struct operand *x, char *matrix, int64_t row, int64_t column, int64_t count,
                                    const REAL *restrict values)
{
    int64_t offset = row * x->row_stride + column * x->column_stride, stride = x->column_stride;
    switch (x->dtype) {
#define COPY(TYPE, CONVERT)                                                                                            \
    {                                                                                                                  \
        TYPE *to = (TYPE *)matrix + offset;                                                                            \
        if (stride == 1)                                                                                               \
            for (int64_t j = 0; j < count; j++)                                                                        \
                to[j] = (TYPE)CONVERT(values[j]);                                                                      \
        else                                                                                                           \
            for (int64_t j = 0; j < count; j++)                                                                        \
                to[j * stride] = (TYPE)CONVERT(values[j]);                                                             \
        break;                                                                                                         \
    }
        EACH_DTYPE(COPY, bfloat16_of_float, float16_of_float)
#undef COPY
    }
}

/* Sum of the lanes by halves, in an order that every instruction set can keep: vectors first, then their elements. */
static inline REAL NAME(sum_of)(const NAME(vector) lanes[VECTORS])
{
    NAME(vector) vectors[VECTORS];
    REAL sums[VECTOR_BYTES / sizeof(REAL)];
    for (int v = 0; v < VECTORS; v++)
        vectors[v] = lanes[v];
    for (int half = VECTORS / 2; half; half /= 2)
        for (int v = 0; v < half; v++)
            vectors[v] += vectors[v + half];
    memcpy(sums, vectors, sizeof sums);
    for (int half = VECTOR_BYTES / (int)sizeof(REAL) / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            sums[i] += sums[i + half];
    return sums[0];
}

/* Vector number v of the lanes that begin at x. */
static inline NAME(vector) NAME(load)(const REAL *x, int v)
{
    return ((const NAME(vector) *)x)[v];
}

static inline void NAME(store)(REAL *x, int v, NAME(vector) values)
{
    ((NAME(vector) *)x)[v] = values;
}

/* The smaller of x and the bound; NaN stays NaN. */
static inline NAME(vector) NAME(at_most)(REAL bound, NAME(vector) x)
{
    NAME(vector) bounds = x - x; /* broadcasts the bound */
    for (int i = 0; i < VECTOR_BYTES / (int)sizeof(REAL); i++)
        bounds[i] = bound;
    return (NAME(vector))MIN(bounds, x);
}
