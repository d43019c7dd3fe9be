// Corner codes for a GPU: a thread looks at the eight voxels around a corner, and adds to a row of 256 counts for each
// label there that has not all of them. Labels find their row through a hash table; the last row is the foreground's.
#include "counting.cuh"

namespace {

constexpr unsigned CODES = 256;
constexpr int AROUND = 8;

}  // namespace

// Corners start ≤ k < start + corners of a volume (z, y, x) of labels of so many bytes, lines of corners first_line ≤
// line < stop_line, where a line is z · corners_y + y. counts : (slots + 1, 256).
extern "C" __global__ void count_corner_codes(const void* volume, long long width, long long size_z, long long size_y,
                                              long long size_x, long long start_z, long long start_y,
                                              long long start_x, long long corners_y, long long corners_x,
                                              long long first_line, long long stop_line, long long lines,
                                              unsigned long long* labels, long long slots, unsigned long long* used,
                                              unsigned* counts) {
    __shared__ BlockCounts block;
    const Table table = {labels, slots, used};
    const Lines own = lines_of_block(first_line, stop_line, lines);
    block.clear();
    if (__syncthreads_or(overfull(table))) return;
    for (Index line = own.first + threadIdx.x / WARP; line < own.stop; line += blockDim.x / WARP) {
        const Index z = start_z + line / corners_y, y = start_y + line % corners_y;
        for (Index k = lane_number(); k < corners_x; k += WARP) {
            Word around[AROUND];
            unsigned foreground = 0;
            bool alike = true;
#pragma unroll
            for (int i = 0; i < AROUND; ++i) {
                const Index at_z = z - 1 + (i >> 2), at_y = y - 1 + (i >> 1 & 1), at_x = start_x + k - 1 + (i & 1);
                const bool inside = 0 <= at_z && at_z < size_z && 0 <= at_y && at_y < size_y && 0 <= at_x && at_x < size_x;
                around[i] = inside ? pattern_at(volume, width, flat_index(at_z, at_y, at_x, size_y, size_x)) : 0;
                foreground |= around[i] ? 128u >> i : 0;
                alike = alike && around[i] == around[0];
            }
            if (alike) continue;
            unsigned counted = CODES - 1 - foreground;  // the voxels whose label has been counted
#pragma unroll
            for (int i = 0; i < AROUND; ++i) {
                if (counted & 128u >> i) continue;
                unsigned code = 0;
#pragma unroll
                for (int j = 0; j < AROUND; ++j) code |= around[j] == around[i] ? 128u >> j : 0;
                counted |= code;
                const unsigned slot = slot_of(table, around[i]);
                if (slot != NOWHERE) block.add(slot * CODES + code, 1u, counts);
            }
            if (foreground != CODES - 1) block.add(static_cast<unsigned>(slots) * CODES + foreground, 1u, counts);
        }
    }
    __syncthreads();
    block.flush(counts);
}
