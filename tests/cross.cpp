// Runs the calls of a file, and writes what each leaves in memory to another.
#include "cross.h"

#include <fstream>
#include <iostream>

int main(int count, char** names) {
  if (count != 3) return 2;
  std::ifstream in(names[1], std::ios::binary);
  std::ofstream out(names[2], std::ios::binary);
  while (in.peek() != std::char_traits<char>::eof()) {
    limprec::cross::Call call(in);
    const auto results = limprec::cross::operators().at(call.name)(call);
    for (const auto& memory : call.memories)
      out.write(memory->data(), static_cast<std::streamsize>(memory->size()));
    for (const auto& result : results)
      for (int64_t i = 0; i < result.numel(); i++)
        out.write(result.element(i), result.element_size());
  }
  out.flush();
  return out.good() ? 0 : 1;
}
