/* Vectors as wide as the target's registers, and operations for which C has no operator. */

#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define VECTOR(type) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(type)), may_alias))

/* MIN: of each two elements the smaller one, and if one is NaN, the second one.
 * MULTIPLY: of each two 64-bit elements the product of their lower halves.
 * BFLOAT16_AT: as many bfloat16 numbers as a vector has floats, each in the upper half of an element.
 * EVEN, ODD: the even or odd 64-bit elements of two vectors in turn: a0 b0 a2 b2 …, a1 b1 a3 b3 … */
#if defined(__AVX512F__)
#define MIN_FLOAT(a, b) _mm512_min_ps((__m512)(a), (__m512)(b))
#define MIN_DOUBLE(a, b) _mm512_min_pd((__m512d)(a), (__m512d)(b))
#define MULTIPLY(a, b) (words) _mm512_mul_epu32((__m512i)(a), (__m512i)(b))
#define BFLOAT16_AT(x) _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(x))), 16)
#define EVEN(a, b) (words) _mm512_unpacklo_epi64((__m512i)(a), (__m512i)(b))
#define ODD(a, b) (words) _mm512_unpackhi_epi64((__m512i)(a), (__m512i)(b))
#elif defined(__AVX2__)
#define MIN_FLOAT(a, b) _mm256_min_ps((__m256)(a), (__m256)(b))
#define MIN_DOUBLE(a, b) _mm256_min_pd((__m256d)(a), (__m256d)(b))
#define MULTIPLY(a, b) (words) _mm256_mul_epu32((__m256i)(a), (__m256i)(b))
#define BFLOAT16_AT(x) _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(x))), 16)
#define EVEN(a, b) (words) _mm256_unpacklo_epi64((__m256i)(a), (__m256i)(b))
#define ODD(a, b) (words) _mm256_unpackhi_epi64((__m256i)(a), (__m256i)(b))
#elif defined(__SSE2__)
#define MIN_FLOAT(a, b) _mm_min_ps((__m128)(a), (__m128)(b))
#define MIN_DOUBLE(a, b) _mm_min_pd((__m128d)(a), (__m128d)(b))
#define MULTIPLY(a, b) (words) _mm_mul_epu32((__m128i)(a), (__m128i)(b))
#define BFLOAT16_AT(x) _mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64((const void *)(x)))
#define EVEN(a, b) (words) _mm_unpacklo_epi64((__m128i)(a), (__m128i)(b))
#define ODD(a, b) (words) _mm_unpackhi_epi64((__m128i)(a), (__m128i)(b))
#else
/* vectors of two 64-bit elements */
#define EVEN(a, b) ((words){(a)[0], (b)[0]})
#define ODD(a, b) ((words){(a)[1], (b)[1]})
#define SELECTED(a, b) (((a < b) & (__typeof__(a < b))(a)) | (~(a < b) & (__typeof__(a < b))(b)))
#define MIN_FLOAT(a, b) SELECTED(a, b)
#define MIN_DOUBLE(a, b) SELECTED(a, b)
typedef uint16_t halves __attribute__((vector_size(VECTOR_BYTES / 2), aligned(2), may_alias));
typedef uint32_t bits_of_floats VECTOR(float);
#define BFLOAT16_AT(x) (__builtin_convertvector(*(const halves *)(x), bits_of_floats) << 16)
#if defined(__ARM_NEON)
#define MULTIPLY(a, b) (words) vmull_u32(vmovn_u64((uint64x2_t)(a)), vmovn_u64((uint64x2_t)(b)))
#else
#define MULTIPLY(a, b) (((a) & 0xFFFFFFFFu) * ((b) & 0xFFFFFFFFu))
#endif
#endif

#endif
