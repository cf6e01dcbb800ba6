// What the instructions of PTX do, for the C++ that ptx.py writes. Registers are unsigned numbers of their size.
#include "emulate.hpp"

#include <cstdio>
#include <limits>
#include <type_traits>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef float f32;
typedef double f64;
struct bf16 {
  u16 bits;
};

static inline f32 wide(bf16 x) { return same_bits<f32>((u32)x.bits << 16); }
static inline bf16 narrow(f32 x) {
  u32 bits = same_bits<u32>(x);
  return {(u16)(x != x ? 0x7fff : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// ---- Registers and memory.

template <class T, class R>
static inline T get(R r) {
  if constexpr (std::is_integral_v<T>) {
    return (T)r;
  } else {
    T x;
    static_assert(sizeof(T) <= sizeof(R), "a register that is too small");
    memcpy(&x, &r, sizeof x);
    return x;
  }
}

template <class T, class R>
static inline void set(R &r, T x) {
  if constexpr (std::is_integral_v<T>) {
    r = (R)(std::conditional_t<std::is_signed_v<T>, s64, u64>)x;
  } else {
    static_assert(sizeof(T) == sizeof(R), "a register of another size");
    memcpy(&r, &x, sizeof x);
  }
}

alignas(256) static u8 shared_memory[48 << 10];

// Told of every access to memory that is not shared.
extern "C" {
void (*on_access)(u64 at, unsigned size);
}

static inline u8 *shared(u32 at, unsigned size) {
  if (at % size || (u64)at + size > sizeof shared_memory) {
    fprintf(stderr, "GPU of the tests: %u bytes of shared memory at %u\n", size, at);
    abort();
  }
  return shared_memory + at;
}

static inline u8 *global(u64 at, unsigned size) {
  u64 begin = (u64)shared_memory;
  if (at >= begin && at < begin + sizeof shared_memory) return shared(at - begin, size);
  if (at % size) {
    fprintf(stderr, "GPU of the tests: %u bytes at %lx, which is not a multiple\n", size, (unsigned long)at);
    abort();
  }
  on_access(at, size);
  return (u8 *)at;
}

template <class T>
static inline T load(const u8 *at) {
  T x;
  memcpy(&x, at, sizeof x);
  return x;
}
template <class T>
static inline void store(u8 *at, T x) {
  memcpy(at, &x, sizeof x);
}

// ---- Comparisons. Those that end in u are true of NaN, too.

#define COMPARE(name, expression)                \
  template <class T>                             \
  static inline bool compare_##name(T a, T b) {  \
    return expression;                           \
  }                                              \
  static inline bool compare_##name(bf16 a, bf16 b) { return compare_##name(wide(a), wide(b)); }
COMPARE(eq, a == b)
COMPARE(ne, a < b || a > b)
COMPARE(lt, a < b)
COMPARE(le, a <= b)
COMPARE(gt, a > b)
COMPARE(ge, a >= b)
COMPARE(lo, a < b)
COMPARE(ls, a <= b)
COMPARE(hi, a > b)
COMPARE(hs, a >= b)
COMPARE(equ, !(a < b || a > b))
COMPARE(neu, !(a == b))
COMPARE(ltu, !(a >= b))
COMPARE(leu, !(a > b))
COMPARE(gtu, !(a <= b))
COMPARE(geu, !(a < b))
COMPARE(num, a == a && b == b)
COMPARE(nan, a != a || b != b)

// ---- Arithmetic. Whole numbers wrap.

#define BINARY(name, expression)           \
  template <class T>                       \
  static inline T op_##name(T a, T b) {    \
    return (T)(expression);                \
  }                                        \
  static inline bf16 op_##name(bf16 x, bf16 y) { \
    f32 a = wide(x), b = wide(y);          \
    return narrow(expression);             \
  }
template <class T>
static inline T plus(T a, T b) {
  if constexpr (std::is_integral_v<T>) return (T)((u64)a + (u64)b);
  return a + b;
}
template <class T>
static inline T minus(T a, T b) {
  if constexpr (std::is_integral_v<T>) return (T)((u64)a - (u64)b);
  return a - b;
}
template <class T>
static inline T divided(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    if (b == 0) return (T)-1;
  }
  return a / b;
}
BINARY(add, plus(a, b))
BINARY(sub, minus(a, b))
BINARY(mul, a *b)
BINARY(div, divided(a, b))
// Of a NaN and a number the number; with .NaN the NaN.
BINARY(min, a != a ? b : b != b ? a : b < a ? b : a)
BINARY(max, a != a ? b : b != b ? a : b > a ? b : a)
BINARY(min_nan, a != a ? a : b != b ? b : b < a ? b : a)
BINARY(max_nan, a != a ? a : b != b ? b : b > a ? b : a)

#define WHOLE(name, expression)         \
  template <class T>                    \
  static inline T op_##name(T a, T b) { \
    return (T)(expression);             \
  }
WHOLE(rem, b == 0 ? a : a % b)
WHOLE(and, a &b)
WHOLE(or, a | b)
WHOLE(xor, a ^ b)

template <class T>
static inline T op_not(T a) {
  return ~a;
}
template <class T>
static inline T op_neg(T a) {
  if constexpr (std::is_integral_v<T>) return (T)(0 - (u64)a);
  return -a;
}
static inline bf16 op_neg(bf16 a) { return {(u16)(a.bits ^ 0x8000)}; }
template <class T>
static inline T op_abs(T a) {
  if constexpr (std::is_integral_v<T>) return a < 0 ? op_neg(a) : a;
  return std::fabs(a);
}
static inline bf16 op_abs(bf16 a) { return {(u16)(a.bits & 0x7fff)}; }

#define REAL(name, expression)       \
  static inline f32 op_##name(f32 a) { return expression; } \
  static inline f64 op_##name(f64 a) { return expression; }
REAL(sqrt, std::sqrt(a))
REAL(rcp, 1 / a)
REAL(rsqrt, 1 / std::sqrt(a))
REAL(ex2, std::exp2(a))
REAL(lg2, std::log2(a))
REAL(sin, std::sin(a))
REAL(cos, std::cos(a))
REAL(tanh, std::tanh(a))
// With the sign of a.
static inline f32 op_copysign(f32 a, f32 b) { return std::copysign(b, a); }
static inline f64 op_copysign(f64 a, f64 b) { return std::copysign(b, a); }

template <class T>
static inline T saturated(T a) {
  return a != a || a < 0 ? 0 : a > 1 ? 1 : a;
}

// Rounded to the nearest, and down: from f64, in which the product is exact.
static inline f32 fma_rn(f32 a, f32 b, f32 c) { return std::fma(a, b, c); }
static inline f64 fma_rn(f64 a, f64 b, f64 c) { return std::fma(a, b, c); }
static inline bf16 fma_rn(bf16 a, bf16 b, bf16 c) { return narrow(std::fma(wide(a), wide(b), wide(c))); }
static inline f32 fma_rm(f32 a, f32 b, f32 c) {
  f64 exact = (f64)a * b + c;
  f32 near = (f32)exact;
  return near > exact ? std::nextafter(near, -INFINITY) : near;
}

template <class T>
static inline T low_product(T a, T b) {
  return (T)((u64)a * (u64)b);
}
template <class T>
static inline T high_product(T a, T b) {
  return (T)(((__int128)a * b) >> (8 * sizeof(T)));
}
static inline u64 high_product(u64 a, u64 b) { return (u64)(((unsigned __int128)a * b) >> 64); }

template <class T>
static inline T op_shl(T a, u32 n) {
  return n >= 8 * sizeof(T) ? 0 : (T)((u64)a << n);
}
template <class T>
static inline T op_shr(T a, u32 n) {
  if (n >= 8 * sizeof(T)) return a < 0 ? -1 : 0;
  return (T)(a >> n);
}
static inline u32 op_shf_l(u32 a, u32 b, u32 n) { return n % 32 ? b << n % 32 | a >> (32 - n % 32) : b; }
static inline u32 op_shf_r(u32 a, u32 b, u32 n) { return n % 32 ? b << (32 - n % 32) | a >> n % 32 : a; }

// Four of the eight bytes of b and a; with the highest bit of a choice its sign only.
static inline u32 op_prmt(u32 a, u32 b, u32 choices) {
  u64 both = (u64)b << 32 | a;
  u32 out = 0;
  for (int i = 0; i < 4; i++) {
    u32 choice = choices >> 4 * i & 15;
    u8 byte = (u8)(both >> 8 * (choice & 7));
    if (choice & 8) byte = byte & 0x80 ? 0xff : 0;
    out |= (u32)byte << 8 * i;
  }
  return out;
}

// b with its bits from `at` on those of a.
template <class T>
static inline T op_bfi(T a, T b, u32 at, u32 bits) {
  for (u32 i = 0; i < (bits & 255) && (at & 255) + i < 8 * sizeof(T); i++) {
    u32 to = (at & 255) + i;
    b = (b & ~((T)1 << to)) | ((a >> i & 1) << to);
  }
  return b;
}

// Two numbers in one register.
#define PAIR(name)                                                                                   \
  static inline u32 pair_##name(u32 a, u32 b) {                                                      \
    bf16 low = op_##name(bf16{(u16)a}, bf16{(u16)b}), high = op_##name(bf16{(u16)(a >> 16)}, bf16{(u16)(b >> 16)}); \
    return low.bits | (u32)high.bits << 16;                                                          \
  }
PAIR(add)
PAIR(sub)
PAIR(mul)

// ---- Conversions.

template <class To, class From>
static inline To converted(From x) {
  if constexpr (std::is_same_v<From, bf16>)
    return converted<To>(wide(x));
  else if constexpr (std::is_same_v<To, bf16>)
    return narrow((f32)x);
  else
    return (To)x;
}

// To whole numbers, as integers within their range, or as floats.
#define ROUNDED(name, function)                                                   \
  template <class To, class From>                                                 \
  static inline To rounded_##name(From from) {                                    \
    f64 x = function(converted<f64>(from));                                       \
    if constexpr (std::is_integral_v<To>) {                                       \
      typedef std::numeric_limits<To> Limits;                                     \
      if (x != x) return 0;                                                       \
      if (x <= (f64)Limits::min()) return Limits::min();                          \
      if (x >= (f64)Limits::max()) return Limits::max();                          \
    }                                                                             \
    return (To)x;                                                                 \
  }
ROUNDED(rni, std::nearbyint)
ROUNDED(rzi, std::trunc)
ROUNDED(rmi, std::floor)
ROUNDED(rpi, std::ceil)
