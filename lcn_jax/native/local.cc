// The three sums of a locally connected layer on CPU, as custom calls of XLA:
//
//   y[p, n, o]     = sum over t, c          of   x[pixel(p, t), n, c] · k[p, t, c, o]
//   dx[q, n, c]    = sum over p, t, o       of  dy[p, n, o] · k[p, t, c, o],  pixel(p, t) = q
//   dk[p, t, c, o] = sum over n             of   x[pixel(p, t), n, c] · dy[p, n, o]
//
// p is an output position, t a tap of the receptive field, q an input pixel, each of them flat over
// one to three axes (missing axes lead and have size 1); n an example, c a channel, o a feature.
// x is padded already, and pixel(p, t) = p · stride + t · dilation along every axis. With groups,
// every sum is done for each group of channels and features alone.
//
// In all three, a block of the result is a sum of small matrix products. `tile` computes a few rows
// and vectors of it in registers. Its right factor is packed beforehand: converted to float, filled
// up to whole vectors and, for dx, transposed. Every block of a result is computed by one thread,
// in an order that does not depend on the number of threads.

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Index = int64_t;

// ---- Vectors, as wide as the processor has them. ----------------------------------------------

#if defined(__AVX512F__)
constexpr int kLanes = 16, kVectors = 2, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kLanes = 8, kVectors = 2, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kVectors = 4, kRegisters = 32;
#else
constexpr int kLanes = 4, kVectors = 2, kRegisters = 16;
#endif

constexpr int kWidth = kLanes * kVectors;  // columns of a tile
constexpr Index kDepth = 256;              // rows of packed weights that stay in the first cache
constexpr int kMostRows = 8;

// The rows of a tile whose sums, with one row of the right factor and one number of the left, fit
// into the registers.
constexpr int most_rows(int vectors) {
  return std::min(kMostRows, (kRegisters - 1 - vectors) / vectors);
}

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef float Unaligned __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
inline void store(Vector value, float* to) { *reinterpret_cast<Unaligned*>(to) = value; }

struct BFloat16 {
  uint16_t bits;  // the upper half of a float
};

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline void assign(float value, float& to) { to = value; }
inline void assign(float value, BFloat16& to) {  // to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  to.bits = static_cast<uint16_t>(value == value ? rounded : bits >> 16 | 0x40);
}

// ---- Tiles. -------------------------------------------------------------------------------------

// left[b] points into a matrix whose row r begins at left[b] + offsets[r] and has `depth` numbers,
// `step` apart; `right` holds `count` packed matrices (depth, columns).
struct Factors {
  const float* const* left;
  Index count, depth, step;
  const float* right;
};

using Tile = void(const Factors&, const Index* offsets, float* sums, Index stride, bool add);

// sums[r, :] = (add ? sums[r, :] : 0) + sum over b, d of left[b][offsets[r] + d · step] · right[b, d, :]
template <int rows, int vectors>
void tile(const Factors& factors, const Index* offsets, float* sums, Index stride, bool add) {
  Vector sum[rows][vectors];
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v)
      sum[r][v] = add ? load(sums + r * stride + v * kLanes) : Vector{};
  const float* right = factors.right;
  for (Index b = 0; b < factors.count; ++b) {
    const float* left[rows];
    for (int r = 0; r < rows; ++r) left[r] = factors.left[b] + offsets[r];
    for (Index d = 0; d < factors.depth; ++d, right += vectors * kLanes)
      for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vectors; ++v)
          sum[r][v] += left[r][d * factors.step] * load(right + v * kLanes);
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) store(sum[r][v], sums + r * stride + v * kLanes);
}

template <int vectors, int... r>
constexpr std::array<Tile*, kMostRows> tiles_of(std::integer_sequence<int, r...>) {
  return {tile<std::min(r + 1, most_rows(vectors)), vectors>...};
}
template <int... v>
constexpr std::array<std::array<Tile*, kMostRows>, kVectors> all_tiles(
    std::integer_sequence<int, v...>) {
  return {tiles_of<v + 1>(std::make_integer_sequence<int, kMostRows>{})...};
}
constexpr auto kTiles = all_tiles(std::make_integer_sequence<int, kVectors>{});

// A product with any number of rows, cut into tiles of nearly the same size.
void multiply(const Factors& factors, int vectors, const Index* offsets, Index rows, float* sums,
              Index stride, bool add) {
  const Index most = most_rows(vectors);
  for (Index row = 0; row < rows;) {
    const Index tiles = (rows - row + most - 1) / most, size = (rows - row + tiles - 1) / tiles;
    kTiles[vectors - 1][size - 1](factors, offsets + row, sums + row * stride, stride, add);
    row += size;
  }
}

// ---- Packing. -----------------------------------------------------------------------------------

int vectors_for(Index width) {
  return static_cast<int>((std::min<Index>(width, kWidth) + kLanes - 1) / kLanes);
}
Index whole_vectors(Index width) { return (width + kLanes - 1) / kLanes * kLanes; }

// (rows, width) -> floats (rows, columns), with zeros in the columns from `width` on.
template <typename T>
void pack(const T* from, Index stride, Index rows, Index width, Index columns, float* to) {
  for (Index row = 0; row < rows; ++row, from += stride, to += columns) {
    for (Index i = 0; i < width; ++i) to[i] = to_float(from[i]);
    std::fill(to + width, to + columns, 0.f);
  }
}

template <int... lane>
void interleave(Vector a, Vector b, Vector* to, std::integer_sequence<int, lane...>) {
  to[0] = __builtin_shufflevector(a, b, (lane / 2 + lane % 2 * kLanes)...);
  to[1] = __builtin_shufflevector(a, b, (kLanes / 2 + lane / 2 + lane % 2 * kLanes)...);
}

// (kLanes, kLanes) -> its transpose: each round of interleaving moves one bit of the row's number
// to the column's.
template <typename T>
void pack_square(const T* from, Index stride, Index columns, float* to) {
  Vector rows[kLanes], shuffled[kLanes];
  for (int r = 0; r < kLanes; ++r)
    for (int lane = 0; lane < kLanes; ++lane) rows[r][lane] = to_float(from[r * stride + lane]);
  for (int round = 1; round < kLanes; round *= 2) {
    for (int r = 0; r < kLanes / 2; ++r)
      interleave(rows[r], rows[r + kLanes / 2], shuffled + 2 * r,
                 std::make_integer_sequence<int, kLanes>{});
    std::copy(shuffled, shuffled + kLanes, rows);
  }
  for (int r = 0; r < kLanes; ++r) store(rows[r], to + r * columns);
}

// (width, rows) -> floats (rows, columns), with zeros in the columns from `width` on.
template <typename T>
void pack_transposed(const T* from, Index stride, Index rows, Index width, Index columns,
                     float* to) {
  const Index square_rows = rows / kLanes * kLanes, square_width = width / kLanes * kLanes;
  for (Index i = 0; i < square_width; i += kLanes)
    for (Index row = 0; row < square_rows; row += kLanes)
      pack_square(from + i * stride + row, stride, columns, to + row * columns + i);
  for (Index row = 0; row < rows; ++row) {
    const Index done = row < square_rows ? square_width : 0;
    for (Index i = done; i < width; ++i) to[row * columns + i] = to_float(from[i * stride + row]);
    std::fill(to + row * columns + width, to + (row + 1) * columns, 0.f);
  }
}

// ---- Sums of products. ---------------------------------------------------------------------------

class Floats {
 public:
  explicit Floats(Index size)
      : data_(static_cast<float*>(::operator new(4 * std::max<Index>(size, 1), kAlignment))) {}
  ~Floats() { ::operator delete(data_, kAlignment); }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  float* get() const { return data_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  float* data_;
};

// One product: `left` points into a matrix (rows, depth), as in Factors, `right` is a matrix
// (depth, width), or (width, depth) if it is to be transposed.
template <typename T>
struct Term {
  const float* left;
  const T* right;
};

// out (rows, width) = sum over terms of left · right. The strides are those between rows.
template <typename T>
struct SumOfProducts {
  bool transposed;
  Index depth, width, step, right_stride, out_stride;
  std::vector<Index> offsets;  // of the rows of `left`

  Index rows() const { return offsets.size(); }
  bool in_place() const { return std::is_same_v<T, float> && width % kLanes == 0; }
  // Scratch memory: packed right factors, and sums that cannot be in `out` itself.
  Index scratch() const {
    return kDepth * kWidth + (in_place() ? 0 : rows() * whole_vectors(width));
  }

  void operator()(const std::vector<Term<T>>& terms, T* out, float* scratch) const {
    float* sums = scratch + kDepth * kWidth;
    Index stride = whole_vectors(width);
    if (in_place()) sums = reinterpret_cast<float*>(out), stride = out_stride;
    if (terms.empty() || depth == 0)
      for (Index row = 0; row < rows(); ++row) std::fill_n(sums + row * stride, width, 0.f);
    const Index depth_at_once = std::min(depth, kDepth);
    const Index terms_at_once = kDepth / std::max<Index>(depth_at_once, 1);
    for (size_t first = 0; first < terms.size(); first += terms_at_once)
      for (Index d = 0; d < depth; d += depth_at_once)
        add(&terms[first], std::min<Index>(terms_at_once, terms.size() - first), d,
            std::min(depth_at_once, depth - d), scratch, sums, stride, first + d > 0);
    if (!in_place())
      for (Index row = 0; row < rows(); ++row)
        for (Index i = 0; i < width; ++i) assign(sums[row * stride + i], out[row * out_stride + i]);
  }

 private:
  void add(const Term<T>* terms, Index count, Index first, Index depth_now, float* packed,
           float* sums, Index stride, bool more) const {
    const float* left[kDepth];
    for (Index b = 0; b < count; ++b) left[b] = terms[b].left + first * step;
    for (Index i = 0; i < width; i += kWidth) {
      const Index width_now = std::min<Index>(kWidth, width - i);
      const Index columns = whole_vectors(width_now);
      for (Index b = 0; b < count; ++b) {
        const T* right = terms[b].right;
        float* to = packed + b * depth_now * columns;
        if (transposed)
          pack_transposed(right + i * right_stride + first, right_stride, depth_now, width_now,
                          columns, to);
        else
          pack(right + first * right_stride + i, right_stride, depth_now, width_now, columns, to);
      }
      multiply({left, count, depth_now, step, packed}, columns / kLanes, offsets.data(), rows(),
               sums + i, stride, more);
    }
  }
};

// ---- Threads. -----------------------------------------------------------------------------------

// work(begin, end) for parts of [0, count), on this thread and on those of the pool that are free.
// It waits only for parts that have begun, so it returns even if no thread of the pool ever comes;
// one that comes later finds nothing to do.
template <typename Work>
void parallel_for(ffi::ThreadPool pool, Index count, const Work& work) {
  struct State {
    std::atomic<Index> next{0};
    std::mutex mutex;
    std::condition_variable changed;
    Index done = 0;
  };
  const Index threads = std::max<Index>(pool.num_threads(), 1);
  const Index size = std::max<Index>(1, count / (threads > 1 ? 8 * threads : 1));
  const Index parts = (count + size - 1) / size;
  auto state = std::make_shared<State>();
  auto run = [state, parts, size, count, &work] {
    for (Index part; (part = state->next++) < parts;) {
      work(part * size, std::min(count, (part + 1) * size));
      std::lock_guard<std::mutex> lock(state->mutex);
      if (++state->done == parts) state->changed.notify_all();
    }
  };
  for (Index i = 1; i < std::min(threads, parts); ++i) pool.Schedule([run] { run(); });
  run();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->changed.wait(lock, [&] { return state->done == parts; });
}

// ---- The layer. ---------------------------------------------------------------------------------

struct Layer {
  using Axes = std::array<Index, 3>;
  Axes pixels, positions, taps, stride, dilation;
  Index examples, groups, channels, features;  // channels and features of one group

  static Index count(const Axes& size) { return size[0] * size[1] * size[2]; }
  static Axes at(Index flat, const Axes& size) {
    return {flat / size[2] / size[1], flat / size[2] % size[1], flat % size[2]};
  }
  Index flat_pixel(const Axes& at, const Axes& spacing) const {
    return (at[0] * spacing[0] * pixels[1] + at[1] * spacing[1]) * pixels[2] + at[2] * spacing[2];
  }
  // pixel(p, t) = first_pixel(p) + tap_pixel(t)
  Index first_pixel(Index position) const { return flat_pixel(at(position, positions), stride); }
  Index tap_pixel(Index tap) const { return flat_pixel(at(tap, taps), dilation); }
  // The position that sees the pixel at the tap, or -1.
  Index position_at(Index pixel, Index tap) const {
    const Axes q = at(pixel, pixels), t = at(tap, taps);
    Index position = 0;
    for (int i = 0; i < 3; ++i) {
      const Index away = q[i] - t[i] * dilation[i], p = away / stride[i];
      if (away < 0 || away % stride[i] || p >= positions[i]) return -1;
      position = position * positions[i] + p;
    }
    return position;
  }

  Index pixel_size() const { return examples * groups * channels; }     // of x at one pixel
  Index position_size() const { return examples * groups * features; }  // of y at one position
  Index tap_size() const { return channels * groups * features; }       // of k at one tap
};

template <typename T, typename Terms>
void sum_everywhere(ffi::ThreadPool pool, Index places, Index groups, const SumOfProducts<T>& sum,
                    const Terms& terms_at) {
  parallel_for(pool, places, [&](Index begin, Index end) {
    Floats scratch(sum.scratch());
    std::vector<Term<T>> terms;
    for (Index place = begin; place < end; ++place)
      for (Index group = 0; group < groups; ++group) {
        terms.clear();
        T* out = terms_at(place, group, terms);
        sum(terms, out, scratch.get());
      }
  });
}

// `from` as floats: itself, or a copy that is kept in `copy`.
template <typename T>
const float* as_floats(ffi::ThreadPool pool, const T* from, Index size, std::unique_ptr<Floats>& copy) {
  if constexpr (std::is_same_v<T, float>) return from;
  copy = std::make_unique<Floats>(size);
  parallel_for(pool, size / 4096 + 1, [&](Index begin, Index end) {
    const Index first = begin * 4096, last = std::min(size, end * 4096);
    pack(from + first, 0, 1, last - first, last - first, copy->get() + first);
  });
  return copy->get();
}

template <typename T>
void forward(ffi::ThreadPool pool, const Layer& layer, const T* x, const T* kernel, T* y) {
  const Index taps = Layer::count(layer.taps), size = layer.groups * layer.features;
  SumOfProducts<T> sum{false, layer.channels, layer.features, 1, size, size, {}};
  for (Index n = 0; n < layer.examples; ++n) sum.offsets.push_back(n * layer.groups * layer.channels);
  std::unique_ptr<Floats> copy;
  const float* left = as_floats(pool, x, Layer::count(layer.pixels) * layer.pixel_size(), copy);
  sum_everywhere(pool, Layer::count(layer.positions), layer.groups, sum,
                 [&](Index p, Index group, std::vector<Term<T>>& terms) {
    for (Index t = 0; t < taps; ++t) {
      const Index pixel = layer.first_pixel(p) + layer.tap_pixel(t);
      terms.push_back({left + pixel * layer.pixel_size() + group * layer.channels,
                       kernel + (p * taps + t) * layer.tap_size() + group * layer.features});
    }
    return y + p * layer.position_size() + group * layer.features;
  });
}

template <typename T>
void input_gradient(ffi::ThreadPool pool, const Layer& layer, T* dx, const T* kernel, const T* dy) {
  const Index taps = Layer::count(layer.taps), size = layer.groups * layer.features;
  SumOfProducts<T> sum{true, layer.features, layer.channels, 1, size,
                       layer.groups * layer.channels, {}};
  for (Index n = 0; n < layer.examples; ++n) sum.offsets.push_back(n * size);
  std::unique_ptr<Floats> copy;
  const float* left =
      as_floats(pool, dy, Layer::count(layer.positions) * layer.position_size(), copy);
  sum_everywhere(pool, Layer::count(layer.pixels), layer.groups, sum,
                 [&](Index pixel, Index group, std::vector<Term<T>>& terms) {
    for (Index t = 0; t < taps; ++t)
      if (const Index p = layer.position_at(pixel, t); p >= 0)
        terms.push_back({left + p * layer.position_size() + group * layer.features,
                         kernel + (p * taps + t) * layer.tap_size() + group * layer.features});
    return dx + pixel * layer.pixel_size() + group * layer.channels;
  });
}

template <typename T>
void kernel_gradient(ffi::ThreadPool pool, const Layer& layer, const T* x, T* dk, const T* dy) {
  const Index taps = Layer::count(layer.taps), size = layer.groups * layer.features;
  SumOfProducts<T> sum{false, layer.examples, layer.features, layer.groups * layer.channels, size,
                       size, {}};
  for (Index t = 0; t < taps; ++t)
    for (Index c = 0; c < layer.channels; ++c)
      sum.offsets.push_back(layer.tap_pixel(t) * layer.pixel_size() + c);
  std::unique_ptr<Floats> copy;
  const float* left = as_floats(pool, x, Layer::count(layer.pixels) * layer.pixel_size(), copy);
  sum_everywhere(pool, Layer::count(layer.positions), layer.groups, sum,
                 [&](Index p, Index group, std::vector<Term<T>>& terms) {
    terms.push_back({left + layer.first_pixel(p) * layer.pixel_size() + group * layer.channels,
                     dy + p * layer.position_size() + group * layer.features});
    return dk + p * taps * layer.tap_size() + group * layer.features;
  });
}

// ---- The custom calls. --------------------------------------------------------------------------

using Numbers = ffi::Span<const Index>;

// The layer that the shapes and attributes describe: x (*pixels, N, groups · C), kernel
// (*positions, *taps, C, groups · F), y (*positions, N, groups · F).
ffi::ErrorOr<Layer> layer_of(ffi::AnyBuffer x, ffi::AnyBuffer kernel, ffi::AnyBuffer y,
                             Numbers stride, Numbers dilation, Index groups) {
  const auto xs = x.dimensions(), ks = kernel.dimensions(), ys = y.dimensions();
  const size_t axes = stride.size();
  bool fits = axes >= 1 && axes <= 3 && dilation.size() == axes && groups >= 1 &&
              xs.size() == axes + 2 && ys.size() == axes + 2 && ks.size() == 2 * axes + 2 &&
              x.element_type() == kernel.element_type() && x.element_type() == y.element_type();
  Layer layer{{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, 0, groups, 0, 0};
  if (fits) {
    for (size_t i = 0; i < axes; ++i) {
      const size_t axis = 3 - axes + i;
      layer.pixels[axis] = xs[i], layer.positions[axis] = ks[i], layer.taps[axis] = ks[axes + i];
      layer.stride[axis] = stride[i], layer.dilation[axis] = dilation[i];
      const Index reach = (ks[i] - 1) * stride[i] + (ks[axes + i] - 1) * dilation[i] + 1;
      fits &= stride[i] >= 1 && dilation[i] >= 1 && reach <= xs[i] && ys[i] == ks[i];
    }
    layer.examples = xs[axes], layer.channels = ks[2 * axes], layer.features = ys[axes + 1] / groups;
    fits &= ys[axes] == layer.examples && xs[axes + 1] == groups * layer.channels &&
            ys[axes + 1] == groups * layer.features && ks[2 * axes + 1] == ys[axes + 1];
  }
  if (fits) return layer;
  return ffi::Unexpected(ffi::Error::InvalidArgument("the shapes of a local layer do not fit"));
}

template <typename Sum>
ffi::Error run(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer kernel, ffi::AnyBuffer y,
               Numbers stride, Numbers dilation, Index groups, const Sum& sum) {
  auto layer = layer_of(x, kernel, y, stride, dilation, groups);
  if (layer.has_error()) return layer.error();
  auto of = [&](auto type) {
    using T = decltype(type);
    sum(pool, *layer, static_cast<T*>(x.untyped_data()), static_cast<T*>(kernel.untyped_data()),
        static_cast<T*>(y.untyped_data()));
    return ffi::Error::Success();
  };
  if (x.element_type() == ffi::F32) return of(float{});
  if (x.element_type() == ffi::BF16) return of(BFloat16{});
  return ffi::Error::InvalidArgument("a local layer takes float32 or bfloat16");
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .Ret<ffi::AnyBuffer>()
      .Attr<Numbers>("stride")
      .Attr<Numbers>("kernel_dilation")
      .Attr<Index>("groups");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    lcn_forward,
    ([](ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer kernel,
        ffi::Result<ffi::AnyBuffer> y, Numbers stride, Numbers dilation, Index groups) {
      return run(pool, x, kernel, *y, stride, dilation, groups,
                 [](auto... args) { forward(args...); });
    }),
    binding());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    lcn_input_gradient,
    ([](ffi::ThreadPool pool, ffi::AnyBuffer dy, ffi::AnyBuffer kernel,
        ffi::Result<ffi::AnyBuffer> dx, Numbers stride, Numbers dilation, Index groups) {
      return run(pool, *dx, kernel, dy, stride, dilation, groups,
                 [](auto... args) { input_gradient(args...); });
    }),
    binding());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    lcn_kernel_gradient,
    ([](ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer dy,
        ffi::Result<ffi::AnyBuffer> dk, Numbers stride, Numbers dilation, Index groups) {
      return run(pool, x, *dk, dy, stride, dilation, groups,
                 [](auto... args) { kernel_gradient(args...); });
    }),
    binding());
