// Structures for a GPU: hash tables whose entries are the place of the first voxel of a pair of labels, or of a pair
// and a grey value. Entries are compared by looking at these voxels, so an entry is one word whatever the types.
#include "counting.cuh"

namespace {

struct Key {
    Word label, predicted, grey;
    __device__ bool operator==(const Key& other) const {
        return label == other.label && predicted == other.predicted && grey == other.grey;
    }
    __device__ Word hash() const { return mixed(mixed(label, predicted), grey); }
};

// The block begins at voxel first of both label volumes, whose lines have label_x voxels; grey is the block alone.
struct Volumes {
    const void* reference;
    const void* prediction;
    const void* grey;
    Index reference_width, prediction_width, grey_width;
    Index first_z, first_y, first_x, label_y, label_x, size_y, size_x;

    __device__ Index label_index(Index z, Index y, Index x) const {
        return flat_index(z + first_z, y + first_y, x + first_x, label_y, label_x);
    }
    __device__ Key at(Index label, Index voxel) const {
        return {pattern_at(reference, reference_width, label), pattern_at(prediction, prediction_width, label),
                pattern_at(grey, grey_width, voxel)};
    }
    // Sides are less than 2¹⁶: the place of a voxel is one word, and not 0.
    __device__ Word place(Index z, Index y, Index x) const {
        return (static_cast<Word>(z) << 32 | static_cast<Word>(y) << 16 | static_cast<Word>(x)) + 1;
    }
    __device__ Key of_place(Word place) const {
        const Word packed = place - 1;
        const Index z = packed >> 32, y = packed >> 16 & 0xffff, x = packed & 0xffff;
        return at(label_index(z, y, x), flat_index(z, y, x, size_y, size_x));
    }
    __device__ unsigned slot(const Table& table, const Key& key, Word place) const {
        return slot_of(table, key.hash(), place, [&](Word other) { return of_place(other) == key; });
    }
};

// Every run of equal voxels that is no background, of the lines of a block of threads: add(slot, z, y, x, length).
template <class Add>
__device__ void for_every_slot(const Volumes& volumes, const Lines& lines, const Table& table, Add add) {
    for (Index line = lines.first + threadIdx.x / WARP; line < lines.stop; line += blockDim.x / WARP) {
        const Index z = line / volumes.size_y, y = line - z * volumes.size_y;
        const Index label = volumes.label_index(z, y, 0), voxel = line * volumes.size_x;
        for_every_run(
            volumes.size_x,
            [&](Index x) { return !(volumes.at(label + x, voxel + x) == volumes.at(label + x - 1, voxel + x - 1)); },
            [&](Index x, Index length) {
                const Key key = volumes.at(label + x, voxel + x);
                if (key.label == 0 && key.predicted == 0) return;
                const unsigned slot = volumes.slot(table, key, volumes.place(z, y, x));
                if (slot != NOWHERE) add(slot, z, y, x, length);
            });
    }
}

constexpr int TOTALS = 4;  // voxels, Σz, Σy, Σx

}  // namespace

#define VOLUMES_PARAMETERS                                                                                          \
    const void *reference, const void *prediction, const void *grey, long long reference_width,                     \
        long long prediction_width, long long grey_width, long long first_z, long long first_y, long long first_x,  \
        long long label_y, long long label_x, long long size_y, long long size_x
#define VOLUMES                                                                                                     \
    {reference, prediction, grey, reference_width, prediction_width, grey_width, first_z, first_y, first_x, label_y, \
     label_x, size_y, size_x}

// totals (slots, 4), lows and highs (slots, 3) : what is known of the pair in a slot. lines : of a block of threads, so
// few that their sums of coordinates, z from that of the first one, have less than 32 bits.
extern "C" __global__ void count_pairs(VOLUMES_PARAMETERS, long long first_line, long long stop_line, long long lines,
                                       unsigned long long* entries, long long slots, unsigned long long* used,
                                       unsigned long long* totals, int* lows, int* highs) {
    __shared__ unsigned keys[PLACES];
    __shared__ unsigned sums[PLACES][TOTALS];
    __shared__ int low[PLACES][3];
    __shared__ int high[PLACES][3];
    const Volumes volumes = VOLUMES;
    const Table table = {entries, slots, used};
    const Lines own = lines_of_block(first_line, stop_line, lines);
    const Index base = own.first / size_y;
    for (unsigned i = threadIdx.x; i < PLACES; i += blockDim.x) {
        keys[i] = NOWHERE;
        for (int column = 0; column < TOTALS; ++column) sums[i][column] = 0;
        for (int axis = 0; axis < 3; ++axis) {
            low[i][axis] = 0x7fffffff;
            high[i][axis] = -1;
        }
    }
    if (__syncthreads_or(overfull(table))) return;
    for_every_slot(volumes, own, table, [&](unsigned slot, Index z, Index y, Index x, Index length) {
        const Word of_x = static_cast<Word>(length * x + length * (length - 1) / 2);
        const Word run[TOTALS] = {static_cast<Word>(length), static_cast<Word>(length * (z - base)),
                                  static_cast<Word>(length * y), of_x};
        const int from[3] = {static_cast<int>(z), static_cast<int>(y), static_cast<int>(x)};
        const int to[3] = {from[0], from[1], static_cast<int>(x + length - 1)};
        const unsigned place = place_of(keys, slot);
        if (place != NOWHERE) {
            for (int column = 0; column < TOTALS; ++column) {
                atomicAdd(&sums[place][column], static_cast<unsigned>(run[column]));
            }
            for (int axis = 0; axis < 3; ++axis) {
                atomicMin(&low[place][axis], from[axis]);
                atomicMax(&high[place][axis], to[axis]);
            }
            return;
        }
        Word* mine = totals + static_cast<Index>(slot) * TOTALS;
        for (int column = 0; column < TOTALS; ++column) {
            atomicAdd(mine + column, run[column] + (column == 1 ? run[0] * static_cast<Word>(base) : 0));
        }
        for (int axis = 0; axis < 3; ++axis) {
            atomicMin(lows + static_cast<Index>(slot) * 3 + axis, from[axis]);
            atomicMax(highs + static_cast<Index>(slot) * 3 + axis, to[axis]);
        }
    });
    __syncthreads();
    for (unsigned i = threadIdx.x; i < PLACES; i += blockDim.x) {
        if (keys[i] == NOWHERE) continue;
        Word* mine = totals + static_cast<Index>(keys[i]) * TOTALS;
        for (int column = 0; column < TOTALS; ++column) {
            const Word more = column == 1 ? static_cast<Word>(sums[i][0]) * static_cast<Word>(base) : 0;
            atomicAdd(mine + column, static_cast<Word>(sums[i][column]) + more);
        }
        for (int axis = 0; axis < 3; ++axis) {
            atomicMin(lows + static_cast<Index>(keys[i]) * 3 + axis, low[i][axis]);
            atomicMax(highs + static_cast<Index>(keys[i]) * 3 + axis, high[i][axis]);
        }
    }
}

// Voxels of every pair and grey value.
extern "C" __global__ void count_values(VOLUMES_PARAMETERS, long long first_line, long long stop_line, long long lines,
                                        unsigned long long* entries, long long slots, unsigned long long* used,
                                        unsigned* counts) {
    __shared__ BlockCounts block;
    const Volumes volumes = VOLUMES;
    const Table table = {entries, slots, used};
    block.clear();
    if (__syncthreads_or(overfull(table))) return;
    for_every_slot(volumes, lines_of_block(first_line, stop_line, lines), table,
                   [&](unsigned slot, Index, Index, Index, Index length) {
                       block.add(slot, static_cast<unsigned>(length), counts);
                   });
    __syncthreads();
    block.flush(counts);
}

// The pairs of a table that is not overfull, one after the other, and in rows the row of every slot.
extern "C" __global__ void collect_pairs(VOLUMES_PARAMETERS, const unsigned long long* entries, long long slots,
                                         const unsigned long long* totals, const int* lows, const int* highs,
                                         unsigned long long* collected, unsigned* rows, unsigned long long* pairs,
                                         long long* voxels, long long* sums, long long* boxes) {
    const Volumes volumes = VOLUMES;
    for (Index slot = first_item(); slot < slots; slot += item_step()) {
        if (entries[slot] == 0) continue;
        const Word row = atomicAdd(collected, Word(1));
        const Key key = volumes.of_place(entries[slot]);
        rows[slot] = static_cast<unsigned>(row);
        pairs[2 * row] = key.label;
        pairs[2 * row + 1] = key.predicted;
        voxels[row] = static_cast<Index>(totals[slot * TOTALS]);
        for (int axis = 0; axis < 3; ++axis) {
            sums[3 * row + axis] = static_cast<Index>(totals[slot * TOTALS + 1 + axis]);
            boxes[6 * row + axis] = lows[slot * 3 + axis];
            boxes[6 * row + 3 + axis] = highs[slot * 3 + axis];
        }
    }
}

// The grey values of a table that is not overfull, with the rows that collect_pairs gave their pairs.
extern "C" __global__ void collect_values(VOLUMES_PARAMETERS, const unsigned long long* entries, long long slots,
                                          const unsigned* counts, unsigned long long* pair_entries,
                                          long long pair_slots, unsigned long long* pairs_used, const unsigned* rows,
                                          unsigned long long* collected, long long* value_rows,
                                          unsigned long long* values, long long* voxels) {
    const Volumes volumes = VOLUMES;
    Volumes labels = volumes;
    labels.grey_width = 0;
    const Table pairs = {pair_entries, pair_slots, pairs_used};
    for (Index slot = first_item(); slot < slots; slot += item_step()) {
        if (entries[slot] == 0) continue;
        const Word at = atomicAdd(collected, Word(1));
        value_rows[at] = rows[labels.slot(pairs, labels.of_place(entries[slot]), entries[slot])];
        values[at] = volumes.of_place(entries[slot]).grey;
        voxels[at] = counts[slot];
    }
}
