// Tally for a GPU: an open-addressing hash table whose slots hold the position of the first voxel of a pair. Pairs are
// compared by looking at that voxel, so a slot is one word, and one compare-and-swap claims it whatever the labels.
#include "indexing.cuh"

typedef unsigned long long Word;

namespace {

constexpr Word FREE = ~0ull;

struct OneLabel {  // all voxels have the same one
    __device__ Word at(Index) const { return 0; }
};

template <class Label>
struct Labels {
    const Label* labels;
    __device__ Word at(Index i) const { return labels[i]; }
};

struct Table {
    Word* owners;  // a power of two of slots: the first voxel of the pair, or FREE
    Word* voxels;  // of the pair in the slot
    Index slots;
    Word* used;  // slots in use
};

// Whether the table holds more than it should; then the caller makes a larger one and begins anew.
__device__ inline bool overfull(const Table& table) {
    return 2 * *static_cast<volatile Word*>(table.used) > static_cast<Word>(table.slots);
}

template <class Region>
__device__ void add(const Table& table, const DISTANCE* radii, const Region& region, Index voxel, Word number) {
    const DISTANCE radius = radii[voxel];
    const Word label = region.at(voxel);
    const Word mixed = static_cast<Word>(radius) * 0x9E3779B97F4A7C15ull + label * 0xC2B2AE3D27D4EB4Full;
    Word slot = mixed ^ (mixed >> 29);
    for (Index tries = 0; tries < table.slots; ++tries, ++slot) {
        slot &= static_cast<Word>(table.slots) - 1;
        Word owner = table.owners[slot];
        if (owner == FREE) {
            owner = atomicCAS(table.owners + slot, FREE, static_cast<Word>(voxel));
            if (owner == FREE) {
                owner = static_cast<Word>(voxel);
                atomicAdd(table.used, Word(1));
            }
        }
        if (radii[owner] == radius && region.at(static_cast<Index>(owner)) == label) {
            atomicAdd(table.voxels + slot, number);
            return;
        }
        if (overfull(table)) return;
    }
    // Every slot belongs to another pair: the table is overfull, and its owners have counted that.
}

// A warp takes a stretch of voxels, 32 at a time. Maps are made of constant patches: lanes find the runs of equal
// pairs, the first lane of a run adds it, and the last run is carried on to the next 32 voxels.
template <class Region>
__device__ void count(const DISTANCE* radii, const Region& region, Index voxels, Index stretch, const Table& table) {
    const int lane = lane_number();
    for (Index begin = first_warp() * stretch; begin < voxels; begin += warp_step() * stretch) {
        if (__any_sync(ALL_LANES, overfull(table))) return;
        const Index end = min(begin + stretch, voxels);
        Index carried = begin;  // a voxel of the run that has not been added, and its length; equal in all lanes
        Word length = 0;
        for (Index chunk = begin; chunk < end; chunk += WARP) {
            const int members = static_cast<int>(min(end - chunk, static_cast<Index>(WARP)));
            const Index here = min(chunk + lane, end - 1);
            const DISTANCE radius = radii[here];
            const Word label = region.at(here);
            DISTANCE radius_before = __shfl_up_sync(ALL_LANES, radius, 1);
            Word label_before = __shfl_up_sync(ALL_LANES, label, 1);
            if (lane == 0) {
                radius_before = radii[carried];
                label_before = region.at(carried);
            }
            const bool first = lane < members && (radius != radius_before || label != label_before);
            const unsigned heads = __ballot_sync(ALL_LANES, first);
            if (heads == 0) {
                length += members;
                continue;
            }
            if (lane == 0 && radii[carried] > 0) {
                length += __ffs(static_cast<int>(heads)) - 1;
                if (length > 0) add(table, radii, region, carried, length);
            }
            const int last_head = WARP - 1 - __clz(static_cast<int>(heads));
            if (first && lane != last_head && radius > 0) {
                const unsigned later = heads & (ALL_LANES << lane << 1);
                add(table, radii, region, here, static_cast<Word>(__ffs(static_cast<int>(later)) - 1 - lane));
            }
            carried = chunk + last_head;
            length = static_cast<Word>(members - last_head);
        }
        if (lane == 0 && length > 0 && radii[carried] > 0) add(table, radii, region, carried, length);
    }
}

}  // namespace

// width : bytes of a label; 0 where all voxels have the same one. Labels are compared bit by bit.
extern "C" __global__ void count_pairs(const DISTANCE* radii, const void* labels, long long width, long long voxels,
                                       long long stretch, unsigned long long* owners, unsigned long long* counts,
                                       long long slots, unsigned long long* used) {
    const Table table = {owners, counts, slots, used};
    switch (width) {
        case 0:
            return count(radii, OneLabel{}, voxels, stretch, table);
        case 1:
            return count(radii, Labels<unsigned char>{static_cast<const unsigned char*>(labels)}, voxels, stretch, table);
        case 2:
            return count(radii, Labels<unsigned short>{static_cast<const unsigned short*>(labels)}, voxels, stretch, table);
        case 4:
            return count(radii, Labels<unsigned>{static_cast<const unsigned*>(labels)}, voxels, stretch, table);
        default:
            return count(radii, Labels<Word>{static_cast<const Word*>(labels)}, voxels, stretch, table);
    }
}

// The pairs of a table that is not overfull, one after the other: their first voxels, squared radii and counts.
extern "C" __global__ void count_pairs_collect(const DISTANCE* radii, const unsigned long long* owners,
                                               const unsigned long long* counts, long long slots,
                                               unsigned long long* collected, long long* first_voxels,
                                               long long* squared_radii, long long* voxels) {
    for (Index slot = first_item(); slot < slots; slot += item_step()) {
        if (owners[slot] == FREE) continue;
        const Word at = atomicAdd(collected, Word(1));
        first_voxels[at] = static_cast<Index>(owners[slot]);
        squared_radii[at] = radii[owners[slot]];
        voxels[at] = static_cast<Index>(counts[slot]);
    }
}
