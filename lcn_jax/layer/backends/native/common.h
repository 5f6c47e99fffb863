// What the custom calls share: bfloat16, vectors of the processor, and threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Index = int64_t;

// ---- Numbers. -----------------------------------------------------------------------------------

struct BFloat16 { uint16_t bits; };  // the upper half of a float

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}
inline void assign(float value, float& to) { to = value; }
inline void assign(float value, BFloat16& to) {  // the nearest, of two the even one; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  to.bits = static_cast<uint16_t>(value == value ? rounded : bits >> 16 | 0x40);
}

// The floats of a vector, and the vectors in the processor's registers.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kLanes = 8, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRegisters = 32;
#else
constexpr int kLanes = 4, kRegisters = 16;
#endif

template <int lanes>
struct VectorOf { typedef float Type __attribute__((vector_size(4 * lanes))); };
template <int lanes>
using Vector = typename VectorOf<lanes>::Type;

template <int lanes>
inline Vector<lanes> load(const float* from) {  // it need not be aligned
  Vector<lanes> vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

// ---- Threads. -----------------------------------------------------------------------------------

// Calls work(begin, end) for parts of [0, count), on this thread and on idle ones of the pool. It
// waits only for parts that have begun, so it returns even if no thread of the pool is ever idle;
// one that comes too late finds nothing left to do.
template <typename Work>
void parallel_for(ffi::ThreadPool pool, Index count, const Work& work) {
  struct State {
    std::atomic<Index> next{0};
    std::mutex mutex;
    std::condition_variable all_done;
    Index done = 0;
  };
  const Index threads = std::max<Index>(pool.num_threads(), 1);
  const Index size = std::max<Index>(1, threads > 1 ? count / (8 * threads) : count);
  const Index parts = (count + size - 1) / size;
  const auto state = std::make_shared<State>();
  const auto run = [state, parts, size, count, &work] {
    for (Index part; (part = state->next++) < parts;) {
      work(part * size, std::min(count, (part + 1) * size));
      const std::lock_guard<std::mutex> lock(state->mutex);
      if (++state->done == parts) state->all_done.notify_all();
    }
  };
  for (Index i = 1; i < std::min(threads, parts); ++i) pool.Schedule([run] { run(); });
  run();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->all_done.wait(lock, [&] { return state->done == parts; });
}

}  // namespace
