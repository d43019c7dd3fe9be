// Counting into open-addressing tables: one in global memory, and before it a small one of each block of threads, so
// that what is frequent there costs one addition in global memory.
#pragma once
#include "indexing.cuh"

typedef unsigned long long Word;

constexpr unsigned NOWHERE = ~0u;

__device__ inline Word mixed(Word a, Word b) {
    const Word word = a * 0x9E3779B97F4A7C15ull + b * 0xC2B2AE3D27D4EB4Full;
    return word ^ (word >> 29);
}

// The bits of a voxel of so many bytes; 0 where there is no such volume (width 0).
__device__ inline Word pattern_at(const void* volume, Index width, Index i) {
    switch (width) {
        case 0:
            return 0;
        case 1:
            return static_cast<const unsigned char*>(volume)[i];
        case 2:
            return static_cast<const unsigned short*>(volume)[i];
        case 4:
            return static_cast<const unsigned*>(volume)[i];
        default:
            return static_cast<const Word*>(volume)[i];
    }
}

struct Table {
    Word* entries;  // a power of two of slots; 0 is free
    Index slots;
    Word* used;  // slots in use
};

// Whether the table holds more than it should; then the caller makes a larger one and begins anew.
__device__ inline bool overfull(const Table& table) {
    return 2 * *static_cast<volatile Word*>(table.used) > static_cast<Word>(table.slots);
}

// The slot of an entry, which is not 0; NOWHERE where the table is overfull. One compare-and-swap claims a free slot.
// same(other) : whether another entry stands for the same.
template <class Same>
__device__ unsigned slot_of(const Table& table, Word hash, Word entry, Same same) {
    Word slot = hash;
    for (Index tries = 0; tries < table.slots; ++tries, ++slot) {
        slot &= static_cast<Word>(table.slots) - 1;
        Word held = table.entries[slot];
        if (held == 0) {
            held = atomicCAS(table.entries + slot, Word(0), entry);
            if (held == 0) {
                held = entry;
                atomicAdd(table.used, Word(1));
            }
        }
        if (held == entry || same(held)) return static_cast<unsigned>(slot);
        if (overfull(table)) return NOWHERE;
    }
    return NOWHERE;  // every slot belongs to another entry: the table is overfull, and its owners have counted that
}

__device__ inline unsigned slot_of(const Table& table, Word entry) {
    return slot_of(table, mixed(entry, 0), entry, [](Word) { return false; });
}

// The small table: keys in shared memory, and what the kernel has of each in arrays beside them.
constexpr unsigned PLACES = 256;
constexpr unsigned PLACES_TRIED = 8;

// Where a key other than NOWHERE lies; NOWHERE where it finds no place. keys : PLACES of them, NOWHERE is free.
__device__ inline unsigned place_of(unsigned* keys, unsigned key) {
    unsigned place = (key * 0x9E3779B1u) >> 24;
    for (unsigned tries = 0; tries < PLACES_TRIED; ++tries) {
        const unsigned held = atomicCAS(keys + place, NOWHERE, key);
        if (held == NOWHERE || held == key) return place;
        place = (place + 1) % PLACES;
    }
    return NOWHERE;
}

// How often a block of threads met each key, in shared memory.
struct BlockCounts {
    unsigned keys[PLACES];
    unsigned counts[PLACES];

    __device__ void clear() {
        for (unsigned i = threadIdx.x; i < PLACES; i += blockDim.x) {
            keys[i] = NOWHERE;
            counts[i] = 0;
        }
    }
    template <class Number>
    __device__ void add(unsigned key, unsigned number, Number* totals) {
        const unsigned place = place_of(keys, key);
        if (place != NOWHERE) {
            atomicAdd(counts + place, number);
        } else {
            atomicAdd(totals + key, static_cast<Number>(number));
        }
    }
    // After a barrier: add all up in global memory.
    template <class Number>
    __device__ void flush(Number* totals) const {
        for (unsigned i = threadIdx.x; i < PLACES; i += blockDim.x) {
            if (keys[i] != NOWHERE) atomicAdd(totals + keys[i], static_cast<Number>(counts[i]));
        }
    }
};

// The lines that a block of threads takes: so many after each other, of first ≤ line < stop; a warp takes every line
// that follows from its number.
struct Lines {
    Index first, stop;
};

__device__ inline Lines lines_of_block(Index first, Index stop, Index lines) {
    const Index begin = first + static_cast<Index>(blockIdx.x) * lines;
    return {begin, min(begin + lines, stop)};
}

// A warp takes a line and gives each run of equal voxels to visit(first, length), each from one lane.
// steps(x) : whether voxel x > 0 differs from the one before it.
template <class Steps, class Visit>
__device__ void for_every_run(Index size, Steps steps, Visit visit) {
    const int lane = lane_number();
    Index open = 0;  // where the run begins that is not visited yet; equal in all lanes
    for (Index chunk = 0; chunk < size; chunk += WARP) {
        const Index x = chunk + lane;
        const bool head = x > 0 && x < size && steps(x);
        const unsigned heads = __ballot_sync(ALL_LANES, head);
        if (heads == 0) continue;
        if (lane == 0) visit(open, chunk + __ffs(static_cast<int>(heads)) - 1 - open);
        const int last = WARP - 1 - __clz(static_cast<int>(heads));
        if (head && lane != last) {
            const unsigned later = heads & (ALL_LANES << lane << 1);
            visit(x, static_cast<Index>(__ffs(static_cast<int>(later)) - 1 - lane));
        }
        open = chunk + last;
    }
    if (lane == 0) visit(open, size - open);
}
