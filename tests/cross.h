// Stands in for PyTorch and Python, as far as the native extension asks for them, so that its
// sources compile as they are for machines that have neither. Operators are called from a file.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <functional>
#include <istream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#define STD_TORCH_CHECK(condition, message) \
  ((condition) ? void() : throw std::runtime_error(message))
#define STABLE_TORCH_ERROR_CODE_CHECK(call) STD_TORCH_CHECK((call) == 0, #call)

namespace torch::headeronly {
enum class ScalarType : int32_t { Float, BFloat16, Half, E4M3, E5M2, Char, Short, Double, Byte };
}

namespace torch::stable {

using headeronly::ScalarType;
using Integers = std::vector<int64_t>;
using Memory = std::shared_ptr<std::vector<char>>;

class Tensor {
 public:
  Tensor(Memory memory, ScalarType dtype, Integers sizes, Integers strides, int64_t first)
      : memory_(std::move(memory)),
        dtype_(dtype),
        sizes_(std::move(sizes)),
        strides_(std::move(strides)),
        first_(first) {}

  ScalarType scalar_type() const { return dtype_; }
  int64_t dim() const { return static_cast<int64_t>(sizes_.size()); }
  const Integers& sizes() const { return sizes_; }
  const Integers& strides() const { return strides_; }
  int64_t size(int64_t i) const { return sizes_[static_cast<size_t>(i)]; }
  int64_t numel() const {
    int64_t n = 1;
    for (const int64_t size : sizes_) n *= size;
    return n;
  }
  bool is_contiguous() const {
    int64_t inside = 1;
    for (size_t i = sizes_.size(); i-- > 0; inside *= sizes_[i])
      if (sizes_[i] != 1 && strides_[i] != inside) return numel() == 0;
    return true;
  }
  const void* const_data_ptr() const { return at(0); }
  void* mutable_data_ptr() const { return at(0); }
  const Tensor* get() const { return this; }

  int64_t element_size() const {
    constexpr int64_t SIZES[] = {4, 2, 2, 1, 1, 1, 2, 8, 1};
    return SIZES[static_cast<size_t>(dtype_)];
  }
  // The element of a row-major index.
  char* element(int64_t index) const {
    int64_t place = 0;
    for (size_t i = sizes_.size(); i-- > 0; index /= sizes_[i]) place += index % sizes_[i] * strides_[i];
    return at(place);
  }

 private:
  char* at(int64_t place) const { return memory_->data() + (first_ + place) * element_size(); }

  Memory memory_;
  ScalarType dtype_;
  Integers sizes_, strides_;
  int64_t first_;
};

inline Tensor new_empty(const Tensor& like, const Integers& sizes) {
  Integers strides(sizes.size());
  int64_t inside = 1;
  for (size_t i = sizes.size(); i-- > 0; inside *= sizes[i]) strides[i] = inside;
  const size_t bytes = static_cast<size_t>(inside * like.element_size());
  return {std::make_shared<std::vector<char>>(bytes), like.scalar_type(), sizes, strides, 0};
}
inline Tensor empty_like(const Tensor& x) { return new_empty(x, x.sizes()); }
inline void copy_(Tensor& to, const Tensor& from) {
  for (int64_t i = 0; i < from.numel(); i++)
    std::copy_n(from.element(i), from.element_size(), to.element(i));
}

// One piece after another, as if each had a thread.
template <class Work>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Work& work) {
  for (; begin < end; begin += grain) work(begin, std::min(end, begin + grain));
}

}  // namespace torch::stable

#define LIMPREC_DTYPE(name, type) \
  inline int32_t aoti_torch_dtype_##name() { \
    return static_cast<int32_t>(torch::headeronly::ScalarType::type); \
  }
LIMPREC_DTYPE(float32, Float)
LIMPREC_DTYPE(bfloat16, BFloat16)
LIMPREC_DTYPE(float16, Half)
LIMPREC_DTYPE(float8_e4m3fn, E4M3)
LIMPREC_DTYPE(float8_e5m2, E5M2)
LIMPREC_DTYPE(int8, Char)
LIMPREC_DTYPE(int16, Short)
LIMPREC_DTYPE(uint8, Byte)
inline int32_t aoti_torch_get_dtype(const torch::stable::Tensor* x, int32_t* dtype) {
  *dtype = static_cast<int32_t>(x->scalar_type());
  return 0;
}

namespace limprec::cross {

using torch::stable::Integers;
using torch::stable::Memory;
using torch::stable::Tensor;

// One call, as cross.py writes it: after the operator's name all memories, then the arguments.
class Call {
 public:
  explicit Call(std::istream& in) : in_(in), name(take<std::string>()) {
    memories.resize(static_cast<size_t>(take<int64_t>()));
    for (Memory& memory : memories) {
      memory = std::make_shared<std::vector<char>>(static_cast<size_t>(take<int64_t>()));
      in_.read(memory->data(), static_cast<std::streamsize>(memory->size()));
    }
  }

  template <class T>
  T take() {
    return take(static_cast<T*>(nullptr));
  }

 private:
  template <class T>
  T number() {
    T x;
    in_.read(reinterpret_cast<char*>(&x), sizeof x);
    STD_TORCH_CHECK(in_.good(), "the file ends within a call");
    return x;
  }
  int64_t take(int64_t*) { return number<int64_t>(); }
  double take(double*) { return number<double>(); }
  std::string take(std::string*) {
    std::string text(static_cast<size_t>(take<int64_t>()), ' ');
    in_.read(text.data(), static_cast<std::streamsize>(text.size()));
    return text;
  }
  Tensor take(Tensor*) {
    const Memory memory = memories.at(static_cast<size_t>(take<int64_t>()));
    const auto dtype = static_cast<torch::headeronly::ScalarType>(take<int64_t>());
    Integers sizes = take<Integers>(), strides = take<Integers>();
    return {memory, dtype, std::move(sizes), std::move(strides), take<int64_t>()};
  }
  template <class T>
  std::vector<T> take(std::vector<T>*) {
    std::vector<T> all;
    for (int64_t left = take<int64_t>(); left > 0; left--) all.push_back(take<T>());
    return all;
  }

  std::istream& in_;

 public:
  const std::string name;
  std::vector<Memory> memories;
};

// What an operator returns: a tensor or nothing.
using Results = std::vector<Tensor>;
using Operator = std::function<Results(Call&)>;

inline std::map<std::string, Operator>& operators() {
  static std::map<std::string, Operator> all;
  return all;
}

template <class R, class... A>
Operator boxed(R (*function)(A...)) {
  return [function](Call& call) -> Results {
    std::tuple<A...> arguments{call.take<A>()...};
    if constexpr (std::is_same_v<R, Tensor>) return {std::apply(function, std::move(arguments))};
    std::apply(function, std::move(arguments));
    return {};
  };
}

struct Library {
  void def(const char*) {}
  void impl(const char* name, Operator work) { operators()[name] = std::move(work); }
  explicit Library(void (*fill)(Library&)) { fill(*this); }
};

}  // namespace limprec::cross

#define TORCH_BOX(function) limprec::cross::boxed(function)
#define LIMPREC_LIBRARY(name, m) \
  static void name(limprec::cross::Library& m); \
  static const limprec::cross::Library name##_filled(name); \
  static void name(limprec::cross::Library& m)
#define STABLE_TORCH_LIBRARY_FRAGMENT(space, m) LIMPREC_LIBRARY(space##_fragment, m)
#define STABLE_TORCH_LIBRARY_IMPL(space, key, m) LIMPREC_LIBRARY(space##_##key, m)

// The Python module is not called.
struct PyObject;
struct PyModuleDef {
  int head;
  const char* name;
  const char* text;
  long size;
  const void *methods, *slots, *traverse, *clear, *free;
};
#define PyModuleDef_HEAD_INIT 0
#define PyMODINIT_FUNC extern "C" PyObject*
inline PyObject* PyModule_Create(PyModuleDef*) { return nullptr; }
inline int PyModule_AddIntConstant(PyObject*, const char*, long) { return 0; }
