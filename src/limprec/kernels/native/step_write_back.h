// How an update is added to a parameter: kernels/steps/writeback.py on vectors.
#pragma once

#include "lanes.h"
#include "step.h"

namespace limprec::LIMPREC_LEVEL {

// What Kahan and lazy keep: `total` is before + y, t that rounded. Nothing where the sum leaves the
// range of the parameter's format, or is not finite.
static INLINE f32 rest_of(WriteBack strategy, f32 before, f32 y, f32 total, f32 t, float min,
                          float max) {
  const f32 rest = strategy == WriteBack::KAHAN ? y - (t - before) : t == before ? y : f32{};
  const i32 inside = (total <= max) & (total >= min);
  return inside ? rest : f32{};
}

// The float32 whose upper half, rounded to nearest away, is p; `low` is the lower half as a signed
// number.
static INLINE f32 join_halves(f32 p, i32 low) { return number(bits(p) + (u32)low); }

// The halves of x, which becomes the upper one; every NaN becomes the same.
static INLINE i32 split_halves(f32& x) {
  const u32 any = bits(x), b = (i32)(any & 0x7fffffffu) > 0x7f800000 ? splat(0x7fc00000u) : any;
  const i32 low = (i32)(b << 16) >> 16;
  x = number(b - (u32)low);
  return low;
}

}  // namespace limprec::LIMPREC_LEVEL
