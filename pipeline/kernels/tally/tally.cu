// Tally for a GPU: a hash table whose entries are the first voxel of a pair. Pairs are compared by looking at that
// voxel, so an entry is one word whatever the labels.
#include "counting.cuh"

// width : bytes of a label; 0 where all voxels have the same one. Labels are compared bit by bit. Maps are made of
// constant patches: a warp takes a stretch of voxels and counts its runs. stretches : of a block of threads.
extern "C" __global__ void count_pairs(const DISTANCE* radii, const void* labels, long long width, long long voxels,
                                       long long stretch, long long stretches, unsigned long long* owners,
                                       unsigned long long* counts, long long slots, unsigned long long* used) {
    __shared__ BlockCounts block;
    const Table table = {owners, slots, used};
    const Lines own = lines_of_block(0, ceil_division(voxels, stretch), stretches);
    block.clear();
    if (__syncthreads_or(overfull(table))) return;
    const auto same = [&](Index a, Index b) {
        return radii[a] == radii[b] && pattern_at(labels, width, a) == pattern_at(labels, width, b);
    };
    for (Index part = own.first + threadIdx.x / WARP; part < own.stop; part += blockDim.x / WARP) {
        const Index begin = part * stretch;
        for_every_run(
            min(stretch, voxels - begin), [&](Index i) { return !same(begin + i, begin + i - 1); },
            [&](Index i, Index length) {
                const Index voxel = begin + i;
                if (radii[voxel] <= 0) return;
                const Word hash = mixed(static_cast<Word>(radii[voxel]), pattern_at(labels, width, voxel));
                const unsigned slot = slot_of(table, hash, static_cast<Word>(voxel) + 1,
                                              [&](Word other) { return same(static_cast<Index>(other) - 1, voxel); });
                if (slot != NOWHERE) block.add(slot, static_cast<unsigned>(length), counts);
            });
    }
    __syncthreads();
    block.flush(counts);
}

// The pairs of a table that is not overfull, one after the other: their first voxels, squared radii and counts.
extern "C" __global__ void count_pairs_collect(const DISTANCE* radii, const unsigned long long* owners,
                                               const unsigned long long* counts, long long slots,
                                               unsigned long long* collected, long long* first_voxels,
                                               long long* squared_radii, long long* voxels) {
    for (Index slot = first_item(); slot < slots; slot += item_step()) {
        if (owners[slot] == 0) continue;
        const Word at = atomicAdd(collected, Word(1));
        first_voxels[at] = static_cast<Index>(owners[slot]) - 1;
        squared_radii[at] = radii[owners[slot] - 1];
        voxels[at] = static_cast<Index>(counts[slot]);
    }
}
