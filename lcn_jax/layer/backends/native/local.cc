// The three sums of a locally connected layer on CPU, as custom calls of XLA:
//
//   y[p, n, o]     = sum over t, c     of   x[pixel(p, t), n, c] · k[p, t, c, o]
//   dx[q, n, c]    = sum over p, t, o  of  dy[p, n, o] · k[p, t, c, o],  where pixel(p, t) = q
//   dk[p, t, c, o] = sum over n        of   x[pixel(p, t), n, c] · dy[p, n, o]
//
// p is an output position, t a tap of its receptive field and q a pixel of the input, each flat
// over three axes (with fewer, the first have size 1); n is an example, c a channel, o a feature.
// Along every axis, pixel(p, t) = (p · stride + t · dilation - low) / between. A tap that is on no
// pixel, but on padding or between two pixels, adds nothing. With groups, the sums are done for each
// group of channels and features alone. In a convolution all positions share one kernel k[t, c, o],
// and dk is summed over them, too.
//
// At each position (or pixel, for dx) and group, all three are a sum of matrix products: over the
// taps for y, over the neurons that see the pixel for dx, of one product for dk (products.h). One
// thread computes all of a place, in an order that does not depend on the number of threads.

#include <array>
#include <utility>
#include <vector>

#include "products.h"

namespace {

// ---- The layer. ---------------------------------------------------------------------------------

struct Layer {
  using Axes = std::array<Index, 3>;
  Axes pixels, positions, taps, stride, dilation;
  Axes low, between;  // padding before the first pixel, and the distance of pixels
  Index examples, groups, channels, features;  // channels and features of one group
  Index shared;                                // by all positions is the kernel

  static Index count(const Axes& size) { return size[0] * size[1] * size[2]; }
  static Axes at(Index flat, const Axes& size) {
    return {flat / size[2] / size[1], flat / size[2] % size[1], flat % size[2]};
  }
  static Index flat(const Axes& at, const Axes& size) {
    return (at[0] * size[1] + at[1]) * size[2] + at[2];
  }
  // Calls visit(t, q) for the taps of position p along an axis that are on a pixel.
  template <typename Visit>
  void taps_along(int axis, Index p, const Visit& visit) const {
    Index at = p * stride[axis] - low[axis];
    for (Index t = 0; t < taps[axis]; ++t, at += dilation[axis])
      if (at >= 0 && at < pixels[axis] * between[axis]) {
        if (between[axis] == 1) visit(t, at);
        else if (at % between[axis] == 0) visit(t, at / between[axis]);
      }
  }
  // Calls visit(p, t) for the positions p along an axis that see pixel q, at tap t.
  template <typename Visit>
  void positions_along(int axis, Index q, const Visit& visit) const {
    const Index at = q * between[axis] + low[axis];
    const Index misses = at - (taps[axis] - 1) * dilation[axis] - 1;  // a field from here
    for (Index p = misses < 0 ? 0 : misses / stride[axis] + 1; p < positions[axis]; ++p) {
      const Index away = at - p * stride[axis];
      if (away < 0) break;
      if (dilation[axis] == 1) visit(p, away);
      else if (away % dilation[axis] == 0) visit(p, away / dilation[axis]);
    }
  }
  // visit(t, q), or visit(p, t), of all three axes.
  template <typename Visit>
  void taps_of(Index p, const Visit& visit) const {
    const Axes i = at(p, positions);
    taps_along(0, i[0], [&](Index t0, Index q0) {
      taps_along(1, i[1], [&](Index t1, Index q1) {
        taps_along(2, i[2], [&](Index t2, Index q2) {
          visit(flat({t0, t1, t2}, taps), flat({q0, q1, q2}, pixels));
        });
      });
    });
  }
  template <typename Visit>
  void positions_of(Index q, const Visit& visit) const {
    const Axes i = at(q, pixels);
    positions_along(0, i[0], [&](Index p0, Index t0) {
      positions_along(1, i[1], [&](Index p1, Index t1) {
        positions_along(2, i[2], [&](Index p2, Index t2) {
          visit(flat({p0, p1, p2}, positions), flat({t0, t1, t2}, taps));
        });
      });
    });
  }

  // Where the numbers of a group begin in x, k and y.
  Index x_row() const { return groups * channels; }
  Index y_row() const { return groups * features; }
  Index in_x(Index q, Index group) const { return q * examples * x_row() + group * channels; }
  Index in_y(Index p, Index group) const { return p * examples * y_row() + group * features; }
  Index in_k(Index p, Index t, Index group) const {
    return ((shared ? 0 : p) * count(taps) + t) * channels * y_row() + group * features;
  }
};

// Memory whose numbers begin with a cache line.
struct Scratch {
  explicit Scratch(Index size) : memory(size + 16) {}
  float* aligned() {
    return memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) / 4 & 15);
  }
  std::vector<float> memory;
};

// products_at(place, group, products) adds the products of a sum, and returns where it belongs.
template <typename T, typename ProductsAt>
void sum_everywhere(ffi::ThreadPool pool, const Layer& l, const Layer::Axes& places,
                    const SumOfProducts<T>& sum, Index row, const ProductsAt& products_at) {
  std::vector<Index> offsets(l.examples);
  for (Index n = 0; n < l.examples; ++n) offsets[n] = n * row;
  parallel_for(pool, Layer::count(places), [&](Index begin, Index end) {
    Scratch scratch(sum.scratch_size(l.examples));
    const Products<T> none;
    Products<T> products, next;
    T* next_out = products_at(begin, 0, next);
    for (Index i = begin * l.groups; i < end * l.groups; ++i) {
      T* out = next_out;
      products.swap(next);
      next.clear();
      if (i + 1 < end * l.groups)
        next_out = products_at((i + 1) / l.groups, (i + 1) % l.groups, next);
      sum(products, offsets, out, scratch.aligned(), l.shared ? none : next);
    }
  });
}

template <typename T>
void forward(ffi::ThreadPool pool, const Layer& l, const float* x, const T* k, T* y) {
  const SumOfProducts<T> sum{l.channels, l.features, 1, false, l.y_row(), l.y_row(), false};
  sum_everywhere(pool, l, l.positions, sum, l.x_row(), [&](Index p, Index g, auto& products) {
    l.taps_of(p, [&](Index t, Index q) {
      products.push_back({x + l.in_x(q, g), k + l.in_k(p, t, g)});
    });
    return y + l.in_y(p, g);
  });
}

template <typename T>
void input_gradient(ffi::ThreadPool pool, const Layer& l, const float* dy, const T* k, T* dx) {
  const SumOfProducts<T> sum{l.features, l.channels, 1, true, l.y_row(), l.x_row(), false};
  sum_everywhere(pool, l, l.pixels, sum, l.y_row(), [&](Index q, Index g, auto& products) {
    l.positions_of(q, [&](Index p, Index t) {
      products.push_back({dy + l.in_y(p, g), k + l.in_k(p, t, g)});
    });
    return dx + l.in_x(q, g);
  });
}

// The sums dk of single positions; of each, one after the other, for all groups.
template <typename T, typename Out>
class KernelGradient {
 public:
  KernelGradient(const Layer& layer, const float* x, const T* dy, Index out_stride, bool adds)
      : l_(layer), x_(x), dy_(dy),
        sum_{l_.examples, l_.features, l_.x_row(), false, l_.y_row(), out_stride, adds},
        scratch_(sum_.scratch_size(Layer::count(l_.taps) * l_.channels)) {}

  // That of position p and group g goes to the rows (taps, channels) of `out`.
  void operator()(Index p, Index g, Out* out) {
    find_runs(p);
    Out* end = out;
    for (const Run& run : runs_) {
      Out* to = out + run.tap * l_.channels * sum_.out_stride;
      fill_with_zeros(end, to);
      end = to + run.offsets.size() * sum_.out_stride;
      products_.assign(1, {x_ + l_.in_x(pixel_ + run.pixel, g), dy_ + l_.in_y(p, g)});
      next_.assign(p + 1 < Layer::count(l_.positions), {nullptr, dy_ + l_.in_y(p + 1, g)});
      sum_(products_, run.offsets, to, scratch_.aligned(), next_);
    }
    fill_with_zeros(end, out + Layer::count(l_.taps) * l_.channels * sum_.out_stride);
  }

 private:
  // Consecutive taps that are on pixels: their rows of the left factor are those of one product.
  struct Run {
    Index tap, pixel;  // the first; its pixel counted from the first of the position
    std::vector<Index> offsets;
  };

  void find_runs(Index p) {
    seen_.clear();
    l_.taps_of(p, [&](Index t, Index q) {
      if (seen_.empty()) pixel_ = q;
      seen_.push_back({t, q - pixel_});
    });
    if (seen_ == seen_of_runs_) return;  // as at most positions
    seen_of_runs_ = seen_;
    runs_.clear();
    for (const auto& [t, q] : seen_) {
      if (runs_.empty() || runs_.back().tap * l_.channels + Index(runs_.back().offsets.size()) !=
                               t * l_.channels)
        runs_.push_back({t, q, {}});
      for (Index c = 0; c < l_.channels; ++c)
        runs_.back().offsets.push_back(l_.in_x(q - runs_.back().pixel, 0) + c);
    }
  }
  void fill_with_zeros(Out* begin, Out* end) const {
    for (Out* row = sum_.adds ? end : begin; row < end; row += sum_.out_stride)
      for (Index o = 0; o < l_.features; ++o) assign(0, row[o]);
  }

  const Layer& l_;
  const float* x_;
  const T* dy_;
  SumOfProducts<T, Out> sum_;
  Scratch scratch_;
  Index pixel_ = 0;
  std::vector<std::pair<Index, Index>> seen_, seen_of_runs_;
  std::vector<Run> runs_;
  Products<T> products_, next_;
};

template <typename T>
void kernel_gradient(ffi::ThreadPool pool, const Layer& l, const float* x, const T* dy, T* dk) {
  const Index positions = Layer::count(l.positions);
  if (!l.shared) {
    parallel_for(pool, positions, [&](Index begin, Index end) {
      KernelGradient<T, T> gradient(l, x, dy, l.y_row(), false);
      for (Index p = begin; p < end; ++p)
        for (Index g = 0; g < l.groups; ++g) gradient(p, g, dk + l.in_k(p, 0, g));
    });
    return;
  }
  // The sums of a fixed number of parts of the positions are added in order.
  const Index parts = std::min<Index>(positions, 16), rows = Layer::count(l.taps) * l.channels;
  const Index columns = SumOfProducts<T, float>::whole_columns(l.features);
  const Index size = l.groups * rows * columns;
  Scratch memory(parts * size);
  float* sums = memory.aligned();
  parallel_for(pool, parts, [&](Index begin, Index end) {
    KernelGradient<T, float> gradient(l, x, dy, columns, true);
    for (Index part = begin; part < end; ++part)
      for (Index p = part * positions / parts; p < (part + 1) * positions / parts; ++p)
        for (Index g = 0; g < l.groups; ++g)
          gradient(p, g, sums + part * size + g * rows * columns);
  });
  parallel_for(pool, l.groups * rows, [&](Index begin, Index end) {
    for (Index row = begin; row < end; ++row)
      for (Index o = 0; o < l.features; ++o) {
        float sum = 0;
        for (Index part = 0; part < parts; ++part) sum += sums[part * size + row * columns + o];
        assign(sum, dk[l.in_k(0, 0, row / rows) + row % rows * l.y_row() + o]);
      }
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
