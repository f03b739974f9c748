/* Numbers of 16 bits as float and back, in integer arithmetic that compilers vectorize. */

#ifndef CONVERT_H
#define CONVERT_H

#include <stdint.h>
#include <string.h>

#include "vectors.h"

static inline float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of_bfloat16(uint16_t half)
{
    return float_of_bits((uint32_t)half << 16);
}

typedef float floats VECTOR(float);

/* Vector number v of the bfloat16 numbers that begin at x. */
static inline floats load_bfloat16(const uint16_t *x, int v)
{
    return (floats)BFLOAT16_AT(x + v * VECTOR_BYTES / 4);
}

/* Round to nearest, ties to even. */
static inline uint16_t bfloat16_of_float(float value)
{
    uint32_t bits = bits_of_float(value);
    uint32_t nan = (bits & 0x7fffffffu) > 0x7f800000u;
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return (uint16_t)(nan ? 0x7fc0u : rounded);
}

/* Stochastic rounding: away from zero where random + the dropped digits carries. Infinities and NaN stay. */
static inline uint16_t bfloat16_at_random(float value, uint16_t random)
{
    uint32_t bits = bits_of_float(value);
    uint32_t infinite = (bits & 0x7f800000u) == 0x7f800000u;
    /* a NaN may have set digits among the dropped ones alone: one that is kept is set */
    uint32_t added = infinite ? (bits & 0x007fffffu ? 0x00400000u & ~bits : 0u) : random;
    return (uint16_t)((bits + added) >> 16);
}

static inline float float_of_float16(uint16_t half)
{
    uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    /* subnormal numbers become normal by the multiplication, which is exact */
    float value = float_of_bits(magnitude) * 0x1p112f;
    uint32_t bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : bits_of_float(value);
    return float_of_bits(bits | (uint32_t)(half & 0x8000u) << 16);
}

/* Round to nearest, ties to even. */
static inline uint16_t float16_of_float(float value)
{
    uint32_t bits = bits_of_float(value);
    uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    /* of subnormal results the addition of 0.5 leaves the rounded digits in the lowest bits */
    uint32_t subnormal = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    uint32_t result = magnitude >= 0x477ff000u ? 0x7c00u : finite;
    return (uint16_t)(sign | (magnitude > 0x7f800000u ? 0x7e00u : result));
}

#endif
