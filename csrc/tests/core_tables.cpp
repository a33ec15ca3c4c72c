#include "core_problem.h"

namespace wf {

#ifdef WF_HAVE_EMULATED_TABLES
extern const KernelTable kEmulatedAvx512VbmiTable;
extern const KernelTable kEmulatedAvx512VnniTable;
extern const KernelTable kEmulatedAvxVnniTable;
#endif

namespace test {

std::vector<const KernelTable*> tables() {
  const char* names[8];
  std::vector<const KernelTable*> all;
  const int count = available(names, 8);
  for (int i = 0; i < count; ++i) all.push_back(find(names[i]));
#ifdef WF_HAVE_EMULATED_TABLES
  all.push_back(&kEmulatedAvx512VbmiTable);
  all.push_back(&kEmulatedAvx512VnniTable);
  all.push_back(&kEmulatedAvxVnniTable);
#endif
  return all;
}

}  // namespace test
}  // namespace wf
