// PyTorch's numbers of dtypes.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "plan.h"

namespace limprec {

inline int32_t dtype_of(Memory memory) {
  switch (memory) {
    case Memory::FLOAT32:
      return aoti_torch_dtype_float32();
    case Memory::BFLOAT16:
      return aoti_torch_dtype_bfloat16();
    case Memory::FLOAT16:
      return aoti_torch_dtype_float16();
    case Memory::E4M3:
      return aoti_torch_dtype_float8_e4m3fn();
    case Memory::E5M2:
      return aoti_torch_dtype_float8_e5m2();
    case Memory::INT8:
      return aoti_torch_dtype_int8();
    case Memory::INT16:
      return aoti_torch_dtype_int16();
  }
  return -1;
}

}  // namespace limprec
