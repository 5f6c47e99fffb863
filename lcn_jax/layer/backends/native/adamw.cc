// AdamW as a custom call of XLA: one pass over all parameters p, their moments m, v and gradients g.
//
//   m <- b1 m + (1 - b1) g,     v <- b2 v + (1 - b2) g²,
//   p <- p - rate (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon) + decay p)
//
// The results may lie where p, m and v are: number by number, all is read before anything is written.

#include <cmath>
#include <vector>

#include "common.h"

namespace {

constexpr Index kChunk = 1 << 14;  // numbers

struct Array {
  const float *p, *m, *v, *g;
  float *new_p, *new_m, *new_v;
};
struct Chunk { Array of; Index begin, end; };

// args: the arrays p, then as many m, v and g; rets: p, m and v. `numbers`: rate, 1 / (1 - b1^t) and
// 1 / (1 - b2^t).
ffi::Error adamw(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> numbers, ffi::RemainingArgs args,
                 ffi::RemainingRets rets, double b1, double b2, double epsilon_, double decay_) {
  const float* const of_step = numbers.typed_data();
  const float rate = of_step[0], of_m = of_step[1], of_v = of_step[2];
  const float keep_m = b1, add_m = 1 - b1, keep_v = b2, add_v = 1 - b2;
  const float epsilon = epsilon_, decay = decay_;
  const Index arrays = args.size() / 4;
  std::vector<Chunk> chunks;
  for (Index i = 0; i < arrays; ++i) {
    const auto old = [&](Index j) { return args.get<ffi::Buffer<ffi::F32>>(j * arrays + i); };
    const auto now = [&](Index j) { return rets.get<ffi::Buffer<ffi::F32>>(j * arrays + i); };
    for (Index j = 0; j < 4; ++j)
      if (!old(j).has_value() || (j < 3 && !now(j).has_value()))
        return ffi::Error::InvalidArgument("AdamW takes arrays of float32.");
    const Array array{old(0)->typed_data(), old(1)->typed_data(), old(2)->typed_data(),
                      old(3)->typed_data(), (*now(0))->typed_data(), (*now(1))->typed_data(),
                      (*now(2))->typed_data()};
    const Index size = old(0)->element_count();
    for (Index begin = 0; begin < size; begin += kChunk)
      chunks.push_back({array, begin, std::min(size, begin + kChunk)});
  }
  parallel_for(pool, chunks.size(), [&](Index first, Index last) {
    for (Index c = first; c < last; ++c) {
      const auto& [array, begin, end] = chunks[c];
      const auto [p, m, v, g, new_p, new_m, new_v] = array;
#ifdef __clang__
#pragma clang loop vectorize(assume_safety)
#else
#pragma GCC ivdep
#endif
      for (Index i = begin; i < end; ++i) {
        const float m_i = keep_m * m[i] + add_m * g[i], v_i = keep_v * v[i] + add_v * g[i] * g[i];
        const float step = of_m * m_i / (std::sqrt(of_v * v_i) + epsilon) + decay * p[i];
        new_p[i] = p[i] - rate * step, new_m[i] = m_i, new_v[i] = v_i;
      }
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    lcn_adamw, adamw,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<ffi::F32>>().RemainingArgs()
        .RemainingRets().Attr<double>("b1").Attr<double>("b2").Attr<double>("epsilon")
        .Attr<double>("decay"));
