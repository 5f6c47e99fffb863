// The three sums of a locally connected layer on CPU, as custom calls of XLA:
//
//   y[p, n, o]     = sum over t, c     of   x[pixel(p, t), n, c] · k[p, t, c, o]
//   dx[q, n, c]    = sum over p, t, o  of  dy[p, n, o] · k[p, t, c, o],  where pixel(p, t) = q
//   dk[p, t, c, o] = sum over n        of   x[pixel(p, t), n, c] · dy[p, n, o]
//
// p is an output position, t a tap of its receptive field and q a pixel of the padded input, each
// flat over three axes (with fewer, the first have size 1); n is an example, c a channel, o a
// feature. Along every axis, pixel(p, t) = p · stride + t · dilation. With groups, the sums are
// done for each group of channels and features alone.
//
// At each position (or pixel, for dx) and group, all three are a sum of matrix products: over the
// taps for y, over the neurons that see the pixel for dx, of one product for dk. `SumOfProducts`
// packs a part of the right factors, so that it stays in the first cache, and multiplies the left
// factors by it in tiles, whose sums are in registers. One thread computes all of a place, in an
// order that does not depend on the number of threads.

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <type_traits>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Index = int64_t;

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

// ---- Tiles: small products whose sums are in registers. -----------------------------------------

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRegisters = 32, kColumns = 32;
#elif defined(__AVX__)
constexpr int kLanes = 8, kRegisters = 16, kColumns = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRegisters = 32, kColumns = 16;
#else
constexpr int kLanes = 4, kRegisters = 16, kColumns = 8;
#endif
constexpr Index kDepth = 256;  // rows of packed right factors that stay in the first cache

constexpr int vectors_of(int columns) { return columns > kLanes ? columns / kLanes : 1; }
// The rows, 8 at most, whose sums fit into the registers beside a row of `right` and a number.
constexpr int most_rows(int columns) {
  return std::min(8, (kRegisters - 1) / vectors_of(columns) - 1);
}
// Of the tile for a product of this width, or for the next columns of a wider one.
constexpr int columns_of(Index width) {
  int columns = 4;
  while (columns < width && columns < kColumns) columns *= 2;
  return columns;
}

// Row r of left factor b begins at left[b] + offsets[r]; its `depth` numbers are `step` apart.
// The right factors, (depth, columns) each, are packed one after the other.
struct Factors {
  const float* const* left;
  const Index* offsets;
  Index count, depth, step;
  const float* right;
};

// sums (rows, columns) = the sum of the products, added to what is there if `add`.
template <int rows, int columns>
void tile(const Factors& factors, float* sums, Index stride, bool add) {
  constexpr int vectors = vectors_of(columns), lanes = columns / vectors;
  typedef float Vector __attribute__((vector_size(4 * lanes)));
  const auto load = [](const float* from) {
    Vector vector;  // not aligned: neither features nor groups need be whole vectors
    std::memcpy(&vector, from, sizeof vector);
    return vector;
  };
  Vector sum[rows][vectors];
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v)
      sum[r][v] = add ? load(sums + r * stride + v * lanes) : Vector{};
  const float* right = factors.right;
  for (Index b = 0; b < factors.count; ++b) {
    const float* left[rows];
    for (int r = 0; r < rows; ++r) left[r] = factors.left[b] + factors.offsets[r];
    for (Index d = 0; d < factors.depth; ++d, right += columns)
      for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vectors; ++v)
          sum[r][v] += left[r][d * factors.step] * load(right + v * lanes);
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v)
      std::memcpy(sums + r * stride + v * lanes, &sum[r][v], sizeof(Vector));
}

template <int columns, int size = most_rows(columns)>
void call_tile(Index rows, const Factors& factors, float* sums, Index stride, bool add) {
  if (rows == size) return tile<size, columns>(factors, sums, stride, add);
  if constexpr (size > 1) call_tile<columns, size - 1>(rows, factors, sums, stride, add);
}

// The same as `tile`, with any number of rows: it takes tiles of nearly the same size.
template <int size = kColumns>
void multiply(int columns, Factors factors, Index rows, float* sums, Index stride, bool add) {
  if (columns != size) {
    if constexpr (size > 4) multiply<size / 2>(columns, factors, rows, sums, stride, add);
    return;
  }
  for (Index most = most_rows(size), now; rows > 0; rows -= now) {
    const Index tiles = (rows + most - 1) / most;
    now = (rows + tiles - 1) / tiles;
    call_tile<size>(now, factors, sums, stride, add);
    factors.offsets += now, sums += now * stride;
  }
}

// ---- Packing. -----------------------------------------------------------------------------------

// (depth, width) -> floats (depth, columns). Columns from `width` on are 0.
template <typename T>
void pack(const T* from, Index stride, Index depth, Index width, Index columns, float* to) {
  for (Index d = 0; d < depth; ++d, from += stride, to += columns) {
    Index i = 0;
    for (; i + 4 <= width; i += 4)
      for (int j = 0; j < 4; ++j) to[i + j] = to_float(from[i + j]);
    for (; i < columns; ++i) to[i] = i < width ? to_float(from[i]) : 0;
  }
}

template <typename T>
void pack_transposed_4x4(const T* from, Index stride, Index columns, float* to) {
  for (int r = 0; r < 4; ++r)
    for (int i = 0; i < 4; ++i) to[r * columns + i] = to_float(from[i * stride + r]);
}

// (width, depth) -> floats (depth, columns). Columns from `width` on are 0.
template <typename T>
void pack_transposed(const T* from, Index stride, Index depth, Index width, Index columns,
                     float* to) {
  const Index whole = width / 4 * 4;
  Index d = 0;
  for (; d + 4 <= depth; d += 4)
    for (Index i = 0; i < whole; i += 4)
      pack_transposed_4x4(from + i * stride + d, stride, columns, to + d * columns + i);
  for (Index row = 0; row < depth; ++row)
    for (Index i = row < d ? whole : 0; i < columns; ++i)
      to[row * columns + i] = i < width ? to_float(from[i * stride + row]) : 0;
}

// ---- Sums of products. --------------------------------------------------------------------------

// `left` (rows, depth) is as in Factors; `right` (depth, width), or (width, depth) if transposed.
template <typename T>
struct Product {
  const float* left;
  const T* right;
};

// out (rows, width) = sum of the products.
template <typename T>
struct SumOfProducts {
  Index depth, width;
  Index step;  // between the numbers of a row of `left`
  bool transposed;
  Index right_stride, out_stride;  // between rows
  std::vector<Index> offsets;      // of the rows of `left`

  Index rows() const { return offsets.size(); }
  Index whole_columns() const {
    return width % kColumns ? width / kColumns * kColumns + columns_of(width % kColumns) : width;
  }
  bool in_place() const { return std::is_same_v<T, float> && whole_columns() == width; }
  // Floats for the packed right factors, and for sums that are not in `out` itself.
  Index scratch_size() const {
    return kDepth * kColumns + (in_place() ? 0 : rows() * whole_columns());
  }

  void operator()(const std::vector<Product<T>>& products, T* out, float* scratch) const {
    float* sums = in_place() ? reinterpret_cast<float*>(out) : scratch + kDepth * kColumns;
    const Index stride = in_place() ? out_stride : whole_columns();
    if (products.empty() || depth == 0)
      for (Index r = 0; r < rows(); ++r) std::fill_n(sums + r * stride, width, 0.f);
    const Index depth_at_once = std::clamp<Index>(depth, 1, kDepth);
    const Index at_once = kDepth / depth_at_once, count = products.size();
    for (Index b = 0; b < count; b += at_once)
      for (Index d = 0; d < depth; d += depth_at_once)
        add(&products[b], std::min(at_once, count - b), d, std::min(depth_at_once, depth - d),
            scratch, sums, stride, b + d > 0);
    if (!in_place())
      for (Index r = 0; r < rows(); ++r)
        for (Index i = 0; i < width; ++i) assign(sums[r * stride + i], out[r * out_stride + i]);
  }

  // Adds `count` products over `part` of the depth, from `first` on.
  void add(const Product<T>* products, Index count, Index first, Index part, float* packed,
           float* sums, Index stride, bool add) const {
    const float* left[kDepth];
    for (Index b = 0; b < count; ++b) left[b] = products[b].left + first * step;
    const Factors factors{left, offsets.data(), count, part, step, packed};
    for (Index i = 0; i < width; i += kColumns) {
      const Index wide = std::min<Index>(kColumns, width - i);
      const int columns = columns_of(wide);
      float* to = packed;
      for (Index b = 0; b < count; ++b, to += part * columns) {
        const T* right = products[b].right;
        if (transposed)
          pack_transposed(right + i * right_stride + first, right_stride, part, wide, columns, to);
        else
          pack(right + first * right_stride + i, right_stride, part, wide, columns, to);
      }
      multiply(columns, factors, rows(), sums + i, stride, add);
    }
  }
};

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

// ---- The layer. ---------------------------------------------------------------------------------

struct Layer {
  using Axes = std::array<Index, 3>;
  Axes pixels, positions, taps, stride, dilation;
  Index examples, groups, channels, features;  // channels and features of one group

  static Index count(const Axes& size) { return size[0] * size[1] * size[2]; }
  static Axes at(Index flat, const Axes& size) {
    return {flat / size[2] / size[1], flat / size[2] % size[1], flat % size[2]};
  }
  // The pixel of a position (spacing: stride) at tap 0, or of position 0 at a tap (dilation).
  Index pixel(Index flat, const Axes& size, const Axes& spacing) const {
    const Axes i = at(flat, size);
    return (i[0] * spacing[0] * pixels[1] + i[1] * spacing[1]) * pixels[2] + i[2] * spacing[2];
  }
  // Calls visit(p, t) for the positions p that see pixel q along an axis, at tap t of it.
  template <typename Visit>
  void neurons_at(int axis, Index q, const Visit& visit) const {
    const Index last = std::min(q / stride[axis], positions[axis] - 1);
    const Index short_of = q - (taps[axis] - 1) * dilation[axis] - 1;  // a field from here misses q
    for (Index p = short_of < 0 ? 0 : short_of / stride[axis] + 1; p <= last; ++p)
      if (const Index away = q - p * stride[axis]; away % dilation[axis] == 0)
        visit(p, away / dilation[axis]);
  }

  // Where the numbers of a group begin in x, k and y.
  Index x_row() const { return groups * channels; }
  Index y_row() const { return groups * features; }
  Index in_x(Index q, Index group) const { return q * examples * x_row() + group * channels; }
  Index in_y(Index p, Index group) const { return p * examples * y_row() + group * features; }
  Index in_k(Index p, Index t, Index group) const {
    return (p * count(taps) + t) * channels * y_row() + group * features;
  }
};

// products_at(place, group, products) adds the products of a sum, and returns where it belongs.
template <typename T, typename ProductsAt>
void sum_everywhere(ffi::ThreadPool pool, const Layer::Axes& places, Index groups,
                    const SumOfProducts<T>& sum, const ProductsAt& products_at) {
  parallel_for(pool, Layer::count(places), [&](Index begin, Index end) {
    std::vector<float> memory(sum.scratch_size() + 16);
    float* scratch = memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) / 4 & 15);
    std::vector<Product<T>> products;
    for (Index place = begin; place < end; ++place)
      for (Index group = 0; group < groups; ++group) {
        products.clear();
        T* out = products_at(place, group, products);
        sum(products, out, scratch);
      }
  });
}

template <typename T>
void forward(ffi::ThreadPool pool, const Layer& l, const float* x, const T* k, T* y) {
  SumOfProducts<T> sum{l.channels, l.features, 1, false, l.y_row(), l.y_row(), {}};
  for (Index n = 0; n < l.examples; ++n) sum.offsets.push_back(n * l.x_row());
  std::vector<Index> tap_pixels(Layer::count(l.taps));
  for (size_t t = 0; t < tap_pixels.size(); ++t) tap_pixels[t] = l.pixel(t, l.taps, l.dilation);
  sum_everywhere(pool, l.positions, l.groups, sum, [&](Index p, Index g, auto& products) {
    const Index first = l.pixel(p, l.positions, l.stride);
    for (size_t t = 0; t < tap_pixels.size(); ++t)
      products.push_back({x + l.in_x(first + tap_pixels[t], g), k + l.in_k(p, t, g)});
    return y + l.in_y(p, g);
  });
}

template <typename T>
void input_gradient(ffi::ThreadPool pool, const Layer& l, const float* dy, const T* k, T* dx) {
  SumOfProducts<T> sum{l.features, l.channels, 1, true, l.y_row(), l.x_row(), {}};
  for (Index n = 0; n < l.examples; ++n) sum.offsets.push_back(n * l.y_row());
  sum_everywhere(pool, l.pixels, l.groups, sum, [&](Index q, Index g, auto& products) {
    const Layer::Axes at = Layer::at(q, l.pixels), &n = l.positions, &m = l.taps;
    l.neurons_at(0, at[0], [&](Index p0, Index t0) {
      l.neurons_at(1, at[1], [&](Index p1, Index t1) {
        l.neurons_at(2, at[2], [&](Index p2, Index t2) {
          const Index p = (p0 * n[1] + p1) * n[2] + p2, t = (t0 * m[1] + t1) * m[2] + t2;
          products.push_back({dy + l.in_y(p, g), k + l.in_k(p, t, g)});
        });
      });
    });
    return dx + l.in_x(q, g);
  });
}

template <typename T>
void kernel_gradient(ffi::ThreadPool pool, const Layer& l, const float* x, const T* dy, T* dk) {
  SumOfProducts<T> sum{l.examples, l.features, l.x_row(), false, l.y_row(), l.y_row(), {}};
  for (Index t = 0; t < Layer::count(l.taps); ++t)
    for (Index c = 0; c < l.channels; ++c)
      sum.offsets.push_back(l.in_x(l.pixel(t, l.taps, l.dilation), 0) + c);
  sum_everywhere(pool, l.positions, l.groups, sum, [&](Index p, Index g, auto& products) {
    products.push_back({x + l.in_x(l.pixel(p, l.positions, l.stride), g), dy + l.in_y(p, g)});
    return dk + l.in_k(p, 0, g);
  });
}

// ---- The custom calls. --------------------------------------------------------------------------

template <auto sum_float, auto sum_bfloat16>
ffi::Error call(ffi::ThreadPool pool, ffi::AnyBuffer left, ffi::AnyBuffer right,
                ffi::Result<ffi::AnyBuffer> out, ffi::Span<const Index> numbers) {
  Layer layer;
  std::memcpy(&layer, numbers.begin(), sizeof layer);  // `_call` in __init__.py writes them
  if (out->element_type() == ffi::F32) {
    sum_float(pool, layer, left.typed_data<float>(), right.typed_data<float>(),
              out->typed_data<float>());
  } else {
    const auto data = [](const auto& buffer) { return (BFloat16*)buffer.untyped_data(); };
    // The left operand as floats, in memory of its own: its numbers are read one at a time.
    std::vector<float> floats(left.element_count());
    parallel_for(pool, floats.size(), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) floats[i] = to_float(data(left)[i]);
    });
    sum_bfloat16(pool, layer, floats.data(), data(right), data(*out));
  }
  return ffi::Error::Success();
}

const auto binding = [] {
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>()
      .Ret<ffi::AnyBuffer>().Attr<ffi::Span<const Index>>("layer");
};

}  // namespace

#define LCN_CALL(sum) \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(lcn_##sum, (call<sum<float>, sum<BFloat16>>), binding())

LCN_CALL(forward);
LCN_CALL(input_gradient);
LCN_CALL(kernel_gradient);
