#include "cpus.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace wf::engine {

namespace {

int affinity_cpus() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return CPU_COUNT(&set);
}

// The quota of one cgroup directory in processors, or infinity when it has none.
double group_quota(const std::string& directory, bool is_v2) {
  double quota = -1;
  double period = 0;
  if (is_v2) {
    std::ifstream(directory + "/cpu.max") >> quota >> period;  // "max 100000" leaves quota unset
  } else {
    std::ifstream(directory + "/cpu.cfs_quota_us") >> quota;  // -1: none
    std::ifstream(directory + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : std::numeric_limits<double>::infinity();
}

// The smallest quota of a group and all groups above it, as far as this mount shows them.
double quota_upwards(const std::string& root, std::string group, bool is_v2) {
  double least = group_quota(root, is_v2);
  while (!group.empty() && group != "/") {
    least = std::min(least, group_quota(root + group, is_v2));
    const size_t slash = group.rfind('/');
    group.resize(slash == std::string::npos ? 0 : slash);
  }
  return least;
}

double cgroup_quota() {
  double least = std::numeric_limits<double>::infinity();
  std::ifstream groups("/proc/self/cgroup");  // lines "id:controllers:/path", v2 has none of them
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = line.substr(first, second - first);  // ":cpu,cpuacct"
    std::replace(controllers.begin(), controllers.end(), ':', ',');
    controllers.push_back(',');
    const std::string group = line.substr(second + 1);
    if (controllers == ",,") {
      least = std::min(least, quota_upwards("/sys/fs/cgroup", group, true));
    } else if (controllers.find(",cpu,") != std::string::npos) {
      least = std::min(least, quota_upwards("/sys/fs/cgroup/cpu", group, false));
    }
  }
  return least;
}

}  // namespace

int usable_cpus() {
  return static_cast<int>(std::max(1.0, std::min<double>(affinity_cpus(), cgroup_quota())));
}

}  // namespace wf::engine
