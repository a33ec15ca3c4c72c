// How many threads this process may keep busy.
#pragma once

namespace wf::engine {

// Processors of the affinity mask, limited by the cgroup's CPU quota (v1 or v2, and those of the
// groups above) rounded down; at least 1. More threads than that would wait for each other inside
// every step.
int usable_cpus();

}  // namespace wf::engine
