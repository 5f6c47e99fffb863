// Sums of matrix products of which a part of the right factors is packed, so that it stays in the
// first cache, and the left factors are multiplied by it in tiles, whose sums are in registers.
// What is as if it were packed is read where it is.
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
// The rows whose sums fit into the registers beside a row of `right` and a number. More than 8 are
// slower, unless they are a fixed distance apart: their addresses do not fit into registers, too.
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
// The right factors are (depth, columns) each.
struct Factors {
  const float *const *left, *const *right;
  const Index* offsets;
  Index count, depth, step;
};

// sums (rows, columns) = the sum of the products, added to what is there if `add`. If the rows of
// `left` are `apart` from each other, their addresses cost nothing; 0 stands for any distances.
template <int rows, int columns, int apart = 0>
void tile(const Factors& factors, float* sums, Index stride, bool add) {
  constexpr int vectors = vectors_of(columns), lanes = columns / vectors;
  static const float zeros[columns] = {};
  const float* before = add ? sums : zeros;
  const Index stride_before = add ? stride : 0;
  Vector<lanes> sum[rows][vectors];
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v)
      sum[r][v] = load<lanes>(before + r * stride_before + v * lanes);
  for (Index b = 0; b < factors.count; ++b) {
    const float* right = factors.right[b];
    const float* left = factors.left[b] + (apart ? factors.offsets[0] : 0);
    for (Index d = 0; d < factors.depth; ++d, left += factors.step, right += columns) {
      if (apart == 1) __builtin_prefetch(left + 16 * factors.step);  // they are in other lines
      for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vectors; ++v)
          sum[r][v] +=
              left[apart ? r * apart : factors.offsets[r]] * load<lanes>(right + v * lanes);
    }
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

// A tile of the first `size` rows, if they are there, `apart` from each other and not too many for
// the registers. Returns their number, or else 0.
template <int size, int apart, int columns>
Index tile_apart(Index rows, const Factors& factors, float* sums, Index stride, bool add) {
  if constexpr ((size + 1) * vectors_of(columns) < kRegisters) {
    if (rows < size) return 0;
    for (int r = 1; r < size; ++r)
      if (factors.offsets[r] != factors.offsets[0] + r * apart) return 0;
    tile<size, columns, apart>(factors, sums, stride, add);
    return size;
  }
  return 0;
}

// The same as `tile`, with any number of rows: it takes tiles, and calls between() before each.
template <int size = kColumns, typename Between>
void multiply(int columns, Factors factors, Index rows, float* sums, Index stride, bool add,
              Between& between) {
  if (columns != size) {
    if constexpr (size > 4)
      multiply<size / 2>(columns, factors, rows, sums, stride, add, between);
    return;
  }
  for (Index now; rows > 0; rows -= now, factors.offsets += now, sums += now * stride) {
    between();
    // Channels of a kernel's gradient, and examples of few channels.
    if ((now = tile_apart<16, 1, size>(rows, factors, sums, stride, add))) continue;
    if ((now = tile_apart<8, 1, size>(rows, factors, sums, stride, add))) continue;
    if constexpr (size == kLanes) {
      if ((now = tile_apart<12, kLanes, size>(rows, factors, sums, stride, add))) continue;
      if ((now = tile_apart<12, 2 * kLanes, size>(rows, factors, sums, stride, add))) continue;
    }
    now = ceil(rows, ceil(rows, most_rows(size)));  // tiles of nearly the same size
    call_tile<size>(now, factors, sums, stride, add);
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

#ifdef __has_builtin
#if __has_builtin(__builtin_shufflevector)  // GCC has it from version 12 on
inline void pack_transposed_4x4(const float* from, Index stride, Index columns, float* to) {
  const Vector<4> a = load<4>(from), b = load<4>(from + stride), c = load<4>(from + 2 * stride),
                  d = load<4>(from + 3 * stride);
  const Vector<4> ab = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                  cd = __builtin_shufflevector(c, d, 0, 4, 1, 5),
                  ab_end = __builtin_shufflevector(a, b, 2, 6, 3, 7),
                  cd_end = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const Vector<4> rows[] = {__builtin_shufflevector(ab, cd, 0, 1, 4, 5),
                            __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
                            __builtin_shufflevector(ab_end, cd_end, 0, 1, 4, 5),
                            __builtin_shufflevector(ab_end, cd_end, 2, 3, 6, 7)};
  for (int r = 0; r < 4; ++r) std::memcpy(to + r * columns, &rows[r], sizeof rows[r]);
}
#endif
#endif

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
    const float *left[kDepth], *right[kDepth];
    for (Index b = 0; b < count; ++b) left[b] = products[b].left + first * step;
    const Factors factors{left, right, offsets.data(), count, part, step};
    for (Index i = 0; i < width; i += kColumns) {
      const Index wide = std::min<Index>(kColumns, width - i);
      const int columns = columns_of(wide);
      for (Index b = 0; b < count; ++b) {
        const Index row = transposed ? i : first, column = transposed ? first : i;
        const T* from = products[b].right + row * right_stride + column;
        float* to = packed + b * part * columns;
        right[b] = to;
        if (transposed)
          pack_transposed(from, right_stride, part, wide, columns, to);
        else if (std::is_same_v<T, float> && columns == right_stride)
          right[b] = reinterpret_cast<const float*>(from);
        else
          pack(from, right_stride, part, wide, columns, to);
      }
      multiply(columns, factors, offsets.size(), sums + i, stride, add, fetch);
    }
  }
};

}  // namespace
