// Common parts of the kernels: types, conversions, vectors and sums.
//
// This is compiled at run time by NVRTC without include files, and in the tests by the host's compiler with emulate.hpp
// in front, so only features of both may be used. Where results must equal those of the CPU to the bit, operations are
// written as __fmul_rn etc., which the compiler does not fuse.

// The largest number of threads in a block, limited by the registers of the larger kernels.
#define THREADS 1024
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(THREADS) name
// Smaller blocks may use more registers per thread.
#define KERNEL_256(name) extern "C" __global__ void __launch_bounds__(256) name

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// bf16 is the upper half of a float.
struct bf16 {
  u16 bits;
};

// N elements that are read and written at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

// The properties of each activation type.
template <typename T>
struct Of;

template <>
struct Of<float> {
  // The number of elements in 16 bytes, the most that a thread reads at once.
  enum { WIDTH = 4 };
  static __device__ __forceinline__ float read(float x) { return x; }
  static __device__ __forceinline__ float write(float x) { return x; }
  static __device__ __forceinline__ float divide(float a, float b) { return __fdiv_rn(a, b); }
};

template <>
struct Of<bf16> {
  enum { WIDTH = 8 };
  static __device__ __forceinline__ float read(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
  // Rounds to nearest, ties to even; NaN is kept.
  static __device__ __forceinline__ bf16 write(float x) {
    u32 bits = __float_as_uint(x);
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    bf16 y;
    y.bits = (u16)(nan ? (bits >> 16) | 0x40u : rounded);
    return y;
  }
  // The error of two units in the last place of f32 does not matter for eight bits.
  static __device__ __forceinline__ float divide(float a, float b) { return __fdividef(a, b); }
};

// i / d and i % d, in 32 bits if possible, which is several times as fast.
__device__ __forceinline__ u64 quotient(u64 i, u32 d) { return (i >> 32) == 0 ? (u64)((u32)i / d) : i / d; }

// The first element of this thread in the grid, and the stride to the next.
__device__ __forceinline__ u64 first_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ u64 stride() { return (u64)gridDim.x * blockDim.x; }

// The sum over a team of neighbouring threads, a power of two up to 32; identical bits in each thread.
__device__ __forceinline__ float sum_of_lanes(float x, u32 team) {
  for (u32 off = team / 2; off > 0; off /= 2) x += __shfl_xor_sync(0xffffffffu, x, off);
  return x;
}

__device__ __forceinline__ double sum_of_lanes(double x) {
  for (u32 off = 16; off > 0; off /= 2) x += __shfl_xor_sync(0xffffffffu, x, off);
  return x;
}

__device__ __forceinline__ float max_of_lanes(float x) {
  for (u32 off = 16; off > 0; off /= 2) {
    float other = __shfl_xor_sync(0xffffffffu, x, off);
    x = other > x || other != other ? other : x;
  }
  return x;
}

// The sum over the block, whose threads are whole warps, in a fixed order; identical bits in each thread. `shared` has
// one element for each warp, and may be reused when all threads have returned.
template <typename T>
__device__ __forceinline__ T add_warps(T of_warp, T *shared) {
  u32 warps = blockDim.x / 32;
  if (warps == 1) return of_warp;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = of_warp;
  __syncthreads();
  T sum = 0;
  for (u32 i = 0; i < warps; i++) sum += shared[i];
  __syncthreads();
  return sum;
}

__device__ __forceinline__ float sum_of_block(float x, float *shared) { return add_warps(sum_of_lanes(x, 32), shared); }
__device__ __forceinline__ double sum_of_block(double x, double *shared) { return add_warps(sum_of_lanes(x), shared); }

__device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }
__device__ __forceinline__ bool is_finite(double x) {
  return (__double_as_longlong(x) & 0x7ff0000000000000ll) != 0x7ff0000000000000ll;
}
