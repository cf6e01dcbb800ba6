// Normal numbers by Marsaglia's polar method from the bits of ChaCha8, identical to those drawn sequentially by
// rng::Rng.
//
// An attempt takes two uniform numbers, which are four words of the stream; about four in five succeed. Attempts are
// made in parallel: each thread makes those that start in one block of 16 words. A first kernel counts the successes, a
// second sums the counts, and a third repeats the attempts and writes each success to its position.

// The state of a generator in device memory, as in Rng::state.
struct Generator {
  u32 key[8];
  u64 stream;
  // The position in words, always even.
  u64 position;
  double spare;
  u32 has_spare;
  // Not 0 if there were fewer successes than requested numbers.
  u32 failed;
};

// The initial state of the current draw, stored separately because the final state overwrites it.
struct Draw {
  u64 position;
  u64 pairs;
  // 1 if the first number is a spare.
  u64 given;
  double spare;
};

#define ATTEMPTS 4
#define BLOCK_THREADS 256

__device__ __forceinline__ u32 rotate(u32 x, int by) { return (x << by) | (x >> (32 - by)); }

__device__ __forceinline__ void quarter(u32 &a, u32 &b, u32 &c, u32 &d) {
  a += b;
  d = rotate(d ^ a, 16);
  c += d;
  b = rotate(b ^ c, 12);
  a += b;
  d = rotate(d ^ a, 8);
  c += d;
  b = rotate(b ^ c, 7);
}

// The 16 words of one block of the stream.
__device__ __forceinline__ void chacha8(const u32 *key, u64 stream, u64 block, u32 *out) {
  u32 start[16] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u};
#pragma unroll
  for (int i = 0; i < 8; i++) start[4 + i] = key[i];
  start[12] = (u32)block;
  start[13] = (u32)(block >> 32);
  start[14] = (u32)stream;
  start[15] = (u32)(stream >> 32);
#pragma unroll
  for (int i = 0; i < 16; i++) out[i] = start[i];
#pragma unroll
  for (int round = 0; round < 4; round++) {
#pragma unroll
    for (int i = 0; i < 4; i++) quarter(out[i], out[4 + i], out[8 + i], out[12 + i]);
#pragma unroll
    for (int i = 0; i < 4; i++) quarter(out[i], out[4 + (i + 1) % 4], out[8 + (i + 2) % 4], out[12 + (i + 3) % 4]);
  }
#pragma unroll
  for (int i = 0; i < 16; i++) out[i] += start[i];
}

// 2 u - 1 with u in [0, 1) of 53 bits
__device__ __forceinline__ double uniform(u32 low, u32 high) {
  u64 bits = ((u64)high << 32 | low) >> 11;
  return __dsub_rn(__dmul_rn(2.0, __dmul_rn((double)bits, 1.1102230246251565e-16)), 1.0);
}

struct Attempt {
  double u, v, s;
  bool good;
};

// The attempts that start in this thread's block of words, and the number of successes. `shared` has a pair of words
// for each thread; all threads of the block must call this.
__device__ __forceinline__ u32 attempts(const Generator *g, u64 position, u64 planned, Attempt *result, u32 *shared) {
  u64 chunk = first_index(), block = position / 16 + chunk;
  u32 offset = (u32)(position % 16), begin = offset % 4;
  u32 words[18];
  chacha8(g->key, g->stream, block, words);
  // An attempt may extend into the next block, which belongs to the next thread.
  if (begin) {
    shared[2 * threadIdx.x] = words[0];
    shared[2 * threadIdx.x + 1] = words[1];
    __syncthreads();
    if (threadIdx.x + 1 < blockDim.x) {
      words[16] = shared[2 * threadIdx.x + 2];
      words[17] = shared[2 * threadIdx.x + 3];
    } else {
      u32 next[16];
      chacha8(g->key, g->stream, block + 1, next);
      words[16] = next[0];
      words[17] = next[1];
    }
    __syncthreads();
  }
  u32 good = 0;
#pragma unroll
  for (int k = 0; k < ATTEMPTS; k++) {
    i64 index = (i64)(ATTEMPTS * chunk) + k - offset / 4;
    const int at = 4 * k;
    Attempt a;
    // begin is 0 or 2.
    a.u = begin ? uniform(words[at + 2], words[at + 3]) : uniform(words[at], words[at + 1]);
    a.v = begin ? uniform(words[at + 4], words[at + 5]) : uniform(words[at + 2], words[at + 3]);
    a.s = __dadd_rn(__dmul_rn(a.u, a.u), __dmul_rn(a.v, a.v));
    a.good = a.s > 0.0 && a.s < 1.0 && index >= 0 && (u64)index < planned;
    good += a.good;
    result[k] = a;
  }
  return good;
}

__device__ __forceinline__ u64 pairs_of(u64 count, u32 has_spare) { return (count - (has_spare ? 1 : 0) + 1) / 2; }

// counts[block] = number of successful attempts of this block of threads.
KERNEL_256(normals_count)(u32 *counts, const Generator *g, u64 planned) {
  __shared__ u32 shared[2 * BLOCK_THREADS];
  Attempt tried[ATTEMPTS];
  u32 good = attempts(g, g->position, planned, tried, shared);
  for (u32 off = 16; off > 0; off /= 2) good += __shfl_xor_sync(0xffffffffu, good, off);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = good;
  __syncthreads();
  if (threadIdx.x == 0) {
    u32 sum = 0;
    for (u32 i = 0; i < blockDim.x / 32; i++) sum += shared[i];
    counts[blockIdx.x] = sum;
  }
}

// starts[i] = counts[0] + … + counts[i - 1], by one block of threads. Reports whether there are enough successes.
KERNEL(normals_scan)(u64 *starts, Draw *draw, const u32 *counts, u32 blocks, Generator *g, u64 count) {
  __shared__ u64 shared[THREADS];
  // Each thread sums neighbouring counts.
  u32 each = (blocks + blockDim.x - 1) / blockDim.x, from = threadIdx.x * each;
  u64 sum = 0;
  for (u32 i = from; i < from + each && i < blocks; i++) sum += counts[i];
  shared[threadIdx.x] = sum;
  __syncthreads();
  for (u32 off = 1; off < blockDim.x; off *= 2) {
    u64 before = threadIdx.x >= off ? shared[threadIdx.x - off] : 0;
    __syncthreads();
    shared[threadIdx.x] += before;
    __syncthreads();
  }
  u64 start = threadIdx.x ? shared[threadIdx.x - 1] : 0;
  for (u32 i = from; i < from + each && i < blocks; i++) {
    starts[i] = start;
    start += counts[i];
  }
  if (threadIdx.x == 0) {
    Draw d;
    d.position = g->position;
    d.pairs = pairs_of(count, g->has_spare);
    d.given = g->has_spare ? 1 : 0;
    d.spare = g->spare;
    if (shared[blockDim.x - 1] < d.pairs) g->failed = 1;
    *draw = d;
  }
}

KERNEL_256(normals_write)(float *out, const u64 *starts, const Draw *draw, Generator *g, u64 planned, u64 count) {
  __shared__ u32 shared[2 * BLOCK_THREADS];
  Draw d = *draw;
  Attempt tried[ATTEMPTS];
  u32 good = attempts(g, d.position, planned, tried, shared);
  // The successes of the previous threads.
  __syncthreads();
  shared[threadIdx.x] = good;
  __syncthreads();
  for (u32 off = 1; off < blockDim.x; off *= 2) {
    u32 before = threadIdx.x >= off ? shared[threadIdx.x - off] : 0;
    __syncthreads();
    shared[threadIdx.x] += before;
    __syncthreads();
  }
  u64 pair = starts[blockIdx.x] + shared[threadIdx.x] - good;
  u64 chunk = first_index();
#pragma unroll
  for (int k = 0; k < ATTEMPTS; k++) {
    Attempt a = tried[k];
    if (!a.good || pair >= d.pairs) continue;
    double scale = __dsqrt_rn(__ddiv_rn(__dmul_rn(-2.0, log(a.s)), a.s));
    double first = __dmul_rn(a.u, scale), second = __dmul_rn(a.v, scale);
    u64 at = d.given + 2 * pair;
    out[at] = (float)first;
    if (at + 1 < count) out[at + 1] = (float)second;
    if (++pair == d.pairs) {
      // The last number: the generator continues after it. No other thread reads these values any more, since all have
      // d.
      u64 index = ATTEMPTS * chunk + k - d.position % 16 / 4;
      g->position = d.position + 4 * (index + 1);
      g->has_spare = at + 1 < count ? 0 : 1;
      g->spare = at + 1 < count ? 0.0 : second;
    }
  }
  if (blockIdx.x == 0 && threadIdx.x == 0 && d.given) {
    out[0] = (float)d.spare;
    if (d.pairs == 0) {
      g->has_spare = 0;
      g->spare = 0.0;
    }
  }
}
