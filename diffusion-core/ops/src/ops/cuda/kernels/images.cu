// Loads images of a data set by index: p / 127.5 - 1, identical to Dataset::images to the bit.

template <int N>
__device__ __forceinline__ void images_by(float *y, const u8 *pixels, const u32 *indices, u64 length, u32 size, u32 count) {
  for (u64 i = first_index(); i < length / N; i += stride()) {
    u64 image = quotient(i * N, size), at = i * N - image * size;
    u32 index = indices[image];
    Pack<float, N> values;
    if (index < count) {
      Pack<u8, N> p = *(const Pack<u8, N> *)(pixels + (u64)index * size + at);
#pragma unroll
      for (int j = 0; j < N; j++) values.at[j] = __fsub_rn(__fdiv_rn((float)p.at[j], 127.5f), 1.0f);
    } else {
      // The image does not exist, which must be noticed.
#pragma unroll
      for (int j = 0; j < N; j++) values.at[j] = __int_as_float(0x7fc00000);
    }
    ((Pack<float, N> *)y)[i] = values;
  }
}

KERNEL_256(images)(float *y, const u8 *pixels, const u32 *indices, u64 length, u32 size, u32 count, u32 wide) {
  wide ? images_by<4>(y, pixels, indices, length, size, count) : images_by<1>(y, pixels, indices, length, size, count);
}
