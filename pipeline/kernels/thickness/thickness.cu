// Thickness kernels for a GPU; cpu.py beside this has the same functions. The rules stand in the package's docstring.
#include "indexing.cuh"

namespace {

constexpr int TILE_SIDE = 16;
constexpr int SUB_SIDE = 8;  // a warp owns a sub-tile of 8³ voxels, 16 voxels a lane, in registers
constexpr int WARPS = 8;
constexpr int GATHER_THREADS = WARPS * WARP;
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

// All that does not change while balls are gathered.
struct Batch {
    const long long* cells;
    const DISTANCE* brick_max;
    const unsigned short* counts;
    const long long* ends;
    const DISTANCE* centre_d;
    const unsigned short* centre_position;
    Weights weights;
    int shift;  // bricks are sorted by the leading bits of their largest D

    // First voxel of a brick, counted from a voxel of the volume.
    __device__ Voxel brick_from(Index brick, const Voxel& here) const {
        const long long* cell = cells + 3 * (brick / BRICKS);
        const int b = static_cast<int>(brick % BRICKS);
        return {cell[0] + b / (BRICKS_ALONG * BRICKS_ALONG) * BRICK_SIDE - here.z,
                cell[1] + b / BRICKS_ALONG % BRICKS_ALONG * BRICK_SIDE - here.y,
                cell[2] + b % BRICKS_ALONG * BRICK_SIDE - here.x};
    }
};

// What a warp owns: lane l holds the voxels x = l & 7, y = (l >> 3) + {0, 4}, z = 0 … 7 of its sub-tile.
struct SubTile {
    DISTANCE values[16];
    DISTANCE least;
    Voxel here;  // its first voxel, in the volume

    __device__ void settle() {
        DISTANCE lowest = values[0];
#pragma unroll
        for (int k = 1; k < 16; ++k) lowest = smaller(lowest, values[k]);
        least = least_of_warp(lowest);
    }

    // T = max(T, d) where the open ball around (z, y, x) reaches; all lanes of the warp together.
    __device__ void raise(DISTANCE z, DISTANCE y, DISTANCE x, DISTANCE d, const Weights& weights) {
        const DISTANCE off_x = (lane_number() & 7) - x;
        const DISTANCE left = d - weights.x * off_x * off_x;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const DISTANCE off_y = (lane_number() >> 3) + 4 * half - y;
            const DISTANCE room = left - weights.y * off_y * off_y;
#pragma unroll
            for (int k = 0; k < SUB_SIDE; ++k) {
                const DISTANCE off_z = k - z;
                if (weights.z * off_z * off_z < room) values[8 * half + k] = larger(values[8 * half + k], d);
            }
        }
    }

    // The centres of a brick, 32 at a time: each lane judges one, those that reach are applied by all.
    __device__ void visit(const Batch& batch, Index brick) {
        const Voxel start = batch.brick_from(brick, here);
        const Index end = batch.ends[brick];
        for (Index first = end - batch.counts[brick]; first < end; first += WARP) {
            const Index q = first + lane_number();
            const DISTANCE d = q < end ? batch.centre_d[q] : 0;
            const int position = q < end ? batch.centre_position[q] : 0;
            const DISTANCE z = static_cast<DISTANCE>(start.z + (position >> 6));
            const DISTANCE y = static_cast<DISTANCE>(start.y + ((position >> 3) & 7));
            const DISTANCE x = static_cast<DISTANCE>(start.x + (position & 7));
            const bool reaches = d > least && batch.weights.squared(gap(z, 1, SUB_SIDE), gap(y, 1, SUB_SIDE),
                                                                    gap(x, 1, SUB_SIDE)) < d;
            unsigned left = __ballot_sync(ALL_LANES, reaches);
            if (left) {
                while (left) {
                    const int k = __ffs(static_cast<int>(left)) - 1;
                    left &= left - 1;
                    raise(__shfl_sync(ALL_LANES, z, k), __shfl_sync(ALL_LANES, y, k), __shfl_sync(ALL_LANES, x, k),
                          __shfl_sync(ALL_LANES, d, k), batch.weights);
                }
                settle();
            }
            if (__shfl_sync(ALL_LANES, d, WARP - 1) <= least) break;  // sorted: nothing larger follows
        }
    }

    // Bricks in descending order of their largest D, until that cannot raise anything here.
    __device__ void walk(const Batch& batch, const unsigned long long* list, int n) {
        for (int first = 0; first < n; first += WARP) {
            const int k = first + lane_number();
            const unsigned long long key = k < n ? list[k] : 0;
            if (static_cast<Index>(__shfl_sync(ALL_LANES, key, 0) >> 32) < (static_cast<Index>(least) >> batch.shift)) {
                break;
            }
            const Index brick = static_cast<Index>(key & 0xffffffffull);
            bool reaches = false;
            if (k < n && batch.brick_max[brick] > least) {
                const Voxel start = batch.brick_from(brick, here);
                reaches = batch.weights.between(start.z, start.y, start.x, BRICK_SIDE, SUB_SIDE) <
                          batch.brick_max[brick];
            }
            unsigned left = __ballot_sync(ALL_LANES, reaches);
            while (left) {
                const int lane = __ffs(static_cast<int>(left)) - 1;
                left &= left - 1;
                const Index chosen = __shfl_sync(ALL_LANES, brick, lane);
                if (batch.brick_max[chosen] > least) visit(batch, chosen);
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
// shared memory; when no more fit, they are sorted and every warp raises its sub-tile by them, then the list is empty.
extern "C" __global__ void __launch_bounds__(GATHER_THREADS)
    gather(DISTANCE* radii, long long size_z, long long size_y, long long size_x, long long tiles_y, long long tiles_x,
           const long long* origin, const long long* cells, long long cell_count, const long long* order,
           const long long* cell_max, const DISTANCE* brick_max, const unsigned short* counts, const long long* ends,
           const DISTANCE* centre_d, const unsigned short* centre_position, long long weight_z, long long weight_y,
           long long weight_x, long long seal_value, long long shift) {
    __shared__ unsigned long long list[CAPACITY];
    __shared__ unsigned reached[WARPS];
    __shared__ DISTANCE leasts[WARPS];
    __shared__ int listed;

    const Weights weights = {static_cast<DISTANCE>(weight_z), static_cast<DISTANCE>(weight_y),
                             static_cast<DISTANCE>(weight_x)};
    const Batch batch = {cells, brick_max, counts, ends, centre_d, centre_position, weights, static_cast<int>(shift)};
    const int warp = threadIdx.x / WARP, lane = lane_number();
    const Voxel tile = voxel_at(blockIdx.x, tiles_y, tiles_x);
    const Voxel corner = {tile.z * TILE_SIDE, tile.y * TILE_SIDE, tile.x * TILE_SIDE};
    const Voxel here = {origin[0] + corner.z, origin[1] + corner.y, origin[2] + corner.x};

    const Index sub_z = corner.z + (warp >> 2) * SUB_SIDE, sub_y = corner.y + ((warp >> 1) & 1) * SUB_SIDE;
    const Index sub_x = corner.x + (warp & 1) * SUB_SIDE;
    SubTile sub;
    sub.here = {origin[0] + sub_z, origin[1] + sub_y, origin[2] + sub_x};
    const Index x = sub_x + (lane & 7);
#pragma unroll
    for (int k = 0; k < 16; ++k) {
        const Index z = sub_z + (k & 7), y = sub_y + (lane >> 3) + 4 * (k >> 3);
        const bool inside = z < size_z && y < size_y && x < size_x;
        sub.values[k] = inside ? radii[flat_index(z, y, x, size_y, size_x)] : static_cast<DISTANCE>(seal_value);
    }
    sub.settle();

    DISTANCE tile_least = 0;
    const auto agree = [&]() {  // the smallest T of the tile, known to all threads; the list is empty afterwards
        if (lane == 0) leasts[warp] = sub.least;
        if (threadIdx.x == 0) listed = 0;
        __syncthreads();
        tile_least = leasts[0];
        for (int w = 1; w < WARPS; ++w) tile_least = smaller(tile_least, leasts[w]);
        __syncthreads();
    };
    const auto work_off = [&](int n) {
        sort_descending(list, n);
        sub.walk(batch, list, n);
        __syncthreads();
        agree();
    };

    agree();
    int waiting = 0;
    for (Index first = 0; first < cell_count; first += GATHER_THREADS) {
        bool reaches = false, larger_left = false;
        if (first + threadIdx.x < cell_count) {
            const Index c = order[first + threadIdx.x];
            larger_left = cell_max[c] > tile_least;
            reaches = larger_left &&
                      weights.between(cells[3 * c] - here.z, cells[3 * c + 1] - here.y, cells[3 * c + 2] - here.x,
                                      CELL_SIDE, TILE_SIDE) < cell_max[c];
        }
        const unsigned found = __ballot_sync(ALL_LANES, reaches);
        if (lane == 0) reached[warp] = found;
        if (!__syncthreads_or(larger_left)) break;
        for (int w = 0; w < WARPS; ++w) {
            for (unsigned left = reached[w]; left; left &= left - 1) {
                const Index c = order[first + w * WARP + __ffs(static_cast<int>(left)) - 1];
                if (cell_max[c] <= tile_least) continue;
                if (waiting + BRICKS > CAPACITY) {
                    work_off(waiting);
                    waiting = 0;
                }
                for (int b = threadIdx.x; b < BRICKS; b += GATHER_THREADS) {
                    const Index brick = c * BRICKS + b;
                    const DISTANCE top = brick_max[brick];
                    if (top <= tile_least) continue;
                    const Voxel start = batch.brick_from(brick, here);
                    if (weights.between(start.z, start.y, start.x, BRICK_SIDE, TILE_SIDE) >= top) continue;
                    list[atomicAdd(&listed, 1)] =
                        (static_cast<unsigned long long>(static_cast<Index>(top) >> shift) << 32) |
                        static_cast<unsigned long long>(brick);
                }
                __syncthreads();
                waiting = listed;
                __syncthreads();
            }
        }
        __syncthreads();  // before the next cells are written to `reached`
    }
    if (waiting) work_off(waiting);

#pragma unroll
    for (int k = 0; k < 16; ++k) {
        const Index z = sub_z + (k & 7), y = sub_y + (lane >> 3) + 4 * (k >> 3);
        if (z < size_z && y < size_y && x < size_x) radii[flat_index(z, y, x, size_y, size_x)] = sub.values[k];
    }
}
