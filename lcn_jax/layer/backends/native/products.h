// Sums of matrix products of which a part of the right factors is packed, so that it stays in the
// first cache, and the left factors are multiplied by it in tiles, whose sums are in registers.
// Meanwhile the right factors of the next sum are fetched from memory.

#pragma once

#include <type_traits>
#include <vector>

#include "common.h"

namespace {

// ---- Tiles: small products whose sums are in registers. -----------------------------------------

constexpr int kColumns = kLanes > 4 ? 2 * kLanes : kRegisters / 2;
constexpr Index kDepth = 192;  // rows of packed right factors that stay in the first cache

constexpr Index ceil(Index a, Index b) { return (a + b - 1) / b; }
constexpr int vectors_of(int columns) { return columns > kLanes ? columns / kLanes : 1; }
// The rows whose sums fit into the registers beside a row of `right` and a number. More than this
// many rows are slower: their addresses do not fit into registers, too.
constexpr int most_rows(int columns) {
  return std::min(vectors_of(columns) > 1 ? 10 : 8, (kRegisters - 1) / vectors_of(columns) - 1);
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
  static const float zeros[columns] = {};
  const float* before = add ? sums : zeros;
  const Index stride_before = add ? stride : 0;
  Vector<lanes> sum[rows][vectors];
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v)
      sum[r][v] = load<lanes>(before + r * stride_before + v * lanes);
  const float* right = factors.right;
  for (Index b = 0; b < factors.count; ++b) {
    const float* left[rows];
    for (int r = 0; r < rows; ++r) left[r] = factors.left[b] + factors.offsets[r];
    for (Index d = 0; d < factors.depth; ++d, right += columns)
      for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vectors; ++v)
          sum[r][v] += left[r][d * factors.step] * load<lanes>(right + v * lanes);
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v)
      std::memcpy(sums + r * stride + v * lanes, &sum[r][v], sizeof sum[r][v]);
}

template <int columns, int size = most_rows(columns)>
void call_tile(Index rows, const Factors& factors, float* sums, Index stride, bool add) {
  if (rows == size) return tile<size, columns>(factors, sums, stride, add);
  if constexpr (size > 1) call_tile<columns, size - 1>(rows, factors, sums, stride, add);
}

// The same as `tile`, with any number of rows: it takes tiles of nearly the same size, and calls
// between() before each.
template <int size = kColumns, typename Between>
void multiply(int columns, Factors factors, Index rows, float* sums, Index stride, bool add,
              Between& between) {
  if (columns != size) {
    if constexpr (size > 4)
      multiply<size / 2>(columns, factors, rows, sums, stride, add, between);
    return;
  }
  for (Index most = most_rows(size), now; rows > 0; rows -= now) {
    now = ceil(rows, ceil(rows, most));
    between();
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
template <typename T>
using Products = std::vector<Product<T>>;

// Fetches the right factors of products, some lines at a time: `rows` rows, `stride` numbers apart.
template <typename T>
class Fetcher {
 public:
  Fetcher(const Products<T>& products, Index rows, Index width, Index stride, Index calls)
      : products_(products), rows_(rows), bytes_(width * sizeof(T)), stride_(stride) {
    const Index lines = products.size() * rows * ceil(bytes_, kLine);
    at_once_ = ceil(lines, std::max<Index>(calls, 1));
  }
  void operator()() {
    for (Index i = 0; i < at_once_ && product_ < products_.size(); ++i) {
      const auto* row = reinterpret_cast<const char*>(products_[product_].right + row_ * stride_);
      __builtin_prefetch(row + byte_, 0, 2);
      if ((byte_ += kLine) < bytes_) continue;
      byte_ = 0;
      if (++row_ < rows_) continue;
      row_ = 0, ++product_;
    }
  }

 private:
  static constexpr Index kLine = 64;
  const Products<T>& products_;
  Index rows_, bytes_, stride_, at_once_;
  Index row_ = 0, byte_ = 0;
  size_t product_ = 0;
};

// out (rows, width) = sum of the products.
template <typename T, typename Out = T>
struct SumOfProducts {
  Index depth, width;
  Index step;  // between the numbers of a row of `left`
  bool transposed;
  Index right_stride, out_stride;  // between rows
  bool adds;                       // to what is in `out`, whose rows have room for whole columns

  static Index whole_columns(Index width) {
    return width % kColumns ? width / kColumns * kColumns + columns_of(width % kColumns) : width;
  }
  bool in_place() const {
    return std::is_same_v<Out, float> && (adds || whole_columns(width) == width);
  }
  // Floats for the packed right factors, and for sums that are not in `out` itself.
  Index scratch_size(Index rows) const {
    return kDepth * kColumns + (in_place() ? 0 : rows * whole_columns(width));
  }

  // `offsets` are those of the rows of `left`, `next` the products of the next place.
  void operator()(const Products<T>& products, const std::vector<Index>& offsets, Out* out,
                  float* scratch, const Products<T>& next) const {
    const Index rows = offsets.size(), count = products.size();
    float* sums = in_place() ? reinterpret_cast<float*>(out) : scratch + kDepth * kColumns;
    const Index stride = in_place() ? out_stride : whole_columns(width);
    if (!adds && (count == 0 || depth == 0))
      for (Index r = 0; r < rows; ++r) std::fill_n(sums + r * stride, width, 0.f);
    const Index depth_at_once = std::clamp<Index>(depth, 1, kDepth);
    const Index at_once = kDepth / depth_at_once;
    const Index calls = ceil(rows, most_rows(kColumns)) * ceil(width, kColumns) *
                        ceil(count, at_once) * ceil(depth, depth_at_once);
    Fetcher<T> fetch(next, transposed ? width : depth, transposed ? depth : width, right_stride,
                     calls);
    for (Index b = 0; b < count; b += at_once)
      for (Index d = 0; d < depth; d += depth_at_once)
        add(&products[b], std::min(at_once, count - b), d, std::min(depth_at_once, depth - d),
            offsets, scratch, sums, stride, adds || b + d > 0, fetch);
    if (!in_place())
      for (Index r = 0; r < rows; ++r)
        for (Index i = 0; i < width; ++i) assign(sums[r * stride + i], out[r * out_stride + i]);
  }

  // Adds `count` products over `part` of the depth, from `first` on.
  void add(const Product<T>* products, Index count, Index first, Index part,
           const std::vector<Index>& offsets, float* packed, float* sums, Index stride, bool add,
           Fetcher<T>& fetch) const {
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
      multiply(columns, factors, offsets.size(), sums + i, stride, add, fetch);
    }
  }
};

}  // namespace
