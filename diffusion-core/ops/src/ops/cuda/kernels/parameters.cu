// One training step over all parameters of a network at once: gradient norm, AdamW, EMA. The arithmetic equals that of
// train::AdamW and train::Ema on the CPU, operation by operation.

struct Parameter {
  float *theta;
  // Null if there is no gradient in this step; then theta is unchanged.
  const float *gradient;
  float *m;
  float *v;
  // Null if there is no EMA.
  float *average;
  u64 length;
  // lr / (1-β₁ᵏ) and √(1-β₂ᵏ) for this parameter's number of updates k.
  float step_size;
  float correction;
};

// Some contiguous elements of a parameter, from CHUNK · chunk on.
struct Chunk {
  u32 parameter;
  u32 chunk;
};

// The result of the step.
struct Outcome {
  // Σ g² over all gradients before clipping, and its square root.
  double squares;
  double norm;
  // The factor that clips the gradients.
  double clip;
  // The last step taken, counted from 1.
  u32 step;
  // If not 0, the step that met a number that is not finite. It and all later steps change nothing.
  u32 failed;
};

#define CHUNK 8192u

KERNEL_256(squares_of_chunks)(double *sums, const Parameter *parameters, const Chunk *chunks) {
  __shared__ double shared[32];
  Chunk chunk = chunks[blockIdx.x];
  const Parameter *p = parameters + chunk.parameter;
  const float *g = p->gradient;
  double sum = 0.0;
  if (g) {
    u64 from = (u64)chunk.chunk * CHUNK, left = p->length - from;
    u32 length = left < CHUNK ? (u32)left : CHUNK;
    g += from;
    if (((u64)g & 15) == 0) {
      for (u32 i = threadIdx.x; i < length / 4; i += blockDim.x) {
        Pack<float, 4> q = ((const Pack<float, 4> *)g)[i];
#pragma unroll
        for (int j = 0; j < 4; j++) sum += (double)q.at[j] * (double)q.at[j];
      }
      u32 i = length / 4 * 4 + threadIdx.x;
      if (i < length) sum += (double)g[i] * (double)g[i];
    } else {
      for (u32 i = threadIdx.x; i < length; i += blockDim.x) sum += (double)g[i] * (double)g[i];
    }
  }
  sum = sum_of_block(sum, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Run by one block of threads. `loss` may be null.
KERNEL(judge)(Outcome *outcome, const double *sums, u32 count, const float *loss, double max_norm, u32 step) {
  __shared__ double shared[32];
  double sum = 0.0;
  for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += sums[i];
  sum = sum_of_block(sum, shared);
  if (threadIdx.x == 0 && outcome->failed == 0) {
    double norm = __dsqrt_rn(sum);
    outcome->squares = sum;
    outcome->norm = norm;
    outcome->clip = fmin(__ddiv_rn(max_norm, __dadd_rn(norm, 1e-6)), 1.0);
    if (is_finite(norm) && (!loss || is_finite(*loss)))
      outcome->step = step;
    else
      outcome->failed = step;
  }
}

// a + w (b - a), computed from the nearer end.
__device__ __forceinline__ float lerp_rn(float a, float b, float w) {
  float difference = __fsub_rn(b, a);
  return __fadd_rn(w, w) < 1.0f ? __fadd_rn(a, __fmul_rn(w, difference))
                                : __fsub_rn(b, __fmul_rn(difference, __fsub_rn(1.0f, w)));
}

struct Coefficients {
  float scale, mean_weight, beta2, square_weight, keep, step_size, correction, eps, average_weight;
};

template <int N>
__device__ __forceinline__ void update_by(const Parameter &p, u64 from, u32 length, const Coefficients &c, u32 first) {
  typedef Pack<float, N> P;
  for (u32 i = first + threadIdx.x; i < length / N; i += blockDim.x) {
    u64 at = from / N + i;
    P theta = ((P *)p.theta)[at], average;
    if (p.average) average = ((P *)p.average)[at];
    if (p.gradient) {
      P g = ((const P *)p.gradient)[at], m = ((P *)p.m)[at], v = ((P *)p.v)[at];
#pragma unroll
      for (int j = 0; j < N; j++) {
        float slope = __fmul_rn(c.scale, g.at[j]);
        m.at[j] = lerp_rn(m.at[j], slope, c.mean_weight);
        v.at[j] = __fadd_rn(__fmul_rn(c.beta2, v.at[j]), __fmul_rn(__fmul_rn(c.square_weight, slope), slope));
        float below = __fadd_rn(__fdiv_rn(__fsqrt_rn(v.at[j]), c.correction), c.eps);
        float move = __fdiv_rn(__fmul_rn(c.step_size, m.at[j]), below);
        theta.at[j] = __fsub_rn(__fmul_rn(c.keep, theta.at[j]), move);
      }
      ((P *)p.m)[at] = m;
      ((P *)p.v)[at] = v;
      ((P *)p.theta)[at] = theta;
    }
    if (p.average) {
#pragma unroll
      for (int j = 0; j < N; j++) average.at[j] = lerp_rn(average.at[j], theta.at[j], c.average_weight);
      ((P *)p.average)[at] = average;
    }
  }
}

// θ, m, v and the average in one pass. `share` is the factor of the gradients besides clipping.
KERNEL_256(update)
(const Parameter *parameters, const Chunk *chunks, const Outcome *outcome, double share, float mean_weight, float beta2,
 float square_weight, float keep, float eps, float average_weight) {
  if (outcome->failed) return;
  Chunk chunk = chunks[blockIdx.x];
  Parameter p = parameters[chunk.parameter];
  Coefficients c;
  c.scale = (float)__dmul_rn(outcome->clip, share);
  c.mean_weight = mean_weight;
  c.beta2 = beta2;
  c.square_weight = square_weight;
  c.keep = keep;
  c.step_size = p.step_size;
  c.correction = p.correction;
  c.eps = eps;
  c.average_weight = average_weight;
  u64 from = (u64)chunk.chunk * CHUNK, left = p.length - from;
  u32 length = left < CHUNK ? (u32)left : CHUNK;
  u64 all = (u64)p.theta | (u64)p.gradient | (u64)p.m | (u64)p.v | (u64)p.average;
  if ((all & 15) == 0) {
    update_by<4>(p, from, length, c, 0);
    update_by<1>(p, from, length, c, length / 4 * 4);
  } else {
    update_by<1>(p, from, length, c, 0);
  }
}
