// The functions of csrc/ptx.cuh, lane by lane as the PTX ISA lays their operands out.
#pragma once

#include "dtypes.cuh"

namespace mii::ptx {

constexpr unsigned WHOLE_WARP = 0xffffffffu;

inline float exp2(float x) { return exp2f(x); }

inline void wait_for_earlier_grids() {}  // grids run one after another
inline void let_next_grid_begin() {}
inline void begin_overlapped() {}
inline void prefetch_l2(const void *) {}

inline int add_acq_rel(int *at, int x) { return atomicAdd(at, x); }

// Copied only when waited for: what is read too early is the poison.
inline void cp_async_16(void *shared, const void *global, bool valid = true) {
    emulator::self().copies.back().push_back({shared, valid ? global : nullptr, 16});
}

inline void cp_async_commit() { emulator::self().copies.emplace_back(); }

template <int pending>
void cp_async_wait() {
    auto &groups = emulator::self().copies;
    while (groups.size() - 1 > pending) {
        for (auto &copy : groups.front()) {
            if (copy.from) memcpy(copy.to, copy.from, copy.bytes);
            else memset(copy.to, 0, copy.bytes);
        }
        groups.erase(groups.begin());
    }
}

struct Rows { const unsigned short *row; unsigned (*out)[4]; };

template <bool transposed>
void load_matrices(const char *name, unsigned (&out)[4], const void *row) {
    Rows data{static_cast<const unsigned short *>(row), &out};
    emulator::collective(name, WHOLE_WARP, data, [](auto &lanes) {
        for (int lane = 0; lane < 32; ++lane)
            for (int matrix = 0; matrix < 4; ++matrix) {
                auto at = [&](int i, int j) -> unsigned { return lanes[8 * matrix + i]->row[j]; };
                int i = lane / 4, j = lane % 4 * 2;
                unsigned low = transposed ? at(j, i) : at(i, j);
                unsigned high = transposed ? at(j + 1, i) : at(i, j + 1);
                (*lanes[lane]->out)[matrix] = high << 16 | low;
            }
    });
}

inline void ldmatrix_x4(unsigned (&out)[4], const void *row) { load_matrices<false>("ldmatrix_x4", out, row); }
inline void ldmatrix_x4_trans(unsigned (&out)[4], const void *row) {
    load_matrices<true>("ldmatrix_x4_trans", out, row);
}

template <typename T>
float half_of(unsigned pair, int which) {
    T value;
    unsigned short bits = pair >> 16 * which;
    memcpy(static_cast<void *>(&value), &bits, sizeof bits);
    return to_float(value);
}

struct Fragments { float (*d)[4]; const unsigned (*a)[4]; const unsigned (*b)[2]; };

template <typename T>
void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    static_assert(std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>, "16-bit tensor cores");
    Fragments data{&d, &a, &b};
    emulator::collective("mma_m16n8k16", WHOLE_WARP, data, [](auto &lanes) {
        // Element (i, k) of A: register (i / 8) + 2 (k / 8) of lane 4 (i % 8) + k % 8 / 2, half k % 2.
        auto a_at = [&](int i, int k) {
            return half_of<T>((*lanes[4 * (i % 8) + k % 8 / 2]->a)[i / 8 + 2 * (k / 8)], k % 2);
        };
        auto b_at = [&](int k, int j) { return half_of<T>((*lanes[4 * j + k % 8 / 2]->b)[k / 8], k % 2); };
        for (int lane = 0; lane < 32; ++lane)
            for (int c = 0; c < 4; ++c) {
                int i = lane / 4 + 8 * (c / 2), j = lane % 4 * 2 + c % 2;
                double sum = (*lanes[lane]->d)[c];
                for (int k = 0; k < 16; ++k) sum += static_cast<double>(a_at(i, k)) * b_at(k, j);
                (*lanes[lane]->d)[c] = static_cast<float>(sum);
            }
    });
}

}  // namespace mii::ptx
