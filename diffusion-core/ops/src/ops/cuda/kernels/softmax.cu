// softmax(scale · x) of each row: one row per warp with several warps in a block, or one row per block.

__device__ __forceinline__ float max_of_block(float x, float *shared) {
  x = max_of_lanes(x);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = shared[threadIdx.x % 32 < blockDim.x / 32 ? threadIdx.x % 32 : 0];
  __syncthreads();
  return max_of_lanes(x);
}

// Each thread reads its elements three times, after the first time from the cache.
template <typename T, int N>
__device__ __forceinline__ void softmax_row(T *y, const T *x, u32 length, bool here, float scale, u32 lane, u32 team,
                                            float *shared) {
  typedef Pack<T, N> P;
  u32 packs = here ? length / N : 0;
  float most = -__int_as_float(0x7f800000);
  for (u32 i = lane; i < packs; i += team) {
    P p = ((const P *)x)[i];
#pragma unroll
    for (int j = 0; j < N; j++) most = fmaxf(most, scale * Of<T>::read(p.at[j]));
  }
  most = team == 32 ? max_of_lanes(most) : max_of_block(most, shared);
  float sum = 0.0f;
  for (u32 i = lane; i < packs; i += team) {
    P p = ((const P *)x)[i];
#pragma unroll
    for (int j = 0; j < N; j++) sum += expf(scale * Of<T>::read(p.at[j]) - most);
  }
  sum = team == 32 ? sum_of_lanes(sum, 32) : sum_of_block(sum, shared);
  float share = __fdiv_rn(1.0f, sum);
  for (u32 i = lane; i < packs; i += team) {
    P p = ((const P *)x)[i];
#pragma unroll
    for (int j = 0; j < N; j++) p.at[j] = Of<T>::write(expf(scale * Of<T>::read(p.at[j]) - most) * share);
    ((P *)y)[i] = p;
  }
}

template <typename T>
__device__ __forceinline__ void softmax(T *y, const T *x, u64 rows, u32 length, float scale, u32 by_block, u32 wide) {
  __shared__ float shared[32];
  u32 team = by_block ? blockDim.x : 32, teams = blockDim.x / team, lane = threadIdx.x % team;
  for (u64 start = (u64)blockIdx.x * teams; start < rows; start += (u64)gridDim.x * teams) {
    u64 row = start + threadIdx.x / team;
    bool here = row < rows;
    u64 at = here ? row * length : 0;
    if (wide)
      softmax_row<T, Of<T>::WIDTH>(y + at, x + at, length, here, scale, lane, team, shared);
    else
      softmax_row<T, 1>(y + at, x + at, length, here, scale, lane, team, shared);
  }
}

KERNEL(softmax_f32)(float *y, const float *x, u64 rows, u32 length, float scale, u32 by_block, u32 wide) {
  softmax<float>(y, x, rows, length, scale, by_block, wide);
}
KERNEL(softmax_bf16)(bf16 *y, const bf16 *x, u64 rows, u32 length, float scale, u32 by_block, u32 wide) {
  softmax<bf16>(y, x, rows, length, scale, by_block, wide);
}

// dx = scale y (dy - Σ y dy)
template <typename T, int N>
__device__ __forceinline__ void softmax_row_back(T *dx, const T *y, const T *dy, u32 length, bool here, float scale,
                                                 u32 lane, u32 team, float *shared) {
  typedef Pack<T, N> P;
  u32 packs = here ? length / N : 0;
  float sum = 0.0f;
  for (u32 i = lane; i < packs; i += team) {
    P p = ((const P *)y)[i], q = ((const P *)dy)[i];
#pragma unroll
    for (int j = 0; j < N; j++) sum += Of<T>::read(p.at[j]) * Of<T>::read(q.at[j]);
  }
  sum = team == 32 ? sum_of_lanes(sum, 32) : sum_of_block(sum, shared);
  for (u32 i = lane; i < packs; i += team) {
    P p = ((const P *)y)[i], q = ((const P *)dy)[i];
#pragma unroll
    for (int j = 0; j < N; j++)
      p.at[j] = Of<T>::write(scale * Of<T>::read(p.at[j]) * (Of<T>::read(q.at[j]) - sum));
    ((P *)dx)[i] = p;
  }
}

template <typename T>
__device__ __forceinline__ void softmax_back(T *dx, const T *y, const T *dy, u64 rows, u32 length, float scale,
                                             u32 by_block, u32 wide) {
  __shared__ float shared[32];
  u32 team = by_block ? blockDim.x : 32, teams = blockDim.x / team, lane = threadIdx.x % team;
  for (u64 start = (u64)blockIdx.x * teams; start < rows; start += (u64)gridDim.x * teams) {
    u64 row = start + threadIdx.x / team;
    bool here = row < rows;
    u64 at = here ? row * length : 0;
    if (wide)
      softmax_row_back<T, Of<T>::WIDTH>(dx + at, y + at, dy + at, length, here, scale, lane, team, shared);
    else
      softmax_row_back<T, 1>(dx + at, y + at, dy + at, length, here, scale, lane, team, shared);
  }
}

KERNEL(softmax_back_f32)
(float *dx, const float *y, const float *dy, u64 rows, u32 length, float scale, u32 by_block, u32 wide) {
  softmax_back<float>(dx, y, dy, rows, length, scale, by_block, wide);
}
KERNEL(softmax_back_bf16)
(bf16 *dx, const bf16 *y, const bf16 *dy, u64 rows, u32 length, float scale, u32 by_block, u32 wide) {
  softmax_back<bf16>(dx, y, dy, rows, length, scale, by_block, wide);
}
