// The functions of csrc/ptx_wgmma.cuh, warp by warp. Products are made when they are waited for, from what is then in
// the registers and in shared memory: what is read, overwritten or given away too early shows. Descriptors are decoded
// as the PTX ISA defines them, for the 128-byte swizzle.
#pragma once

namespace mii::ptx {

struct Operand {
    unsigned address, leading, stride;  // bytes

    explicit Operand(uint64_t descriptor)
        : address((descriptor & 0x3fff) << 4),
          leading((descriptor >> 16 & 0x3fff) << 4),
          stride((descriptor >> 32 & 0x3fff) << 4) {
        require(descriptor >> 62 == 1, "a descriptor of another swizzle than that of 128 bytes");
        require((descriptor >> 49 & 7) == 0, "a descriptor with a base offset");
    }
    template <typename T>
    float at(unsigned offset) const {
        T value;
        memcpy(static_cast<void *>(&value), at_shared(swizzle_128(address + offset)), sizeof value);
        return to_float(value);
    }
    // Eight rows (m or n) of 64 k form an atom; the next eight are a stride behind.
    template <typename T>
    float k_major(unsigned row, unsigned k) const { return at<T>(row / 8 * stride + row % 8 * 128 + 2 * k); }
    // Eight k of 64 columns form an atom; the next eight k are a stride behind, the next 64 columns a leading stride.
    template <typename T>
    float mn_major(unsigned k, unsigned n) const {
        return at<T>(n / 64 * leading + n % 64 * 2 + k / 8 * stride + k % 8 * 128);
    }
};

inline void wgmma_fence() {}
inline void wgmma_commit() { emulator::self().products.emplace_back(); }

struct Nothing {};

// The lanes of a warp are done with one group after another, all with the same.
template <int pending>
void wgmma_wait() {
    auto &groups = emulator::self().products;
    while (groups.size() - 1 > pending) {
        Nothing data;
        for (auto &product : groups.front()) product();
        groups.erase(groups.begin());
        emulator::collective("wgmma_wait", WHOLE_WARP, data, [](auto &) {});
    }
}

template <int N> void pin(float (&)[N][4]) {}
template <int N> void pin(unsigned (&)[N][4]) {}

struct Product {
    float (*d)[4];
    const unsigned *a;
};

// d [16, 8 ROWS] of this warp += a b, with a(lanes, row, k) and b(k, column) as floats.
template <int ROWS, typename A, typename B>
void multiply(const char *name, Product &mine, bool accumulate, A a, B b) {
    emulator::collective(name, WHOLE_WARP, mine, [&](auto &lanes) {
        static thread_local float left[16][16], right[16][8 * ROWS];
        for (int k = 0; k < 16; ++k) {
            for (int row = 0; row < 16; ++row) left[row][k] = a(lanes, row, k);
            for (int column = 0; column < 8 * ROWS; ++column) right[k][column] = b(k, column);
        }
        for (int lane = 0; lane < 32; ++lane)
            for (int n = 0; n < ROWS; ++n)
                for (int i = 0; i < 4; ++i) {
                    int row = lane / 4 + i / 2 * 8, column = 8 * n + lane % 4 * 2 + i % 2;
                    float sum = accumulate ? lanes[lane]->d[n][i] : 0;
                    for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
                    lanes[lane]->d[n][i] = sum;
                }
    });
}

template <typename T, int ROWS>
void wgmma(float (&d)[ROWS][4], uint64_t a, uint64_t b, bool accumulate) {
    emulator::self().products.back().push_back([=, &d] {
        Product mine{d, nullptr};
        Operand left(a), right(b);
        unsigned first = emulator::current / 32 % 4 * 16;
        multiply<ROWS>("wgmma of shared memory", mine, accumulate,
                       [&](auto &, int row, int k) { return left.k_major<T>(first + row, k); },
                       [&](int k, int n) { return right.k_major<T>(n, k); });
    });
}

template <typename T, int ROWS>
void wgmma(float (&d)[ROWS][4], const unsigned (&a)[4], uint64_t b) {
    emulator::self().products.back().push_back([=, &d, &a] {
        Product mine{d, a};
        Operand right(b);
        multiply<ROWS>("wgmma of registers", mine, true,
                       [&](auto &lanes, int row, int k) {
                           return half_of<T>(lanes[4 * (row % 8) + k % 8 / 2]->a[row / 8 + k / 8 * 2], k % 2);
                       },
                       [&](int k, int n) { return right.mn_major<T>(k, n); });
    });
}

}  // namespace mii::ptx
