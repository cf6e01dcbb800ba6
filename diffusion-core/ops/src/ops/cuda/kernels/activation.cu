// The activations by their code: none, SiLU, GELU, ReLU.

// f(x)
template <typename T, int ACTIVATION>
__device__ __forceinline__ float value(float x) {
  if (ACTIVATION == 1) return Of<T>::divide(x, 1.0f + expf(-x));
  // From the upper tail at -x, where 1 + erf would lose the digits of a small difference.
  if (ACTIVATION == 2) return 0.5f * x * erfcf(-0.70710678f * x);
  // False for NaN, so that NaN is kept.
  if (ACTIVATION == 3) return x < 0.0f ? 0.0f : x;
  return x;
}

// f'(x) dy
template <typename T, int ACTIVATION>
__device__ __forceinline__ float slope(float x, float dy) {
  if (ACTIVATION == 1) {
    // σ(-x) = e σ(x) is accurate where 1 - σ(x) is not; e must be finite.
    float e = expf(fminf(-x, 80.0f)), s = Of<T>::divide(1.0f, 1.0f + e);
    return dy * (s + x * s * (e * s));
  }
  if (ACTIVATION == 2) {
    float density = 0.39894228f * expf(-0.5f * x * x);
    return dy * (0.5f * erfcf(-0.70710678f * x) + x * density);
  }
  if (ACTIVATION == 3) return 0.0f < x ? dy : 0.0f;
  return dy;
}

template <typename T, int ACTIVATION>
__device__ __forceinline__ void activate_all(T *y, const T *x, u64 length, u32 wide) {
  const int N = Of<T>::WIDTH;
  u64 packs = wide ? length / N : 0;
  for (u64 i = first_index(); i < packs; i += stride()) {
    Pack<T, N> p = ((const Pack<T, N> *)x)[i];
#pragma unroll
    for (int j = 0; j < N; j++) p.at[j] = Of<T>::write(value<T, ACTIVATION>(Of<T>::read(p.at[j])));
    ((Pack<T, N> *)y)[i] = p;
  }
  for (u64 i = packs * N + first_index(); i < length; i += stride())
    y[i] = Of<T>::write(value<T, ACTIVATION>(Of<T>::read(x[i])));
}

template <typename T, int ACTIVATION>
__device__ __forceinline__ void activate_back_all(T *dx, const T *x, const T *dy, u64 length, u32 wide) {
  const int N = Of<T>::WIDTH;
  u64 packs = wide ? length / N : 0;
  for (u64 i = first_index(); i < packs; i += stride()) {
    Pack<T, N> p = ((const Pack<T, N> *)x)[i], q = ((const Pack<T, N> *)dy)[i];
#pragma unroll
    for (int j = 0; j < N; j++)
      p.at[j] = Of<T>::write(slope<T, ACTIVATION>(Of<T>::read(p.at[j]), Of<T>::read(q.at[j])));
    ((Pack<T, N> *)dx)[i] = p;
  }
  for (u64 i = packs * N + first_index(); i < length; i += stride())
    dx[i] = Of<T>::write(slope<T, ACTIVATION>(Of<T>::read(x[i]), Of<T>::read(dy[i])));
}

template <typename T>
__device__ __forceinline__ void activate(T *y, const T *x, u64 length, u32 activation, u32 wide) {
  switch (activation) {
    case 1: return activate_all<T, 1>(y, x, length, wide);
    case 2: return activate_all<T, 2>(y, x, length, wide);
    case 3: return activate_all<T, 3>(y, x, length, wide);
    default: return activate_all<T, 0>(y, x, length, wide);
  }
}

template <typename T>
__device__ __forceinline__ void activate_back(T *dx, const T *x, const T *dy, u64 length, u32 activation, u32 wide) {
  switch (activation) {
    case 1: return activate_back_all<T, 1>(dx, x, dy, length, wide);
    case 2: return activate_back_all<T, 2>(dx, x, dy, length, wide);
    case 3: return activate_back_all<T, 3>(dx, x, dy, length, wide);
    default: return activate_back_all<T, 0>(dx, x, dy, length, wide);
  }
}

KERNEL_256(activate_f32)(float *y, const float *x, u64 length, u32 activation, u32 wide) {
  activate<float>(y, x, length, activation, wide);
}
KERNEL_256(activate_bf16)(bf16 *y, const bf16 *x, u64 length, u32 activation, u32 wide) {
  activate<bf16>(y, x, length, activation, wide);
}
KERNEL_256(activate_back_f32)
(float *dx, const float *x, const float *dy, u64 length, u32 activation, u32 wide) {
  activate_back<float>(dx, x, dy, length, activation, wide);
}
KERNEL_256(activate_back_bf16)
(bf16 *dx, const bf16 *x, const bf16 *dy, u64 length, u32 activation, u32 wide) {
  activate_back<bf16>(dx, x, dy, length, activation, wide);
}
