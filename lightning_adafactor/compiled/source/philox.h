/* Philox4x32-10 as in ../../rounding.py: 16 random bits for each element, 8 neighbours in a row from one block. */

#ifndef PHILOX_H
#define PHILOX_H

#include <stdint.h>
#include <string.h>

enum {
    BLOCK = 8,   /* elements served by one block */
    BLOCKS = 16  /* blocks computed together */
};

/* Random bits of BLOCKS * BLOCK elements, in their order, from block number `first` of a row on. */
static inline void random_blocks(uint64_t seed, uint32_t first, uint32_t row, uint32_t step, uint32_t parameter,
                                 uint16_t *restrict bits)
{
    uint32_t a[BLOCKS], b[BLOCKS], c[BLOCKS], d[BLOCKS];
    for (uint32_t i = 0; i < BLOCKS; i++) {
        a[i] = first + i;
        b[i] = row;
        c[i] = step;
        d[i] = parameter;
    }
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            uint64_t left = (uint64_t)a[i] * 0xD2511F53u, right = (uint64_t)c[i] * 0xCD9E8D57u;
            a[i] = (uint32_t)(right >> 32) ^ b[i] ^ k0;
            b[i] = (uint32_t)right;
            c[i] = (uint32_t)(left >> 32) ^ d[i] ^ k1;
            d[i] = (uint32_t)left;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < BLOCKS; i++) {
        /* the lower half of a word comes before the upper one: the order of bytes on every machine this is built for */
        uint32_t words[4] = {a[i], b[i], c[i], d[i]};
        memcpy(bits + BLOCK * i, words, sizeof words);
    }
}

#endif
