// A GPU made of the processor: what candle and this crate call of NVIDIA's driver, cuBLAS, cuRAND and cuDNN, on memory of the
// host. Everything is done at once, in the order of the calls. Kernels are translated from their PTX (ptx.py).
//
// It is stricter than a GPU: memory begins as NaN and has guards, every address that a kernel uses must lie in memory that is
// allocated, and what is freed is overwritten. What is used in a wrong way ends the process with a message.
#include <dlfcn.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

#define API extern "C" __attribute__((visibility("default")))
#define LOCK std::lock_guard<std::recursive_mutex> guard(lock)
// Of the enumeration CUresult.
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
#define NEEDS_CONTEXT                   \
  do {                                  \
    if (!current) return INVALID_CONTEXT; \
  } while (0)

static std::recursive_mutex lock;
static thread_local void *current;

[[noreturn]] static void die(const std::string &why) {
  fprintf(stderr, "GPU of the tests: %s\n", why.c_str());
  abort();
}

static std::string hex(u64 x) {
  char text[32];
  snprintf(text, sizeof text, "%lx", (unsigned long)x);
  return text;
}

static std::string variable(const char *name) {
  const char *value = getenv(name);
  if (!value) die(std::string(name) + " is not set");
  return value;
}

// ---- The device, its context, streams.

static u64 memory_of_device() { return strtoull(variable("TEST_GPU_MEMORY").c_str(), nullptr, 10); }

API int cuInit(unsigned) { return SUCCESS; }
// NVRTC asks for it.
API int cuGetExportTable(const void **, const void *) { return NOT_FOUND; }
API int cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
API int cuDeviceGetCount(int *n) { return *n = 1, SUCCESS; }
API int cuDeviceGet(int *device, int ordinal) { return *device = 0, ordinal ? INVALID_DEVICE : SUCCESS; }
API int cuDeviceGetName(char *name, int n, int) { return snprintf(name, n, "GPU of the tests"), SUCCESS; }
API int cuDeviceGetUuid_v2(void *uuid, int) { return memset(uuid, 7, 16), SUCCESS; }
API int cuDeviceTotalMem_v2(size_t *n, int) { return *n = memory_of_device(), SUCCESS; }
API int cuDeviceGetAttribute(int *value, int attribute, int) {
  // Threads of a block, of a warp, multiprocessors, the two numbers of the compute capability, memory pools.
  static const std::map<int, int> known = {{1, 1024}, {10, 32}, {16, 132}, {75, 9}, {76, 0}, {115, 1}};
  auto found = known.find(attribute);
  *value = found == known.end() ? 0 : found->second;
  return SUCCESS;
}
API int cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)0x1000, SUCCESS; }
API int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API int cuCtxSetCurrent(void *context) { return current = context, SUCCESS; }
API int cuCtxGetCurrent(void **context) { return *context = current, SUCCESS; }
API int cuCtxSynchronize() { return current ? SUCCESS : INVALID_CONTEXT; }
API int cuStreamCreate(void **stream, unsigned) {
  NEEDS_CONTEXT;
  return *stream = malloc(8), SUCCESS;
}
API int cuStreamDestroy_v2(void *stream) { return free(stream), SUCCESS; }
API int cuStreamSynchronize(void *) { return current ? SUCCESS : INVALID_CONTEXT; }
API int cuStreamWaitEvent(void *, void *, unsigned) { return SUCCESS; }
API int cuStreamIsCapturing(void *, int *capturing) { return *capturing = 0, SUCCESS; }
API int cuEventCreate(void **event, unsigned) { return *event = malloc(8), SUCCESS; }
API int cuEventDestroy_v2(void *event) { return free(event), SUCCESS; }
API int cuEventRecord(void *, void *) { return SUCCESS; }
API int cuGetErrorName(int error, const char **name) {
  *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OF_THE_TESTS";
  return SUCCESS;
}
API int cuGetErrorString(int error, const char **text) {
  *text = error == OUT_OF_MEMORY ? "out of memory" : "an error of the tests' GPU";
  return SUCCESS;
}

// ---- Memory.

static const size_t GUARD = 256;
struct Block {
  size_t size;
  u8 *whole;
};
static std::map<u64, Block> blocks;
static u64 used, most_used;

static void look_at_guards(u64 at, const Block &block) {
  for (size_t i = 0; i < GUARD; i++)
    if (block.whole[i] != 0xa5 || block.whole[GUARD + block.size + i] != 0xa5)
      die("written beside the " + std::to_string(block.size) + " bytes at " + hex(at));
}

// The block that was looked up last.
static u64 last_from, last_to;

static void must_be_allocated(u64 at, size_t n) {
  if (at >= last_from && at + n <= last_to) return;
  auto after = blocks.upper_bound(at);
  if (after == blocks.begin()) die("nothing is at " + hex(at));
  auto &[from, block] = *std::prev(after);
  if (at + n > from + block.size) die(hex(at) + " is not within the " + std::to_string(block.size) + " bytes at " + hex(from));
  last_from = from;
  last_to = from + block.size;
}

static void used_by_kernel(u64 at, unsigned n) { must_be_allocated(at, n); }

static void range(const void *at, size_t n) {
  if (n) must_be_allocated((u64)at, n);
}

API int cuMemAllocAsync(u64 *at, size_t n, void *) {
  NEEDS_CONTEXT;
  LOCK;
  if (n == 0) return INVALID_VALUE;
  if (used + n > memory_of_device()) return OUT_OF_MEMORY;
  u8 *whole = (u8 *)aligned_alloc(256, (n + 2 * GUARD + 255) / 256 * 256);
  memset(whole, 0xa5, n + 2 * GUARD);
  memset(whole + GUARD, 0xff, n);
  *at = (u64)(whole + GUARD);
  blocks[*at] = {n, whole};
  used += n;
  most_used = std::max(most_used, used);
  return SUCCESS;
}

API int cuMemFreeAsync(u64 at, void *) {
  NEEDS_CONTEXT;
  LOCK;
  if (!at) return SUCCESS;
  auto found = blocks.find(at);
  if (found == blocks.end()) die("freed, but not allocated: " + hex(at));
  look_at_guards(at, found->second);
  memset(found->second.whole, 0xdd, found->second.size + 2 * GUARD);
  free(found->second.whole);
  used -= found->second.size;
  blocks.erase(found);
  last_from = last_to = 0;
  return SUCCESS;
}

API int cuMemGetInfo_v2(size_t *free, size_t *all) {
  NEEDS_CONTEXT;
  *all = memory_of_device();
  *free = *all - used;
  return SUCCESS;
}

API int cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t n, void *) {
  NEEDS_CONTEXT;
  LOCK;
  range((void *)to, n);
  return memcpy((void *)to, from, n), SUCCESS;
}
API int cuMemcpyDtoHAsync_v2(void *to, u64 from, size_t n, void *) {
  NEEDS_CONTEXT;
  LOCK;
  range((void *)from, n);
  return memcpy(to, (void *)from, n), SUCCESS;
}
API int cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t n, void *) {
  NEEDS_CONTEXT;
  LOCK;
  range((void *)from, n);
  range((void *)to, n);
  return memmove((void *)to, (void *)from, n), SUCCESS;
}
API int cuMemsetD8Async(u64 to, u8 value, size_t n, void *) {
  NEEDS_CONTEXT;
  LOCK;
  range((void *)to, n);
  return memset((void *)to, value, n), SUCCESS;
}

static void *const POOL = (void *)0x2000;
API int cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = POOL, SUCCESS; }
API int cuMemPoolSetAttribute(void *, int, void *) { return SUCCESS; }
API int cuMemPoolGetAttribute(void *, int attribute, void *value) {
  const int USED_HIGH = 8;
  return *(u64 *)value = attribute == USED_HIGH ? most_used : used, SUCCESS;
}

// ---- Kernels.

typedef const char *Start(void **, unsigned, unsigned, unsigned, int);
struct Module {
  std::string ptx, path;
};
struct Function {
  std::string name;
  Start *start;
};

API int cuModuleLoadData(void **to, const void *image) {
  NEEDS_CONTEXT;
  LOCK;
  static int count;
  Module *module = new Module{(const char *)image, variable("TEST_GPU_FOLDER") + "/" + std::to_string(count++)};
  if (module->ptx.find(".version") == std::string::npos) die("a module that is not PTX");
  FILE *file = fopen((module->path + ".ptx").c_str(), "w");
  if (!file) die("cannot write " + module->path);
  fwrite(module->ptx.data(), 1, module->ptx.size(), file);
  fclose(file);
  return *to = module, SUCCESS;
}

API int cuModuleUnload(void *) { return SUCCESS; }

API int cuModuleGetFunction(void **to, void *from, const char *name) {
  NEEDS_CONTEXT;
  LOCK;
  Module *module = (Module *)from;
  if (module->ptx.find(std::string(".entry ") + name + "(") == std::string::npos) return NOT_FOUND;
  static std::map<std::string, Function *> known;
  std::string path = module->path + "-" + name;
  Function *&function = known[path];
  if (!function) {
    std::string command = variable("TEST_GPU_TRANSLATE") + " " + module->path + ".ptx " + name + " " + path;
    if (system(command.c_str())) die("cannot translate " + path);
    void *library = dlopen((path + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) die(dlerror());
    *(void **)dlsym(library, "on_access") = (void *)used_by_kernel;
    function = new Function{name, (Start *)dlsym(library, "start")};
  }
  return *to = function, SUCCESS;
}

API int cuFuncSetAttribute(void *, int, int) { return SUCCESS; }

API int cuLaunchKernel(void *of, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y, unsigned threads_z,
                       unsigned, void *, void **arguments, void **) {
  NEEDS_CONTEXT;
  LOCK;
  Function *function = (Function *)of;
  if (z != 1 || threads_y != 1 || threads_z != 1) die(function->name + ": more dimensions than are known here");
  if (!x || !y || !threads || threads > 1024 || y > 65535) return INVALID_VALUE;
  const char *fault = function->start(arguments, x, y, threads, 0);
  if (fault) die(function->name + ": " + fault);
  for (auto &[at, block] : blocks) look_at_guards(at, block);
  return SUCCESS;
}

// ---- Numbers.

static float from_bf16(u16 bits) {
  u32 wide = (u32)bits << 16;
  float x;
  memcpy(&x, &wide, sizeof x);
  return x;
}

static u32 bits_of(float x) {
  u32 bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static u16 to_bf16(float x) {
  u32 bits = bits_of(x);
  return x != x ? 0x7fff : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

static float to_tf32(float x) {
  u32 bits = bits_of(x);
  bits = (bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fffu;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// ---- cuBLAS: matrices by columns.

enum { REAL_F32 = 0, REAL_F64 = 1, REAL_BF16 = 14 };
enum { COMPUTE_F32 = 68, COMPUTE_TF32 = 77 };

API int cublasCreate_v2(void **handle) { return *handle = malloc(8), current ? 0 : 1; }
API int cublasDestroy_v2(void *handle) { return free(handle), 0; }
API int cublasSetStream_v2(void *, void *) { return 0; }

struct Matrices {
  void *at;
  int type, leading;
  long long stride;

  size_t width() const { return type == REAL_F64 ? 8 : type == REAL_F32 ? 4 : 2; }

  void must_be_allocated(int rows, int columns, int batch) const {
    range(at, (stride * (batch - 1) + (size_t)leading * (columns - 1) + rows) * width());
  }

  double get(size_t i) const {
    switch (type) {
      case REAL_F32: return ((float *)at)[i];
      case REAL_F64: return ((double *)at)[i];
      case REAL_BF16: return from_bf16(((u16 *)at)[i]);
    }
    die("matrices of type " + std::to_string(type));
  }

  void set(size_t i, double x) const {
    if (type == REAL_F32) ((float *)at)[i] = x;
    if (type == REAL_F64) ((double *)at)[i] = x;
    if (type == REAL_BF16) ((u16 *)at)[i] = to_bf16(x);
  }
};

static int product(bool a_turned, bool b_turned, int m, int n, int k, double alpha, Matrices a, Matrices b, double beta,
                   Matrices c, int batch, bool tf32) {
  LOCK;
  a.must_be_allocated(a_turned ? k : m, a_turned ? m : k, batch);
  b.must_be_allocated(b_turned ? n : k, b_turned ? k : n, batch);
  c.must_be_allocated(m, n, batch);
  std::vector<double> sums(m);
  for (int matrix = 0; matrix < batch; matrix++)
    for (int j = 0; j < n; j++) {
      std::fill(sums.begin(), sums.end(), 0);
      for (int p = 0; p < k; p++) {
        double y = b.get(matrix * b.stride + (b_turned ? (size_t)p * b.leading + j : (size_t)j * b.leading + p));
        for (int i = 0; i < m; i++) {
          double x = a.get(matrix * a.stride + (a_turned ? (size_t)i * a.leading + p : (size_t)p * a.leading + i));
          sums[i] += tf32 ? (double)to_tf32(x) * to_tf32(y) : x * y;
        }
      }
      for (int i = 0; i < m; i++) {
        size_t at = matrix * c.stride + (size_t)j * c.leading + i;
        c.set(at, alpha * sums[i] + (beta ? beta * c.get(at) : 0));
      }
    }
  return 0;
}

API int cublasGemmStridedBatchedEx(void *, int ta, int tb, int m, int n, int k, const void *alpha, void *a, int a_type, int lda,
                                   long long sa, void *b, int b_type, int ldb, long long sb, const void *beta, void *c,
                                   int c_type, int ldc, long long sc, int batch, int compute, int) {
  if (compute != COMPUTE_F32 && compute != COMPUTE_TF32) die("a product in arithmetic " + std::to_string(compute));
  return product(ta, tb, m, n, k, *(float *)alpha, {a, a_type, lda, sa}, {b, b_type, ldb, sb}, *(float *)beta,
                 {c, c_type, ldc, sc}, batch, compute == COMPUTE_TF32);
}

API int cublasDgemmStridedBatched(void *, int ta, int tb, int m, int n, int k, const double *alpha, void *a, int lda,
                                  long long sa, void *b, int ldb, long long sb, const double *beta, void *c, int ldc,
                                  long long sc, int batch) {
  return product(ta, tb, m, n, k, *alpha, {a, REAL_F64, lda, sa}, {b, REAL_F64, ldb, sb}, *beta, {c, REAL_F64, ldc, sc}, batch,
                 false);
}

// ---- cuRAND: made with each device, but never asked for numbers.

API int curandCreateGenerator(void **generator, int) { return *generator = malloc(8), 0; }
API int curandDestroyGenerator(void *generator) { return free(generator), 0; }
API int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
API int curandSetStream(void *, void *) { return 0; }

// ---- cuDNN: convolutions.

enum { BAD_PARAMETER = 2000, NOT_SUPPORTED = 3000 };
enum Kind { TENSOR, FILTER, CONVOLUTION };
enum Pass { FORWARD, DATA, WEIGHT };
enum { FLOAT = 0, BFLOAT16 = 9 };
enum { DEFAULT_MATH = 0 };

struct Descriptor {
  Kind kind;
  int type, size[4];
  int padding[2], stride[2], math;

  size_t count() const { return (size_t)size[0] * size[1] * size[2] * size[3]; }
  size_t bytes() const { return count() * (type == BFLOAT16 ? 2 : 4); }
};

// What the chosen algorithm has to be given; the others are refused if they are chosen.
static const int RIGHT_ALGORITHM = 1;
static size_t workspace(const Descriptor *x, Pass pass) { return 1000 + 16 * x->size[1] + pass; }

API int cudnnCreate(void **handle) { return *handle = malloc(8), current ? 0 : BAD_PARAMETER; }
API int cudnnDestroy(void *handle) { return free(handle), 0; }
API int cudnnSetStream(void *, void *) { return 0; }
API const char *cudnnGetErrorString(int) { return "an error of the tests' cuDNN"; }
API int cudnnCreateTensorDescriptor(Descriptor **to) { return *to = new Descriptor{TENSOR}, 0; }
API int cudnnCreateFilterDescriptor(Descriptor **to) { return *to = new Descriptor{FILTER}, 0; }
API int cudnnCreateConvolutionDescriptor(Descriptor **to) { return *to = new Descriptor{CONVOLUTION}, 0; }

static int fill(Descriptor *to, Kind kind, int type, int format, int a, int b, int c, int d) {
  if (to->kind != kind || format != 0 || a < 1 || b < 1 || c < 1 || d < 1) return BAD_PARAMETER;
  *to = {kind, type, {a, b, c, d}};
  return 0;
}

API int cudnnSetTensor4dDescriptor(Descriptor *to, int format, int type, int n, int c, int h, int w) {
  return fill(to, TENSOR, type, format, n, c, h, w);
}
API int cudnnSetFilter4dDescriptor(Descriptor *to, int type, int format, int o, int c, int k, int l) {
  return fill(to, FILTER, type, format, o, c, k, l);
}
API int cudnnSetConvolution2dDescriptor(Descriptor *to, int padding_y, int padding_x, int stride_y, int stride_x,
                                        int dilation_y, int dilation_x, int mode, int compute) {
  const int CROSS_CORRELATION = 1;
  if (to->kind != CONVOLUTION || dilation_y != 1 || dilation_x != 1) return BAD_PARAMETER;
  if (mode != CROSS_CORRELATION || compute != FLOAT) return BAD_PARAMETER;
  *to = {CONVOLUTION, 0, {}, {padding_y, padding_x}, {stride_y, stride_x}, DEFAULT_MATH};
  return 0;
}
API int cudnnSetConvolutionMathType(Descriptor *convolution, int math) { return convolution->math = math, 0; }

struct Candidate {
  int algorithm, status;
  float time;
  size_t memory;
  int deterministic, math, reserved[3];
};

// In the order of their speed: one that cannot, one whose sums come in any order, one that takes 3 GiB, the right one.
static int candidates(Pass pass, const Descriptor *x, const Descriptor *weight, const Descriptor *convolution,
                      const Descriptor *y, int most, int *count, Candidate *found) {
  for (int i = 0; i < 2; i++) {
    int size = x->size[2 + i] + 2 * convolution->padding[i] - weight->size[2 + i];
    if (size < 0 || y->size[2 + i] != size / convolution->stride[i] + 1) return BAD_PARAMETER;
  }
  bool fit = x->size[1] == weight->size[1] && y->size[1] == weight->size[0] && x->size[0] == y->size[0];
  if (!fit || x->type != weight->type || x->type != y->type || most < 4) return BAD_PARAMETER;
  int math = convolution->math;
  found[0] = {7, NOT_SUPPORTED, -1, 0, 1, math};
  found[1] = {0, 0, 1, 100, 0, math};
  found[2] = {3, 0, 2, (size_t)3 << 30, 1, math};
  found[3] = {RIGHT_ALGORITHM, 0, 3, workspace(x, pass), 1, math};
  *count = 4;
  return 0;
}

API int cudnnGetConvolutionForwardAlgorithm_v7(void *, Descriptor *x, Descriptor *weight, Descriptor *convolution, Descriptor *y,
                                               int most, int *count, Candidate *found) {
  return candidates(FORWARD, x, weight, convolution, y, most, count, found);
}
API int cudnnGetConvolutionBackwardDataAlgorithm_v7(void *, Descriptor *weight, Descriptor *y, Descriptor *convolution,
                                                    Descriptor *x, int most, int *count, Candidate *found) {
  return candidates(DATA, x, weight, convolution, y, most, count, found);
}
API int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void *, Descriptor *x, Descriptor *y, Descriptor *convolution,
                                                      Descriptor *weight, int most, int *count, Candidate *found) {
  return candidates(WEIGHT, x, weight, convolution, y, most, count, found);
}

struct Problem {
  const Descriptor *x, *weight, *convolution, *y;

  void begin(Pass pass, const void *one, const void *zero, int algorithm, void *space, size_t size) const {
    if (*(const float *)one != 1 || *(const float *)zero != 0) die("a convolution with other factors than 1 and 0");
    if (algorithm != RIGHT_ALGORITHM || size < workspace(x, pass)) die("a convolution by algorithm " + std::to_string(algorithm));
    range(space, size);
    memset(space, 0xcc, size);
  }

  std::vector<float> read(const Descriptor *of, const void *at) const {
    range(at, of->bytes());
    std::vector<float> all(of->count());
    for (size_t i = 0; i < all.size(); i++) {
      all[i] = of->type == BFLOAT16 ? from_bf16(((u16 *)at)[i]) : ((float *)at)[i];
      if (of->type == FLOAT && convolution->math == DEFAULT_MATH) all[i] = to_tf32(all[i]);
    }
    return all;
  }

  static int write(const Descriptor *of, void *at, const std::vector<float> &all) {
    range(at, of->bytes());
    for (size_t i = 0; i < all.size(); i++)
      if (of->type == BFLOAT16)
        ((u16 *)at)[i] = to_bf16(all[i]);
      else
        ((float *)at)[i] = all[i];
    return 0;
  }

  // Calls f(x, weight, y, n, step) for each n neighbours of a row of y that meet the same weight: numbers y … y + n − 1 of y, and
  // x, x + step, … of x.
  template <typename F>
  void rows(F f) const {
    int step = convolution->stride[1];
    for (int n = 0; n < x->size[0]; n++)
      for (int o = 0; o < weight->size[0]; o++)
        for (int c = 0; c < weight->size[1]; c++)
          for (int k = 0; k < weight->size[2]; k++)
            for (int l = 0; l < weight->size[3]; l++)
              for (int r = 0; r < y->size[2]; r++) {
                int row = r * convolution->stride[0] + k - convolution->padding[0], off = l - convolution->padding[1];
                if (row < 0 || row >= x->size[2]) continue;
                int from = 0, to = y->size[3];
                while (from < to && from * step + off < 0) from++;
                while (to > from && (to - 1) * step + off >= x->size[3]) to--;
                size_t in_x = (((size_t)n * x->size[1] + c) * x->size[2] + row) * x->size[3];
                size_t in_weight = (((size_t)o * weight->size[1] + c) * weight->size[2] + k) * weight->size[3] + l;
                size_t in_y = (((size_t)n * y->size[1] + o) * y->size[2] + r) * y->size[3];
                f(in_x + from * step + off, in_weight, in_y + from, to - from, step);
              }
  }
};

API int cudnnConvolutionForward(void *, const void *one, Descriptor *xd, void *x, Descriptor *wd, void *w, Descriptor *convolution,
                                int algorithm, void *space, size_t size, const void *zero, Descriptor *yd, void *y) {
  LOCK;
  Problem problem{xd, wd, convolution, yd};
  problem.begin(FORWARD, one, zero, algorithm, space, size);
  auto xs = problem.read(xd, x), ws = problem.read(wd, w);
  std::vector<float> ys(yd->count());
  problem.rows([&](size_t a, size_t b, size_t c, int n, int step) {
    for (int i = 0; i < n; i++) ys[c + i] += xs[a + i * step] * ws[b];
  });
  return problem.write(yd, y, ys);
}

API int cudnnConvolutionBackwardData(void *, const void *one, Descriptor *wd, void *w, Descriptor *yd, void *y,
                                     Descriptor *convolution, int algorithm, void *space, size_t size, const void *zero,
                                     Descriptor *xd, void *x) {
  LOCK;
  Problem problem{xd, wd, convolution, yd};
  problem.begin(DATA, one, zero, algorithm, space, size);
  auto ys = problem.read(yd, y), ws = problem.read(wd, w);
  std::vector<float> xs(xd->count());
  problem.rows([&](size_t a, size_t b, size_t c, int n, int step) {
    for (int i = 0; i < n; i++) xs[a + i * step] += ys[c + i] * ws[b];
  });
  return problem.write(xd, x, xs);
}

API int cudnnConvolutionBackwardFilter(void *, const void *one, Descriptor *xd, void *x, Descriptor *yd, void *y,
                                       Descriptor *convolution, int algorithm, void *space, size_t size, const void *zero,
                                       Descriptor *wd, void *w) {
  LOCK;
  Problem problem{xd, wd, convolution, yd};
  problem.begin(WEIGHT, one, zero, algorithm, space, size);
  auto xs = problem.read(xd, x), ys = problem.read(yd, y);
  std::vector<float> ws(wd->count());
  problem.rows([&](size_t a, size_t b, size_t c, int n, int step) {
    for (int i = 0; i < n; i++) ws[b] += xs[a + i * step] * ys[c + i];
  });
  return problem.write(wd, w, ws);
}
