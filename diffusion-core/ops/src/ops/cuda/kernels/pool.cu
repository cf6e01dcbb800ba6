// Pooling: one value for each size × size square of pixels. Remaining rows and columns belong to no square and have
// gradient 0.

// The start in x of the square of element i of y; y is (planes, rows, columns), x (planes, height, width).
__device__ __forceinline__ u64 square(u64 i, u32 height, u32 width, u32 rows, u32 columns, u32 size) {
  u64 row = quotient(i, columns), plane = quotient(row, rows);
  return (plane * height + (row - plane * rows) * size) * width + (i - row * columns) * size;
}

// The position in row order of the maximum of a square: the first of equal elements, or any NaN.
template <typename T>
__device__ __forceinline__ u32 largest(const T *x, u32 width, u32 size, float &most) {
  u32 first = 0;
  most = -__int_as_float(0x7f800000);
  for (u32 r = 0; r < size; r++)
    for (u32 c = 0; c < size; c++) {
      float v = Of<T>::read(x[(u64)r * width + c]);
      if (v > most || v != v) {
        most = v;
        first = r * size + c;
      }
    }
  return first;
}

template <typename T>
__device__ __forceinline__ void pool(T *y, const T *x, u64 length, u32 height, u32 width, u32 rows, u32 columns, u32 size,
                                     u32 mean) {
  float share = __fdiv_rn(1.0f, (float)(size * size));
  for (u64 i = first_index(); i < length; i += stride()) {
    const T *from = x + square(i, height, width, rows, columns, size);
    float result = 0.0f;
    if (mean) {
      for (u32 r = 0; r < size; r++)
        for (u32 c = 0; c < size; c++) result += Of<T>::read(from[(u64)r * width + c]);
      result *= share;
    } else {
      largest(from, width, size, result);
    }
    y[i] = Of<T>::write(result);
  }
}

// One thread for each element of x, which finds its square.
template <typename T>
__device__ __forceinline__ void pool_back(T *dx, const T *x, const T *dy, u64 length, u32 height, u32 width, u32 rows,
                                          u32 columns, u32 size, u32 mean) {
  float share = __fdiv_rn(1.0f, (float)(size * size));
  for (u64 i = first_index(); i < length; i += stride()) {
    u64 line = quotient(i, width), plane = quotient(line, height);
    u32 r = (u32)(line - plane * height), c = (u32)(i - line * width);
    u32 row = r / size, column = c / size;
    float result = 0.0f;
    if (row < rows && column < columns) {
      float slope = Of<T>::read(dy[(plane * rows + row) * columns + column]);
      if (mean) {
        result = slope * share;
      } else {
        float most;
        u32 here = (r - row * size) * size + (c - column * size);
        u64 start = (plane * height + (u64)row * size) * width + (u64)column * size;
        if (largest(x + start, width, size, most) == here) result = slope;
      }
    }
    dx[i] = Of<T>::write(result);
  }
}

KERNEL_256(pool_f32)
(float *y, const float *x, u64 length, u32 height, u32 width, u32 rows, u32 columns, u32 size, u32 mean) {
  pool<float>(y, x, length, height, width, rows, columns, size, mean);
}
KERNEL_256(pool_bf16)
(bf16 *y, const bf16 *x, u64 length, u32 height, u32 width, u32 rows, u32 columns, u32 size, u32 mean) {
  pool<bf16>(y, x, length, height, width, rows, columns, size, mean);
}
KERNEL_256(pool_back_f32)
(float *dx, const float *x, const float *dy, u64 length, u32 height, u32 width, u32 rows, u32 columns, u32 size, u32 mean) {
  pool_back<float>(dx, x, dy, length, height, width, rows, columns, size, mean);
}
KERNEL_256(pool_back_bf16)
(bf16 *dx, const bf16 *x, const bf16 *dy, u64 length, u32 height, u32 width, u32 rows, u32 columns, u32 size, u32 mean) {
  pool_back<bf16>(dx, x, dy, length, height, width, rows, columns, size, mean);
}
