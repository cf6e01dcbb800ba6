// Adds a bias to every pixel of a channel; and the sums that are its gradient.

// y (rows, pixels) += bias[row % period], where a row is a channel of an image, and period is C or B·C.
template <typename T, int N>
__device__ __forceinline__ void bias_add_by(T *y, const float *bias, u64 length, u32 pixels, u32 period) {
  u64 packs = length / N;
  for (u64 i = first_index(); i < packs; i += stride()) {
    Pack<T, N> p = ((Pack<T, N> *)y)[i];
    u64 row = quotient(i * N, pixels);
    u32 pixel = (u32)(i * N - row * pixels), at = (u32)(row - quotient(row, period) * period);
    float b = bias[at];
#pragma unroll
    for (int j = 0; j < N; j++) {
      p.at[j] = Of<T>::write(Of<T>::read(p.at[j]) + b);
      if (j + 1 < N && ++pixel == pixels) {
        pixel = 0;
        at = at + 1 == period ? 0 : at + 1;
        b = bias[at];
      }
    }
    ((Pack<T, N> *)y)[i] = p;
  }
}

template <typename T>
__device__ __forceinline__ void bias_add(T *y, const float *bias, u64 length, u32 pixels, u32 period, u32 wide) {
  if (wide)
    bias_add_by<T, Of<T>::WIDTH>(y, bias, length, pixels, period);
  else
    bias_add_by<T, 1>(y, bias, length, pixels, period);
}

KERNEL_256(bias_add_f32)(float *y, const float *bias, u64 length, u32 pixels, u32 period, u32 wide) {
  bias_add<float>(y, bias, length, pixels, period, wide);
}
KERNEL_256(bias_add_bf16)(bf16 *y, const float *bias, u64 length, u32 pixels, u32 period, u32 wide) {
  bias_add<bf16>(y, bias, length, pixels, period, wide);
}

// sums[row] = Σ x[row, …]: one row per warp with several warps in a block, or one row per block.
template <typename T, int N>
__device__ __forceinline__ float sum_of_row(const T *row, u32 length, u32 lane, u32 team) {
  float sum = 0.0f;
  u32 packs = length / N;
  for (u32 i = lane; i < packs; i += team) {
    Pack<T, N> p = ((const Pack<T, N> *)row)[i];
    float of_pack = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++) of_pack += Of<T>::read(p.at[j]);
    sum += of_pack;
  }
  return sum;
}

template <typename T>
__device__ __forceinline__ void row_sums(float *sums, const T *x, u64 rows, u32 length, u32 by_block, u32 wide) {
  __shared__ float shared[32];
  u32 team = by_block ? blockDim.x : 32, teams = blockDim.x / team, lane = threadIdx.x % team;
  // All rows of a block end together, so that all threads take part in each sum.
  for (u64 start = (u64)blockIdx.x * teams; start < rows; start += (u64)gridDim.x * teams) {
    u64 row = start + threadIdx.x / team;
    float sum = 0.0f;
    if (row < rows) {
      const T *at = x + row * length;
      sum = wide ? sum_of_row<T, Of<T>::WIDTH>(at, length, lane, team) : sum_of_row<T, 1>(at, length, lane, team);
    }
    sum = by_block ? sum_of_block(sum, shared) : sum_of_lanes(sum, 32);
    if (lane == 0 && row < rows) sums[row] = sum;
  }
}

KERNEL(row_sums_f32)(float *sums, const float *x, u64 rows, u32 length, u32 by_block, u32 wide) {
  row_sums<float>(sums, x, rows, length, by_block, wide);
}
KERNEL(row_sums_bf16)(float *sums, const bf16 *x, u64 rows, u32 length, u32 by_block, u32 wide) {
  row_sums<bf16>(sums, x, rows, length, by_block, wide);
}

// sums[column] = Σ x[…, column] in blocks of 32 × 8 threads, with eight threads per column. blockIdx.y = 1 sums a
// second matrix into other_sums.
KERNEL_256(column_sums)(float *sums, const float *x, float *other_sums, const float *other, u32 rows, u32 columns) {
  __shared__ double shared[256];
  u32 column = blockIdx.x * 32 + threadIdx.x % 32, first = threadIdx.x / 32;
  const float *from = blockIdx.y ? other : x;
  double sum = 0.0;
  if (column < columns)
    for (u64 row = first; row < rows; row += 8) sum += from[row * columns + column];
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (first == 0 && column < columns) {
    for (u32 i = 1; i < 8; i++) sum += shared[32 * i + threadIdx.x];
    (blockIdx.y ? other_sums : sums)[column] = (float)sum;
  }
}
