// 2× nearest-neighbour upsampling. N neighbours of a row are read at once, where N divides the width. The pixel at
// column j of row r has index r·W + j, and the first of its four copies 4 r W + 2 j. With N = 1, addresses may have any
// alignment.

template <typename T, int N>
__device__ __forceinline__ void upsample_by(T *y, const T *x, u64 length, u32 width) {
  typedef Pack<T, N == 1 ? 1 : 2 * N> Wide;
  const int WIDES = N == 1 ? 2 : 1;
  for (u64 i = first_index(); i < length / N; i += stride()) {
    Pack<T, N> p = ((const Pack<T, N> *)x)[i];
    u64 row = quotient(i * N, width), top = 2 * (i * N) + 2 * row * width;
    Wide twice;
#pragma unroll
    for (int j = 0; j < 2 * N / WIDES; j++) twice.at[j] = p.at[j / 2];
#pragma unroll
    for (int k = 0; k < WIDES; k++) {
      *(Wide *)(y + top + k) = twice;
      *(Wide *)(y + top + 2 * width + k) = twice;
    }
  }
}

template <typename T, int N>
__device__ __forceinline__ void upsample_back_by(T *dx, const T *dy, u64 length, u32 width) {
  typedef Pack<T, N == 1 ? 1 : 2 * N> Wide;
  const int EACH = N == 1 ? 1 : 2 * N;
  for (u64 i = first_index(); i < length / N; i += stride()) {
    u64 row = quotient(i * N, width), top = 2 * (i * N) + 2 * row * width;
    // N == 1: two elements each; otherwise one pack.
    float a[2 * N], b[2 * N];
#pragma unroll
    for (int k = 0; k < 2 * N; k += EACH) {
      Wide p = *(const Wide *)(dy + top + k), q = *(const Wide *)(dy + top + 2 * width + k);
#pragma unroll
      for (int j = 0; j < EACH; j++) {
        a[k + j] = Of<T>::read(p.at[j]);
        b[k + j] = Of<T>::read(q.at[j]);
      }
    }
    Pack<T, N> sum;
#pragma unroll
    for (int j = 0; j < N; j++) sum.at[j] = Of<T>::write((a[2 * j] + a[2 * j + 1]) + (b[2 * j] + b[2 * j + 1]));
    ((Pack<T, N> *)dx)[i] = sum;
  }
}

KERNEL_256(upsample_f32)(float *y, const float *x, u64 length, u32 width, u32 wide) {
  wide ? upsample_by<float, 2>(y, x, length, width) : upsample_by<float, 1>(y, x, length, width);
}
KERNEL_256(upsample_bf16)(bf16 *y, const bf16 *x, u64 length, u32 width, u32 wide) {
  wide ? upsample_by<bf16, 4>(y, x, length, width) : upsample_by<bf16, 1>(y, x, length, width);
}
KERNEL_256(upsample_back_f32)(float *dx, const float *dy, u64 length, u32 width, u32 wide) {
  wide ? upsample_back_by<float, 2>(dx, dy, length, width) : upsample_back_by<float, 1>(dx, dy, length, width);
}
KERNEL_256(upsample_back_bf16)(bf16 *dx, const bf16 *dy, u64 length, u32 width, u32 wide) {
  wide ? upsample_back_by<bf16, 4>(dx, dy, length, width) : upsample_back_by<bf16, 1>(dx, dy, length, width);
}
