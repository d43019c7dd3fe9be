// Surface kernels for a GPU; cpu.py beside this has the same functions.
#include "counting.cuh"

// A thread takes a voxel of the block (z, y, x); padded has one voxel more on every side.
extern "C" __global__ void surface_voxels(const unsigned char* padded, long long size_z, long long size_y,
                                          long long size_x, unsigned char* out) {
    const Index line = size_x + 2, plane = line * (size_y + 2);
    for (Index i = first_item(); i < size_z * size_y * size_x; i += item_step()) {
        const Voxel v = voxel_at(i, size_y, size_x);
        const unsigned char* here = padded + (v.z + 1) * plane + (v.y + 1) * line + v.x + 1;
        const unsigned char inside = here[-plane] & here[plane] & here[-line] & here[line] & here[-1] & here[1];
        out[i] = *here & (inside ^ 1);
    }
}

// A thread takes a corner of (z, y, x); padded has lines of padded_x and planes of padded_y lines.
extern "C" __global__ void corner_codes(const unsigned char* padded, long long padded_y, long long padded_x,
                                        long long size_z, long long size_y, long long size_x, unsigned char* out) {
    for (Index i = first_item(); i < size_z * size_y * size_x; i += item_step()) {
        const Voxel v = voxel_at(i, size_y, size_x);
        unsigned code = 0;
        for (int k = 0; k < 8; ++k) {
            code = code << 1 | padded[flat_index(v.z + (k >> 2), v.y + (k >> 1 & 1), v.x + (k & 1), padded_y, padded_x)];
        }
        out[i] = static_cast<unsigned char>(code);
    }
}

// Where corners are mixed (1, else 0), and how many there are on each line. A warp takes a line.
extern "C" __global__ void mixed_corners(const unsigned char* codes, long long lines, long long size_x,
                                         unsigned char* elements, unsigned* counts) {
    for (Index line = first_warp(); line < lines; line += warp_step()) {
        unsigned count = 0;
        for (Index begin = 0; begin < size_x; begin += WARP) {
            const Index x = begin + lane_number();
            const unsigned char code = x < size_x ? codes[line * size_x + x] : 0;
            const bool element = code != 0 && code != 255;
            if (x < size_x) elements[line * size_x + x] = element;
            count += __popc(__ballot_sync(ALL_LANES, element));
        }
        if (lane_number() == 0) counts[line] = count;
    }
}

extern "C" __global__ void count_elements(const unsigned char* elements, long long lines, long long size_x,
                                          unsigned* counts) {
    for (Index line = first_warp(); line < lines; line += warp_step()) {
        unsigned count = 0;
        for (Index begin = 0; begin < size_x; begin += WARP) {
            const Index x = begin + lane_number();
            count += __popc(__ballot_sync(ALL_LANES, x < size_x && elements[line * size_x + x]));
        }
        if (lane_number() == 0) counts[line] = count;
    }
}

namespace {

// A warp takes a line: visit(x, number) for every element, with its number among all elements, line after line.
template <class Visit>
__device__ void for_every_element(const unsigned char* elements, Index size_x, Index number, Visit visit) {
    for (Index begin = 0; begin < size_x; begin += WARP) {
        const Index x = begin + lane_number();
        const bool element = x < size_x && elements[x];
        const unsigned found = __ballot_sync(ALL_LANES, element);
        if (element) visit(x, number + __popc(found & ((1u << lane_number()) - 1)));
        number += __popc(found);
    }
}

}  // namespace

// The codes of the elements one after the other. ends : of each line in the list.
extern "C" __global__ void list_codes(const unsigned char* codes, const unsigned char* elements, long long lines,
                                      long long size_x, const unsigned* counts, const long long* ends,
                                      unsigned char* listed) {
    for (Index line = first_warp(); line < lines; line += warp_step()) {
        for_every_element(elements + line * size_x, size_x, ends[line] - counts[line],
                          [&](Index x, Index number) { listed[number] = codes[line * size_x + x]; });
    }
}

// Elements of every squared distance and code; an entry of the table is (squared distance · 256 + code) + 1.
// codes : of the elements, or none where coded is false; then numbers and ends are not looked at.
extern "C" __global__ void count_distances(const DISTANCE* distances, const unsigned char* elements, long long size_x,
                                           bool coded, const unsigned char* codes, const unsigned* numbers,
                                           const long long* ends, long long unreached, long long unreachable,
                                           long long first_line, long long stop_line, long long lines,
                                           unsigned long long* entries, long long slots, unsigned long long* used,
                                           unsigned* counts) {
    __shared__ BlockCounts block;
    const Table table = {entries, slots, used};
    const Lines own = lines_of_block(first_line, stop_line, lines);
    block.clear();
    if (__syncthreads_or(overfull(table))) return;
    for (Index line = own.first + threadIdx.x / WARP; line < own.stop; line += blockDim.x / WARP) {
        const Index before = coded ? ends[line] - numbers[line] : 0;
        for_every_element(elements + line * size_x, size_x, before, [&](Index x, Index number) {
            const Index squared = distances[line * size_x + x];
            const Index key = (squared < unreached ? squared : unreachable) * 256 + (coded ? codes[number] : 0);
            const unsigned slot = slot_of(table, static_cast<Word>(key) + 1);
            if (slot != NOWHERE) block.add(slot, 1u, counts);
        });
    }
    __syncthreads();
    block.flush(counts);
}
