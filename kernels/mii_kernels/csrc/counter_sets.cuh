// Host: which set of counters in device memory a launch uses.
#pragma once

#include <atomic>

namespace mii {

// SETS launches in succession have different sets. A captured launch keeps its own.
template <int SETS>
class CounterSets {
public:
    int next() { return static_cast<int>(launches++ % SETS); }

private:
    std::atomic<unsigned> launches{0};
};

}  // namespace mii
