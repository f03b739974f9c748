/* The step as a sequence of stages, and what its threads share. */

#ifndef SCHEDULE_H
#define SCHEDULE_H

#include <stdatomic.h>
#include <stdint.h>

#include "entry.h"

/* Pieces of work. Their sizes follow from a tensor's shape alone, never from the number of threads: sums are taken
 * within a piece and added in the order of the pieces, so that all threads together give the bits that one gives. */
enum {
    WHOLE_ELEMENTS = 32768,  /* tensors up to here are one piece */
    PIECE_ELEMENTS = 32768,  /* of the second and third pass: what a thread does in some 10 microseconds */
    STRIP_ELEMENTS = 65536,  /* of the first pass, whose column sums are kept for each strip of rows */
    MOST_STRIPS = 32,
    MOST_PIECES = 512,
    SPAN = 4096              /* columns that a thread processes at a time */
};

/* Scratch memory, all of it (but for the threads' stacks): 976 KiB, whatever the model. */
enum {
    SLOT_SUMS = 65536,       /* doubles: column sums by strip */
    COLUMN_FACTORS = 32768,  /* doubles, or twice as many floats: 1/sqrt(C), if a matrix has no more columns */
    ROW_SUMS = 16384,        /* doubles: row sums by range of columns, where a matrix is split into such ranges */
    ZERO_ROWS = 262144       /* bits: rows without any gradient, if a matrix has no more rows */
};

struct scratch {
    double slots[SLOT_SUMS];
    double column_factors[COLUMN_FACTORS];
    double row_sums[ROW_SUMS];
    /* two sets: the first pass over a tensor begins while the third pass over the previous one is still running */
    uint8_t zero_rows[2][ZERO_ROWS / 8];
    double squares_of_p[2][MOST_PIECES];  /* by piece */
    double squares_of_u[2][MOST_PIECES];
};

/* What merging a matrix's sums yields for later passes. */
struct merged {
    double mean;             /* mean(R), not below its floor */
    double squares_of_p;     /* over all matrices up to this one */
    double squares_of_u;     /* over all matrices before this one */
    int finite;              /* whether a row without gradient certainly has an update of zero */
};

enum kind {
    WHOLE,    /* all passes over a small tensor */
    MEASURE,  /* the first two passes over pieces of a vector, or groups of small matrices */
    FINISH,   /* the third pass over those */
    SQUARES,  /* the first pass over strips of a large matrix */
    MERGE,    /* one piece: C and mean(R) from the strips' sums, and the factors of the columns */
    UPDATES,  /* the second pass over pieces of a large matrix */
    FOLD_SUMS, /* one piece: a shard's R and C from the sums of all processes, and what MERGE yields */
    TOTAL,    /* one piece: a shard's sum of U^2, or of p^2, from those of the pieces */
    FACTORS,  /* one piece: mean(R) and the factors of the columns again, for a matrix of a batch */
    APPLY     /* the third pass over pieces of a large matrix */
};

/* How a matrix is split: into pieces of `rows` times `columns`, numbered along the columns first. */
struct grid {
    int64_t rows;
    int64_t columns;
    int64_t across;  /* pieces along the columns */
    int64_t down;    /* pieces along the rows */
};

struct stage {
    enum kind kind;
    int64_t entry;
    int64_t matrix;
    struct grid strips;   /* of the first pass */
    struct grid pieces;   /* of the others; of vectors and groups: `rows` matrices or `columns` elements */
    int64_t first;        /* number of its first item of work among those of all stages */
    int64_t count;        /* of its items */
    int64_t depends;      /* all items below this number must be complete before one of this stage begins */
    int64_t barrier;      /* the same for the first stage of the next tensor of several stages */
    int set;              /* which of the two sets of sums */
    int scaled;           /* whether scale and decay are known to this thread */
    double scale;         /* alpha / max(1, RMS(U) / d), negative to maximize */
    double decay;         /* what weight decay leaves of the parameter */
};

/* What a call does. Of shards each pass is a call of its own, for processes add up their sums in between. */
enum phase { ALL_PASSES, SUM_SQUARES, SUM_UPDATES, APPLY_UPDATES };

struct step {
    struct entry *entries;
    int64_t count;
    int64_t phase;
    double unscale;              /* what gradients are multiplied by before use */
    struct scratch *scratch;
    struct merged merged[2];
    void (*run)(struct step *, struct stage *, int64_t item);
};

/* The passes, compiled once for each instruction set. */
void run_baseline(struct step *, struct stage *, int64_t item);
void run_avx2(struct step *, struct stage *, int64_t item);
void run_avx512(struct step *, struct stage *, int64_t item);

#endif
