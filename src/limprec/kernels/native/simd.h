// Which instruction set runs.
#pragma once

#include "plan.h"

namespace limprec {

// The best one that this CPU has.
Simd best_simd();

// The one asked for, or the best for AUTO. Throws where the CPU lacks it.
Simd usable_simd(Simd asked);

}  // namespace limprec
