// Group normalisation with an activation: one block of threads for each group of each image.
//
// Three numbers are kept for each group: its mean rounded to f32, the rest of the mean, and 1/σ. If the spread is small
// compared with the mean, the second determines the digits of x - μ.

// The channel of an element of a group, and the pixel in it.
struct Place {
  u32 channel, pixel;
};

__device__ __forceinline__ Place place(u32 index, u32 pixels) {
  Place p;
  p.channel = index / pixels;
  p.pixel = index - p.channel * pixels;
  return p;
}

// weight · x̂ + bias = a (x - shift) + b
struct Affine {
  float a, b;
};

__device__ __forceinline__ Affine affine(const float *weight, const float *bias, u32 channel, float rest, float rstd) {
  Affine f;
  f.a = weight[channel] * rstd;
  f.b = bias[channel] - rest * f.a;
  return f;
}

// The elements of the group, N at once. They are read three times, mostly from the cache, which holds the groups of all
// blocks that run at the same time.
template <typename T, int N, int ACTIVATION>
__device__ __forceinline__ void normalize_group(T *y, float *stats, const T *x, const float *weight, const float *bias,
                                                u32 size, u32 pixels, float eps, float *shared) {
  typedef Pack<T, N> P;
  u32 packs = size / N, threads = blockDim.x;
  float sum = 0.0f;
#pragma unroll 4
  for (u32 i = threadIdx.x; i < packs; i += threads) {
    P p = ((const P *)x)[i];
    float of_pack = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++) of_pack += Of<T>::read(p.at[j]);
    sum += of_pack;
  }
  float shift = sum_of_block(sum, shared) / (float)size;
  // From the deviations, which are as small as the spread and so keep their digits.
  float left = 0.0f, squares = 0.0f;
#pragma unroll 4
  for (u32 i = threadIdx.x; i < packs; i += threads) {
    P p = ((const P *)x)[i];
    float a = 0.0f, b = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++) {
      float d = Of<T>::read(p.at[j]) - shift;
      a += d;
      b += d * d;
    }
    left += a;
    squares += b;
  }
  float rest = sum_of_block(left, shared) / (float)size;
  float variance = fmaxf(sum_of_block(squares, shared) / (float)size - rest * rest, 0.0f);
  float rstd = __fdiv_rn(1.0f, __fsqrt_rn(variance + eps));
  if (threadIdx.x == 0) {
    stats[0] = shift;
    stats[1] = rest;
    stats[2] = rstd;
  }
#pragma unroll 1
  for (u32 i = threadIdx.x; i < packs; i += threads) {
    P p = ((const P *)x)[i];
    Place at = place(i * N, pixels);
    Affine f = affine(weight, bias, at.channel, rest, rstd);
#pragma unroll
    for (int j = 0; j < N; j++) {
      float z = f.a * (Of<T>::read(p.at[j]) - shift) + f.b;
      p.at[j] = Of<T>::write(value<T, ACTIVATION>(z));
      if (j + 1 < N && ++at.pixel == pixels) {
        at.pixel = 0;
        f = affine(weight, bias, ++at.channel, rest, rstd);
      }
    }
    ((P *)y)[i] = p;
  }
}

// weight and bias of channel c of image b are at (b · channels + c) % period, where period is C or B·C.
template <typename T, int ACTIVATION>
__device__ __forceinline__ void group_norm_as(T *y, float *stats, const T *x, const float *weight, const float *bias,
                                              u32 channels, u32 pixels, u32 period, float eps, u32 wide) {
  __shared__ float shared[32];
  u32 size = channels * pixels;
  u64 start = (u64)blockIdx.x * size;
  u32 first = (u32)((u64)blockIdx.x * channels % period);
  float *of_group = stats + 3 * (u64)blockIdx.x;
  if (wide)
    normalize_group<T, Of<T>::WIDTH, ACTIVATION>(y + start, of_group, x + start, weight + first, bias + first, size, pixels,
                                                 eps, shared);
  else
    normalize_group<T, 1, ACTIVATION>(y + start, of_group, x + start, weight + first, bias + first, size, pixels, eps,
                                      shared);
}

template <typename T>
__device__ __forceinline__ void group_norm(T *y, float *stats, const T *x, const float *weight, const float *bias,
                                           u32 channels, u32 pixels, u32 period, float eps, u32 activation, u32 wide) {
  switch (activation) {
    case 1: return group_norm_as<T, 1>(y, stats, x, weight, bias, channels, pixels, period, eps, wide);
    case 2: return group_norm_as<T, 2>(y, stats, x, weight, bias, channels, pixels, period, eps, wide);
    case 3: return group_norm_as<T, 3>(y, stats, x, weight, bias, channels, pixels, period, eps, wide);
    default: return group_norm_as<T, 0>(y, stats, x, weight, bias, channels, pixels, period, eps, wide);
  }
}

KERNEL(group_norm_f32)
(float *y, float *stats, const float *x, const float *weight, const float *bias, u32 channels, u32 pixels, u32 period,
 float eps, u32 activation, u32 wide) {
  group_norm<float>(y, stats, x, weight, bias, channels, pixels, period, eps, activation, wide);
}
KERNEL(group_norm_bf16)
(bf16 *y, float *stats, const bf16 *x, const float *weight, const float *bias, u32 channels, u32 pixels, u32 period,
 float eps, u32 activation, u32 wide) {
  group_norm<bf16>(y, stats, x, weight, bias, channels, pixels, period, eps, activation, wide);
}

// The gradient. A team of neighbouring threads, a power of two, sums one channel: Σ dz and Σ dz x̂, where dz is the
// gradient of the activation's input. A second pass computes dx from their weighted sums over the group. dweight and
// dbias are (B, C).
template <typename T, int N, int ACTIVATION>
__device__ __forceinline__ void group_slopes(T *dx, float *dweight, float *dbias, const T *x, const T *dy,
                                             const float *stats, const float *weight, const float *bias, u32 channels,
                                             u32 pixels, u32 team, float *shared) {
  typedef Pack<T, N> P;
  float shift = stats[0], rest = stats[1], rstd = stats[2];
  u32 threads = blockDim.x, teams = threads / team, packs = pixels / N;
  u32 mine = threadIdx.x / team, lane = threadIdx.x % team;
  // Over the channels that this thread finishes.
  float by_mean = 0.0f, by_variance = 0.0f;
  for (u32 round = 0; round < channels; round += teams) {
    u32 channel = round + mine;
    float sum = 0.0f, by_difference = 0.0f;
    if (channel < channels) {
      Affine f = affine(weight, bias, channel, rest, rstd);
      const P *xs = (const P *)(x + (u64)channel * pixels), *dys = (const P *)(dy + (u64)channel * pixels);
#pragma unroll 1
      for (u32 i = lane; i < packs; i += team) {
        P p = xs[i], q = dys[i];
        float a = 0.0f, b = 0.0f;
#pragma unroll
        for (int j = 0; j < N; j++) {
          float d = Of<T>::read(p.at[j]) - shift;
          float dz = slope<T, ACTIVATION>(f.a * d + f.b, Of<T>::read(q.at[j]));
          a += dz;
          b += dz * (d - rest);
        }
        sum += a;
        by_difference += b;
      }
    }
    u32 narrow = team < 32 ? team : 32;
    sum = sum_of_lanes(sum, narrow);
    by_difference = sum_of_lanes(by_difference, narrow);
    if (team > 32) {
      if (threadIdx.x % 32 == 0) {
        shared[threadIdx.x / 32] = sum;
        shared[32 + threadIdx.x / 32] = by_difference;
      }
      __syncthreads();
      if (lane == 0) {
        sum = by_difference = 0.0f;
        for (u32 i = 0; i < team / 32; i++) {
          sum += shared[threadIdx.x / 32 + i];
          by_difference += shared[32 + threadIdx.x / 32 + i];
        }
      }
      __syncthreads();
    }
    if (lane == 0 && channel < channels) {
      float by_normal = by_difference * rstd;
      dweight[channel] = by_normal;
      dbias[channel] = sum;
      by_variance += weight[channel] * by_normal;
      by_mean += weight[channel] * sum;
    }
  }
  // dx = rstd (weight dz - (Σ weight dz + x̂ Σ weight dz x̂) / N)
  u32 size = channels * pixels;
  float share = -rstd / (float)size;
  float offset = share * sum_of_block(by_mean, shared);
  float along = share * rstd * sum_of_block(by_variance, shared);
  packs = size / N;
#pragma unroll 1
  for (u32 i = threadIdx.x; i < packs; i += threads) {
    P p = ((const P *)x)[i], q = ((const P *)dy)[i];
    Place at = place(i * N, pixels);
    Affine f = affine(weight, bias, at.channel, rest, rstd);
#pragma unroll
    for (int j = 0; j < N; j++) {
      float d = Of<T>::read(p.at[j]) - shift;
      float dz = slope<T, ACTIVATION>(f.a * d + f.b, Of<T>::read(q.at[j]));
      p.at[j] = Of<T>::write(f.a * dz + (along * (d - rest) + offset));
      if (j + 1 < N && ++at.pixel == pixels) {
        at.pixel = 0;
        f = affine(weight, bias, ++at.channel, rest, rstd);
      }
    }
    ((P *)dx)[i] = p;
  }
}

template <typename T, int ACTIVATION>
__device__ __forceinline__ void group_norm_back_as(T *dx, float *dweight, float *dbias, const T *x, const T *dy,
                                                   const float *stats, const float *weight, const float *bias,
                                                   u32 channels, u32 pixels, u32 period, u32 team, u32 wide) {
  __shared__ float shared[64];
  u64 start = (u64)blockIdx.x * channels * pixels, channel = (u64)blockIdx.x * channels;
  u32 first = (u32)(channel % period);
  const float *of_group = stats + 3 * (u64)blockIdx.x;
  if (wide)
    // Four elements of either type: more image sizes are divisible by 4 than by 8, and packs must start and end with a
    // channel.
    group_slopes<T, 4, ACTIVATION>(dx + start, dweight + channel, dbias + channel, x + start, dy + start, of_group,
                                   weight + first, bias + first, channels, pixels, team, shared);
  else
    group_slopes<T, 1, ACTIVATION>(dx + start, dweight + channel, dbias + channel, x + start, dy + start, of_group,
                                   weight + first, bias + first, channels, pixels, team, shared);
}

template <typename T>
__device__ __forceinline__ void group_norm_back(T *dx, float *dweight, float *dbias, const T *x, const T *dy,
                                                const float *stats, const float *weight, const float *bias, u32 channels,
                                                u32 pixels, u32 period, u32 team, u32 activation, u32 wide) {
  switch (activation) {
    case 1:
      return group_norm_back_as<T, 1>(dx, dweight, dbias, x, dy, stats, weight, bias, channels, pixels, period, team, wide);
    case 2:
      return group_norm_back_as<T, 2>(dx, dweight, dbias, x, dy, stats, weight, bias, channels, pixels, period, team, wide);
    case 3:
      return group_norm_back_as<T, 3>(dx, dweight, dbias, x, dy, stats, weight, bias, channels, pixels, period, team, wide);
    default:
      return group_norm_back_as<T, 0>(dx, dweight, dbias, x, dy, stats, weight, bias, channels, pixels, period, team, wide);
  }
}

KERNEL(group_norm_back_f32)
(float *dx, float *dweight, float *dbias, const float *x, const float *dy, const float *stats, const float *weight,
 const float *bias, u32 channels, u32 pixels, u32 period, u32 team, u32 activation, u32 wide) {
  group_norm_back<float>(dx, dweight, dbias, x, dy, stats, weight, bias, channels, pixels, period, team, activation, wide);
}
KERNEL(group_norm_back_bf16)
(bf16 *dx, float *dweight, float *dbias, const bf16 *x, const bf16 *dy, const float *stats, const float *weight,
 const float *bias, u32 channels, u32 pixels, u32 period, u32 team, u32 activation, u32 wide) {
  group_norm_back<bf16>(dx, dweight, dbias, x, dy, stats, weight, bias, channels, pixels, period, team, activation, wide);
}
