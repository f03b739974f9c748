/* Philox4x32-10 as in ../../rounding.py: 16 random bits for each element, 8 neighbors in a row from one block. */

#ifndef PHILOX_H
#define PHILOX_H

#include <stdint.h>
#include <string.h>

#include "vectors.h"

typedef uint64_t words VECTOR(uint64_t); /* a 32-bit word of a block in the lower half of each element */

enum {
    BLOCK = 8,                     /* elements served by one block */
    WORDS = VECTOR_BYTES / 8,      /* blocks in a vector */
    BLOCKS = 2 * WORDS,            /* blocks computed together: two vectors, to hide the latency of the multiplication */
    ROUNDS = 10
};

/* What each round adds to the words: it follows from the seed alone. */
struct keys {
    uint64_t low[ROUNDS];
    uint64_t high[ROUNDS];
};

static struct keys keys_of(uint64_t seed)
{
    struct keys keys;
    uint32_t low = (uint32_t)seed, high = (uint32_t)(seed >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        keys.low[round] = low;
        keys.high[round] = high;
        low += 0x9E3779B9u;
        high += 0xBB67AE85u;
    }
    return keys;
}

/* Random bits of BLOCKS * BLOCK elements, in their order, from block number `first` of a row on.
 * The upper halves of a, b, c and d are ignored: the multiplication reads the lower ones. */
static inline void random_blocks(const struct keys *keys, uint32_t first, uint32_t row, uint32_t step,
                                 uint32_t parameter, uint16_t *restrict bits)
{
    const words zero = {0}, m0 = zero + 0xD2511F53u, m1 = zero + 0xCD9E8D57u, lower = zero + 0xFFFFFFFFu;
    words a[2], b[2], c[2], d[2];
    for (int v = 0; v < 2; v++) {
        /* in the order that makes neighbors adjacent when words are interleaved below */
        for (int i = 0; i < WORDS; i++)
            a[v][i] = first + (uint32_t)(v * WORDS + i / 2 + i % 2 * WORDS / 2);
    }
    /* after the first round a and b, and after the second d, are the same for all blocks: computed once */
    uint64_t product = (uint64_t)step * 0xCD9E8D57u;
    uint64_t a1 = (product >> 32) ^ row ^ keys->low[0], b1 = product, d2 = (uint64_t)(uint32_t)a1 * 0xD2511F53u;
    for (int v = 0; v < 2; v++) {
        words left = MULTIPLY(a[v], m0), c1 = (left >> 32) ^ (parameter ^ keys->high[0]);
        words right = MULTIPLY(c1, m1);
        a[v] = (right >> 32) ^ (b1 ^ keys->low[1]);
        b[v] = right;
        c[v] = left ^ ((d2 >> 32) ^ keys->high[1]);
        d[v] = zero + d2;
    }
    for (int round = 2; round < ROUNDS; round++)
        for (int v = 0; v < 2; v++) {
            words left = MULTIPLY(a[v], m0), right = MULTIPLY(c[v], m1);
            a[v] = (right >> 32) ^ (b[v] ^ keys->low[round]);
            b[v] = right;
            c[v] = (left >> 32) ^ (d[v] ^ keys->high[round]);
            d[v] = left;
        }
    /* the lower half of a word comes before the upper one: the order of bytes on every machine this is built for */
    for (int v = 0; v < 2; v++) {
        words ab = (a[v] & lower) | b[v] << 32, cd = (c[v] & lower) | d[v] << 32;
        words even = EVEN(ab, cd), odd = ODD(ab, cd);
        memcpy(bits + BLOCK * v * WORDS, &even, sizeof even);
        memcpy(bits + BLOCK * (v * WORDS + WORDS / 2), &odd, sizeof odd);
    }
}

#endif
