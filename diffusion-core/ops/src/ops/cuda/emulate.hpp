// Emulates CUDA for the host's compiler: a thread is a fiber, and a barrier passes control to the next one.
//
// Blocks run one after the other. In a block, a fiber runs threads to their end until one of them waits at a barrier;
// then another fiber continues with the next thread, so kernels without barriers need no switching. A warp runs as long
// as it can before another does, so overwriting a value before others have read it gives a wrong result. `backwards`
// runs blocks, warps and threads from the last to the first, which reveals results that depend on the order.
#define _XOPEN_SOURCE 700
#define _DARWIN_C_SOURCE
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#define __global__ __attribute__((visibility("hidden")))
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)

struct Three {
  unsigned x, y, z;
};
static Three threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

enum State { GOES, WAITS_FOR_BLOCK, WAITS_FOR_WARP, IDLE };

struct Fiber {
  ucontext_t context;
  unsigned thread = 0;
  State state = IDLE;
  uint64_t waits_for = 0;
};

static const size_t STACK = 128 << 10;
static std::vector<Fiber *> fibers;
// The fiber of each thread that has started.
static Fiber *of_thread[1024];
static Fiber *current;
static ucontext_t scheduler;
static std::function<void()> work;
static bool backwards;
static unsigned next_thread, finished;
// The number of barriers passed, and of threads waiting at the next.
static uint64_t passed, passed_by_warp[32];
static unsigned waiting, waiting_in_warp[32];
// The values that the threads of a warp exchange, in alternating buffers.
static uint64_t held_out[2][1024];
static const char *fault;

static void become(Fiber *f) {
  current = f;
  threadIdx = {f->thread, 0, 0};
}

static void body() {
  Fiber *me = current;
  for (;;) {
    while (next_thread < blockDim.x && !fault) {
      me->thread = backwards ? blockDim.x - 1 - next_thread : next_thread;
      next_thread++;
      me->state = GOES;
      of_thread[me->thread] = me;
      become(me);
      work();
      finished++;
    }
    me->state = IDLE;
    swapcontext(&me->context, &scheduler);
  }
}

static Fiber *fresh() {
  for (Fiber *f : fibers)
    if (f->state == IDLE) return f;
  Fiber *f = new Fiber;
  getcontext(&f->context);
  f->context.uc_stack.ss_sp = malloc(STACK);
  f->context.uc_stack.ss_size = STACK;
  f->context.uc_link = nullptr;
  makecontext(&f->context, body, 0);
  fibers.push_back(f);
  return f;
}

static void resume(Fiber *f) {
  become(f);
  swapcontext(&scheduler, &f->context);
}

static void wait_at(State state, uint64_t &passed, unsigned &waiting, unsigned all) {
  if (++waiting == all) {
    waiting = 0;
    passed++;
    return;
  }
  Fiber *me = current;
  me->state = state;
  me->waits_for = passed + 1;
  swapcontext(&me->context, &scheduler);
  me->state = GOES;
}

static bool ready(unsigned thread) {
  const Fiber *f = of_thread[thread];
  if (f->thread != thread) return false;
  if (f->state == WAITS_FOR_BLOCK) return passed >= f->waits_for;
  if (f->state == WAITS_FOR_WARP) return passed_by_warp[thread / 32] >= f->waits_for;
  return false;
}

// Runs the started threads of a warp until all wait for others; returns whether any ran.
static bool go_on(unsigned warp) {
  bool any = false, moved = true;
  while (moved && !fault) {
    moved = false;
    for (unsigned i = 0; i < 32; i++) {
      unsigned thread = 32 * warp + (backwards ? 31 - i : i);
      bool begun = (backwards ? blockDim.x - 1 - thread : thread) < next_thread;
      if (thread < blockDim.x && begun && ready(thread)) {
        resume(of_thread[thread]);
        any = moved = true;
      }
    }
  }
  return any;
}

static void run_block() {
  next_thread = finished = waiting = 0;
  passed = 0;
  memset(passed_by_warp, 0, sizeof passed_by_warp);
  memset(waiting_in_warp, 0, sizeof waiting_in_warp);
  while (next_thread < blockDim.x && !fault) {
    Fiber *f = fresh();
    resume(f);
    go_on(f->thread / 32);
  }
  while (finished < blockDim.x && !fault) {
    bool moved = false;
    unsigned warps = (blockDim.x + 31) / 32;
    for (unsigned i = 0; i < warps; i++) moved |= go_on(backwards ? warps - 1 - i : i);
    if (!moved) fault = "a barrier that not all threads come to";
  }
}

template <typename... A, size_t... I>
static void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
  kernel(*(std::remove_const_t<A> *)arguments[I]...);
}

template <typename... A>
static const char *launch(void (*kernel)(A...), void **arguments, unsigned x, unsigned y, unsigned threads, int reversed) {
  fault = nullptr;
  backwards = reversed;
  gridDim = {x, y, 1};
  blockDim = {threads, 1, 1};
  work = [=] { call(kernel, arguments, std::index_sequence_for<A...>()); };
  for (uint64_t i = 0; i < (uint64_t)x * y && !fault; i++) {
    uint64_t block = reversed ? (uint64_t)x * y - 1 - i : i;
    blockIdx = {(unsigned)(block % x), (unsigned)(block / x), 0};
    run_block();
  }
  return fault;
}

template <typename A>
struct Code;
template <typename A>
struct Code<A *> {
  static const char value = 'p';
};
#define CODE(type, letter) \
  template <>              \
  struct Code<type> {      \
    static const char value = letter; \
  };
CODE(unsigned, 'u')
CODE(unsigned long long, 'w')
CODE(float, 'f')
CODE(double, 'd')

template <typename... A>
static const char *types(void (*)(A...)) {
  static const char codes[] = {Code<A>::value..., 0};
  return codes;
}

}  // namespace emulator

#define EMULATE(name)                                                                                             \
  extern "C" __attribute__((visibility("default"))) const char *emulate_##name(void **arguments, unsigned x,      \
                                                                               unsigned y, unsigned threads,      \
                                                                               int backwards) {                   \
    return emulator::launch(name, arguments, x, y, threads, backwards);                                           \
  }                                                                                                               \
  extern "C" __attribute__((visibility("default"))) const char *types_##name() { return emulator::types(name); }

static inline void __syncthreads() {
  using namespace emulator;
  wait_at(WAITS_FOR_BLOCK, passed, waiting, blockDim.x);
}

template <typename T>
static T __shfl_xor_sync(unsigned mask, T value, unsigned off) {
  using namespace emulator;
  unsigned thread = threadIdx.x, warp = thread / 32;
  if (mask != 0xffffffffu || blockDim.x % 32 != 0) fault = "a shuffle among threads that are no whole warp";
  uint64_t *turn = held_out[passed_by_warp[warp] % 2];
  memcpy(&turn[thread], &value, sizeof value);
  wait_at(WAITS_FOR_WARP, passed_by_warp[warp], waiting_in_warp[warp], 32);
  memcpy(&value, &turn[thread ^ off], sizeof value);
  return value;
}

template <typename To, typename From>
static inline To same_bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "of one size");
  To y;
  memcpy(&y, &x, sizeof y);
  return y;
}
static inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
static inline float __int_as_float(int x) { return same_bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
static inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double x) { return sqrt(x); }
