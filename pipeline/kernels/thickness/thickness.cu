// Thickness kernels for a GPU; cpu.py beside this has the same functions. The rules stand in the package's docstring.
#include "indexing.cuh"

namespace {

constexpr int TILE_SIDE = 16;
constexpr int SUB_SIDE = 8;  // a warp owns a sub-tile of 8³ voxels, 16 voxels a lane, in registers
constexpr int OCTANT_SIDE = 4;
constexpr int OCTANTS = 8;
constexpr int OWN = 4;  // a lane owns OWN × OWN voxels of an octant
constexpr int WARPS = 8;
constexpr int GATHER_THREADS = WARPS * WARP;
constexpr int BLOCKS_AT_ONCE = sizeof(DISTANCE) == 4 ? 4 : 2;  // of a multiprocessor: as many as registers allow
constexpr int BRICK_SIDE = 8;
constexpr int CELL_SIDE = 64;
constexpr int BRICKS_ALONG = CELL_SIDE / BRICK_SIDE;
constexpr int BRICKS = BRICKS_ALONG * BRICKS_ALONG * BRICKS_ALONG;
#ifndef CAPACITY
#define CAPACITY 2048  // bricks that wait in shared memory; a power of two, at least BRICKS
#endif

template <class T>
__device__ inline T larger(T a, T b) { return a > b ? a : b; }
template <class T>
__device__ inline T smaller(T a, T b) { return a < b ? a : b; }

// Voxels between two intervals of one axis, from centre to centre; 0 where they overlap. `low` counts from the first
// voxel of the other one.
__device__ inline DISTANCE gap(DISTANCE low, int side, int other_side) {
    return larger<DISTANCE>(0, larger<DISTANCE>(low - (other_side - 1), -(low + (side - 1))));
}

struct Weights {
    DISTANCE z, y, x;

    __device__ DISTANCE squared(DISTANCE dz, DISTANCE dy, DISTANCE dx) const {
        return z * dz * dz + y * dy * dy + x * dx * dx;
    }
    // Least squared distance between a cube of `side` at (low_z, low_y, low_x) and one of `other_side` at 0.
    __device__ DISTANCE between(Index low_z, Index low_y, Index low_x, int side, int other_side) const {
        return squared(gap(static_cast<DISTANCE>(low_z), side, other_side),
                       gap(static_cast<DISTANCE>(low_y), side, other_side),
                       gap(static_cast<DISTANCE>(low_x), side, other_side));
    }
};

__device__ inline DISTANCE least_of_warp(DISTANCE value) {
    for (int half = WARP / 2; half > 0; half /= 2) value = smaller(value, __shfl_xor_sync(ALL_LANES, value, half));
    return value;
}

}  // namespace

extern "C" __global__ void seal(const unsigned char* mask, long long voxels, long long smallest, long long seal_value,
                                DISTANCE* out) {
    for (Index i = first_item(); i < voxels; i += item_step()) {
        out[i] = static_cast<DISTANCE>(mask[i] ? smallest : seal_value);
    }
}

extern "C" __global__ void unseal(DISTANCE* radii, long long voxels, long long seal_value) {
    for (Index i = first_item(); i < voxels; i += item_step()) {
        if (radii[i] == static_cast<DISTANCE>(seal_value)) radii[i] = 0;
    }
}

// out may be radii: a thread reads its voxel before it writes it.
extern "C" __global__ void to_thickness(const DISTANCE* radii, long long voxels, double unit_um, float* out) {
    for (Index i = first_item(); i < voxels; i += item_step()) {
        out[i] = static_cast<float>(2.0 * sqrt(static_cast<double>(radii[i])) * unit_um);
    }
}

// A warp takes a tile.
extern "C" __global__ void tile_minima(const DISTANCE* radii, long long size_z, long long size_y, long long size_x,
                                       long long tiles, long long tiles_y, long long tiles_x, DISTANCE* minima) {
    for (Index tile = first_warp(); tile < tiles; tile += warp_step()) {
        const Voxel t = voxel_at(tile, tiles_y, tiles_x);
        const Index begin_z = t.z * TILE_SIDE, begin_y = t.y * TILE_SIDE, begin_x = t.x * TILE_SIDE;
        DISTANCE least = radii[flat_index(begin_z, begin_y, begin_x, size_y, size_x)];
        for (int j = lane_number(); j < TILE_SIDE * TILE_SIDE * TILE_SIDE; j += WARP) {
            const Index z = begin_z + (j >> 8), y = begin_y + ((j >> 4) & 15), x = begin_x + (j & 15);
            if (z < size_z && y < size_y && x < size_x) {
                least = smaller(least, radii[flat_index(z, y, x, size_y, size_x)]);
            }
        }
        least = least_of_warp(least);
        if (lane_number() == 0) minima[tile] = least;
    }
}

// A block takes a cell and looks for a tile that it can still raise.
extern "C" __global__ void still_useful(const DISTANCE* minima, long long tiles, long long tiles_y, long long tiles_x,
                                        const long long* origin, const long long* cells, const long long* cell_max,
                                        long long weight_z, long long weight_y, long long weight_x, bool* useful) {
    const Weights weights = {static_cast<DISTANCE>(weight_z), static_cast<DISTANCE>(weight_y),
                             static_cast<DISTANCE>(weight_x)};
    const long long* cell = cells + 3 * static_cast<Index>(blockIdx.x);
    const DISTANCE top = static_cast<DISTANCE>(cell_max[blockIdx.x]);
    int found = 0;
    for (Index first = 0; first < tiles && !found; first += blockDim.x) {
        const Index tile = first + threadIdx.x;
        bool here = false;
        if (tile < tiles && minima[tile] < top) {
            const Voxel t = voxel_at(tile, tiles_y, tiles_x);
            here = weights.between(cell[0] - origin[0] - t.z * TILE_SIDE, cell[1] - origin[1] - t.y * TILE_SIDE,
                                   cell[2] - origin[2] - t.x * TILE_SIDE, CELL_SIDE, TILE_SIDE) < top;
        }
        found = __syncthreads_or(here);
    }
    if (threadIdx.x == 0) useful[blockIdx.x] = found != 0;
}

// The max-D pyramid over bricks and cells. A block of BRICKS threads takes a cell; centres are sorted, largest first.
extern "C" __global__ void gather_pyramid(const unsigned short* counts, const long long* ends,
                                          const DISTANCE* centre_d, DISTANCE* brick_max, long long* cell_max) {
    __shared__ DISTANCE most[BRICKS];
    const Index i = static_cast<Index>(blockIdx.x) * BRICKS + threadIdx.x;
    const DISTANCE d = counts[i] ? centre_d[ends[i] - counts[i]] : 0;
    brick_max[i] = d;
    most[threadIdx.x] = d;
    for (int half = BRICKS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) most[threadIdx.x] = larger(most[threadIdx.x], most[threadIdx.x + half]);
    }
    if (threadIdx.x == 0) cell_max[blockIdx.x] = most[0];
}

namespace {

// A voxel, counted from the first one of the block, or from another voxel.
struct Place {
    int z, y, x;
};

// All that does not change while balls are gathered.
struct Batch {
    const int* cells;  // first voxel of each, counted from the first one of the block
    const DISTANCE* brick_max;
    const unsigned short* counts;
    const long long* ends;
    const DISTANCE* centre_d;
    const unsigned short* centre_position;
    Weights weights;
    int shift;  // bricks are sorted by the leading bits of their largest D

    // First voxel of a brick, counted from `here`.
    __device__ Place brick_from(unsigned brick, const Place& here) const {
        const int* cell = cells + 3 * static_cast<Index>(brick / BRICKS);
        const int b = static_cast<int>(brick % BRICKS);
        return {cell[0] + b / (BRICKS_ALONG * BRICKS_ALONG) * BRICK_SIDE - here.z,
                cell[1] + b / BRICKS_ALONG % BRICKS_ALONG * BRICK_SIDE - here.y,
                cell[2] + b % BRICKS_ALONG * BRICK_SIDE - here.x};
    }
};

// What a warp owns. Four lanes share an octant (bits of its number: z, y, x); each has one x of it, and all y and z.
struct SubTile {
    DISTANCE values[OWN * OWN];
    DISTANCE least[OCTANTS];  // smallest T of every octant, known to all lanes
    DISTANCE lowest;
    Place here;  // its first voxel
    Place own;   // the lane's first voxel, counted from `here`

    // Take the values from the block, sealed outside of it, or bring them back.
    __device__ void exchange(DISTANCE* radii, Index size_z, Index size_y, Index size_x, DISTANCE seal_value,
                             bool back) {
        const Index z = here.z + own.z, y = here.y + own.y, x = here.x + own.x;
        DISTANCE* const first = radii + flat_index(z, y, x, size_y, size_x);
#pragma unroll
        for (int j = 0; j < OWN; ++j) {
#pragma unroll
            for (int k = 0; k < OWN; ++k) {
                const bool inside = z + k < size_z && y + j < size_y && x < size_x;
                DISTANCE* const at = first + (k * size_y + j) * size_x;
                if (!back) values[OWN * j + k] = inside ? *at : seal_value;
                if (back && inside) *at = values[OWN * j + k];
            }
        }
    }

    __device__ void settle() {
        DISTANCE mine = values[0];
#pragma unroll
        for (int k = 1; k < OWN * OWN; ++k) mine = smaller(mine, values[k]);
        mine = smaller(mine, __shfl_xor_sync(ALL_LANES, mine, 1));
        mine = smaller(mine, __shfl_xor_sync(ALL_LANES, mine, 2));
#pragma unroll
        for (int o = 0; o < OCTANTS; ++o) least[o] = __shfl_sync(ALL_LANES, mine, 4 * o);
        lowest = least[0];
#pragma unroll
        for (int o = 1; o < OCTANTS; ++o) lowest = smaller(lowest, least[o]);
    }

    // Whether the open ball around (z, y, x) reaches an octant that it can still raise.
    __device__ bool useful(DISTANCE z, DISTANCE y, DISTANCE x, DISTANCE d, const Weights& weights) const {
        DISTANCE near_z[2], near_y[2], near_x[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const DISTANCE gap_z = gap(z - OCTANT_SIDE * half, 1, OCTANT_SIDE);
            const DISTANCE gap_y = gap(y - OCTANT_SIDE * half, 1, OCTANT_SIDE);
            const DISTANCE gap_x = gap(x - OCTANT_SIDE * half, 1, OCTANT_SIDE);
            near_z[half] = weights.z * gap_z * gap_z;
            near_y[half] = weights.y * gap_y * gap_y;
            near_x[half] = weights.x * gap_x * gap_x;
        }
        bool hit = false;
#pragma unroll
        for (int o = 0; o < OCTANTS; ++o) {
            hit = hit || larger(near_z[o >> 2] + near_y[(o >> 1) & 1] + near_x[o & 1], least[o]) < d;
        }
        return hit;
    }

    // T = max(T, d) where the open ball around (z, y, x) reaches; all lanes of the warp together.
    __device__ void raise(DISTANCE z, DISTANCE y, DISTANCE x, DISTANCE d, const Weights& weights) {
        const DISTANCE off_z = own.z - z, off_y = own.y - y, off_x = own.x - x;
        DISTANCE room = d - weights.x * off_x * off_x - weights.y * off_y * off_y;
        DISTANCE squared_z[OWN];
#pragma unroll
        for (int k = 0; k < OWN; ++k) squared_z[k] = weights.z * (off_z + k) * (off_z + k);
#pragma unroll
        for (int j = 0; j < OWN; ++j) {
#pragma unroll
            for (int k = 0; k < OWN; ++k) {
                if (squared_z[k] < room) values[OWN * j + k] = larger(values[OWN * j + k], d);
            }
            room -= weights.y * (2 * (off_y + j) + 1);  // w·(off + j + 1)² − w·(off + j)²
        }
    }

    // The centres of a brick that starts at `start`, 32 at a time: each lane judges one, the useful ones are applied
    // by all.
    __device__ void visit(const Batch& batch, const Place& start, Index first, int count) {
        for (int done = 0; done < count; done += WARP) {
            const int mine = done + lane_number();
            const DISTANCE d = mine < count ? batch.centre_d[first + mine] : 0;
            const int position = mine < count ? batch.centre_position[first + mine] : 0;
            unsigned left = __ballot_sync(ALL_LANES, d > lowest && useful(start.z + (position >> 6),
                                                                          start.y + ((position >> 3) & 7),
                                                                          start.x + (position & 7), d, batch.weights));
            if (left) {
                while (left) {
                    const int k = __ffs(static_cast<int>(left)) - 1;
                    left &= left - 1;
                    const int chosen = __shfl_sync(ALL_LANES, position, k);
                    raise(start.z + (chosen >> 6), start.y + ((chosen >> 3) & 7), start.x + (chosen & 7),
                          __shfl_sync(ALL_LANES, d, k), batch.weights);
                }
                settle();
            }
            if (__shfl_sync(ALL_LANES, d, WARP - 1) <= lowest) break;  // sorted: nothing larger follows
        }
    }

    // Bricks in descending order of their largest D, until that cannot raise anything here.
    __device__ void walk(const Batch& batch, const unsigned long long* list, int n) {
        for (int from = 0; from < n; from += WARP) {
            if (static_cast<Index>(list[from] >> 32) < (static_cast<Index>(lowest) >> batch.shift)) break;
            Index first = 0;
            unsigned brick = 0;
            DISTANCE top = 0;
            int count = 0;
            bool reaches = false;
            if (from + lane_number() < n) {
                brick = static_cast<unsigned>(list[from + lane_number()]);
                top = batch.brick_max[brick];
                const Place start = batch.brick_from(brick, here);
                reaches = top > lowest && batch.weights.between(start.z, start.y, start.x, BRICK_SIDE, SUB_SIDE) < top;
                if (reaches) {
                    count = batch.counts[brick];
                    first = batch.ends[brick] - count;
                }
            }
            unsigned left = __ballot_sync(ALL_LANES, reaches);
            while (left) {
                const int lane = __ffs(static_cast<int>(left)) - 1;
                left &= left - 1;
                if (__shfl_sync(ALL_LANES, top, lane) <= lowest) continue;
                visit(batch, batch.brick_from(__shfl_sync(ALL_LANES, brick, lane), here), __shfl_sync(ALL_LANES, first, lane), __shfl_sync(ALL_LANES, count, lane));
            }
        }
    }
};

// Sort the first n keys, largest first; the list has room for the next power of two.
__device__ void sort_descending(unsigned long long* list, int n) {
    int size = WARP;
    while (size < n) size *= 2;
    for (int k = n + threadIdx.x; k < size; k += blockDim.x) list[k] = 0;
    for (int width = 2; width <= size; width *= 2) {
        for (int step = width / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int k = threadIdx.x; k < size; k += blockDim.x) {
                const int partner = k ^ step;
                if (partner > k && (((k & width) == 0) == (list[k] < list[partner]))) {
                    const unsigned long long key = list[k];
                    list[k] = list[partner];
                    list[partner] = key;
                }
            }
        }
    }
    __syncthreads();
}

}  // namespace

// A block of GATHER_THREADS threads takes a tile. Cells come largest first (order). Candidate bricks are listed in
// shared memory; when no more may fit, they are sorted and every warp raises its sub-tile by them, then the list is
// empty.
extern "C" __global__ void __launch_bounds__(GATHER_THREADS, BLOCKS_AT_ONCE)
    gather(DISTANCE* radii, long long size_z, long long size_y, long long size_x, long long tiles_y, long long tiles_x,
           const int* cells, long long cell_count, const long long* order, const long long* cell_max,
           const DISTANCE* brick_max, const unsigned short* counts, const long long* ends, const DISTANCE* centre_d,
           const unsigned short* centre_position, long long weight_z, long long weight_y, long long weight_x,
           long long seal_value, long long shift) {
    __shared__ unsigned long long list[CAPACITY];
    __shared__ unsigned reached[WARPS];
    __shared__ DISTANCE leasts[WARPS];
    __shared__ int listed;
    __shared__ Place here;  // the tile's first voxel

    const Weights weights = {static_cast<DISTANCE>(weight_z), static_cast<DISTANCE>(weight_y),
                             static_cast<DISTANCE>(weight_x)};
    const Batch batch = {cells, brick_max, counts, ends, centre_d, centre_position, weights, static_cast<int>(shift)};
    const int warp = threadIdx.x / WARP, lane = lane_number();
    if (threadIdx.x == 0) {
        const Voxel tile = voxel_at(blockIdx.x, tiles_y, tiles_x);
        here = {static_cast<int>(tile.z) * TILE_SIDE, static_cast<int>(tile.y) * TILE_SIDE,
                static_cast<int>(tile.x) * TILE_SIDE};
    }
    __syncthreads();
    SubTile sub;
    // Read from shared memory again for the way back: registers are short while balls are raised.
    const auto locate = [&]() {
        sub.here = {here.z + (warp >> 2) * SUB_SIDE, here.y + ((warp >> 1) & 1) * SUB_SIDE,
                    here.x + (warp & 1) * SUB_SIDE};
    };
    locate();
    sub.own = {(lane >> 4) * OCTANT_SIDE, ((lane >> 3) & 1) * OCTANT_SIDE,
               ((lane >> 2) & 1) * OCTANT_SIDE + (lane & 3)};
    sub.exchange(radii, size_z, size_y, size_x, static_cast<DISTANCE>(seal_value), false);
    sub.settle();

    const auto agree = [&]() {  // leasts are known to all threads; the list is empty afterwards
        if (lane == 0) leasts[warp] = sub.lowest;
        if (threadIdx.x == 0) listed = 0;
        __syncthreads();
    };
    agree();

    int next = 0;  // the first cell, in their order, that has not been listed or passed over
    bool more = true;
    while (more) {
        DISTANCE tile_least = leasts[0];
        for (int w = 1; w < WARPS; ++w) tile_least = smaller(tile_least, leasts[w]);
        if (tile_least == static_cast<DISTANCE>(seal_value)) return;
        int waiting = 0;
        bool tested = false;
        while (waiting + BRICKS <= CAPACITY) {
            const int group = next & -GATHER_THREADS;
            if (!tested) {  // the cells of a group against the tile, one a thread
                bool larger_left = false, reaches = false;
                if (group + static_cast<int>(threadIdx.x) < cell_count) {
                    const Index c = order[group + threadIdx.x];
                    larger_left = cell_max[c] > tile_least;
                    reaches = larger_left && weights.between(cells[3 * c] - here.z, cells[3 * c + 1] - here.y,
                                                             cells[3 * c + 2] - here.x, CELL_SIDE, TILE_SIDE) <
                                                 cell_max[c];
                }
                more = __syncthreads_or(larger_left);  // and all have read the words of the group before
                if (!more) break;
                const unsigned found = __ballot_sync(ALL_LANES, reaches);
                if (lane == 0) reached[warp] = found;
                __syncthreads();
                tested = true;
            }
            const unsigned in_reach = reached[(next - group) / WARP] >> (next % WARP);
            next = in_reach ? next + __ffs(static_cast<int>(in_reach)) - 1 : (next | (WARP - 1)) + 1;
            if (in_reach) {
                const unsigned first = static_cast<unsigned>(order[next]) * BRICKS;
                for (int b = threadIdx.x; b < BRICKS; b += GATHER_THREADS) {
                    const DISTANCE top = brick_max[first + b];
                    if (top <= tile_least) continue;
                    const Place start = batch.brick_from(first + b, here);
                    if (weights.between(start.z, start.y, start.x, BRICK_SIDE, TILE_SIDE) >= top) continue;
                    list[atomicAdd(&listed, 1)] =
                        (static_cast<unsigned long long>(static_cast<Index>(top) >> shift) << 32) | (first + b);
                }
                ++next;
                __syncthreads();
                waiting = listed;
                __syncthreads();
            }
            tested = next % GATHER_THREADS != 0;
        }
        if (waiting) {
            sort_descending(list, waiting);
            sub.walk(batch, list, waiting);
            __syncthreads();
            agree();
        }
    }

    locate();
    sub.exchange(radii, size_z, size_y, size_x, static_cast<DISTANCE>(seal_value), true);
}
