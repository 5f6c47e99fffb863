// Sums over the examples of an activation, as a custom call of XLA: what BatchNorm needs of its
// input x, and of the gradient z of its output:
//
//   products[p, c] = sum over n  of  (x[p, n, c] - center[p, c]) · z[p, n, c]
//   sums[p, c]     = sum over n  of                                z[p, n, c]
//
// x and z are (places, rows, channels). As many rows as fill whole vectors are one row of `wide`
// columns, so that any number of channels is summed in vectors. The rows of a place are divided
// into blocks, whose sums, in single precision, are added in double precision, in an order that
// does not depend on the number of threads.

#include <numeric>
#include <vector>

#include "common.h"

namespace {

constexpr Index kBlock = 1 << 14;  // numbers

inline Vector<kLanes> load_floats(const float* from) { return load<kLanes>(from); }
inline Vector<kLanes> load_floats(const BFloat16* from) {
  typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
  typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const Words words = __builtin_convertvector(halves, Words) << 16;
  Vector<kLanes> floats;
  std::memcpy(&floats, &words, sizeof floats);
  return floats;
}

struct Sizes { Index places, rows, channels; };

// The sums of some columns, `vectors` vectors, of `rows` rows that are `wide` apart.
template <int vectors, typename T>
void sum_columns(const T* x, const T* z, const float* center, Index rows, Index wide,
                 float* products, float* sums) {
  Vector<kLanes> product[vectors] = {}, sum[vectors] = {}, at[vectors];
  for (int v = 0; v < vectors; ++v) at[v] = load<kLanes>(center + v * kLanes);
  for (Index row = 0; row < rows; ++row, x += wide, z += wide)
    for (int v = 0; v < vectors; ++v) {
      const Vector<kLanes> of_z = load_floats(z + v * kLanes);
      product[v] += (load_floats(x + v * kLanes) - at[v]) * of_z;
      sum[v] += of_z;
    }
  std::memcpy(products, product, sizeof product);
  std::memcpy(sums, sum, sizeof sum);
}

// Adds to totals (products and sums, channels) those of `rows` rows. `center` is (wide,).
template <typename T>
void sum_rows(const T* x, const T* z, const float* center, Index rows, Index channels, Index wide,
              float* of_columns, double* totals) {
  const Index wide_rows = rows * channels / wide;
  float* const products = of_columns;
  float* const sums = of_columns + wide;
  Index i = 0;
  for (; i + 4 * kLanes <= wide; i += 4 * kLanes)
    sum_columns<4>(x + i, z + i, center + i, wide_rows, wide, products + i, sums + i);
  for (; i < wide; i += kLanes)
    sum_columns<1>(x + i, z + i, center + i, wide_rows, wide, products + i, sums + i);
  for (i = 0; i < wide; ++i) {
    totals[i % channels] += products[i];
    totals[channels + i % channels] += sums[i];
  }
  for (i = wide_rows * wide; i < rows * channels; ++i) {  // fewer than a wide row
    totals[i % channels] += (to_float(x[i]) - center[i % wide]) * to_float(z[i]);
    totals[channels + i % channels] += to_float(z[i]);
  }
}

template <typename T>
void sum(ffi::ThreadPool pool, const Sizes& size, const T* x, const float* center, const T* z,
         float* products, float* sums) {
  const Index channels = size.channels, wide = std::lcm<Index>(channels, kLanes);
  const Index block = std::max<Index>(1, kBlock / wide) * wide / channels;  // rows
  const Index blocks = (size.rows + block - 1) / block;
  std::vector<double> totals(size.places * blocks * 2 * channels);
  parallel_for(pool, size.places * blocks, [&](Index begin, Index end) {
    std::vector<float> of_columns(3 * wide);
    float* const wide_center = of_columns.data() + 2 * wide;
    for (Index i = begin; i < end; ++i) {
      const Index place = i / blocks, row = i % blocks * block;
      for (Index j = 0; j < wide; ++j) wide_center[j] = center[place * channels + j % channels];
      const Index first = (place * size.rows + row) * channels;
      sum_rows(x + first, z + first, wide_center, std::min(block, size.rows - row), channels, wide,
               of_columns.data(), &totals[i * 2 * channels]);
    }
  });
  for (Index place = 0; place < size.places; ++place)
    for (Index c = 0; c < channels; ++c) {
      double product = 0, sum = 0;
      for (Index b = 0; b < blocks; ++b) {
        const double* of_block = &totals[(place * blocks + b) * 2 * channels];
        product += of_block[c];
        sum += of_block[channels + c];
      }
      products[place * channels + c] = product;
      sums[place * channels + c] = sum;
    }
}

ffi::Error sums(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer center, ffi::AnyBuffer z,
                ffi::Result<ffi::AnyBuffer> products, ffi::Result<ffi::AnyBuffer> sums) {
  const auto shape = x.dimensions();
  const Sizes size{shape[0], shape[1], shape[2]};
  const auto sum_all = [&](const auto* of_x, const auto* of_z) {
    sum(pool, size, of_x, center.typed_data<float>(), of_z, products->typed_data<float>(),
        sums->typed_data<float>());
  };
  if (x.element_type() == ffi::F32)
    sum_all(x.typed_data<float>(), z.typed_data<float>());
  else
    sum_all((const BFloat16*)x.untyped_data(), (const BFloat16*)z.untyped_data());
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    lcn_sums, sums,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>()
        .Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>());
