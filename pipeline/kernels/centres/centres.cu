// Centre kernels for a GPU; cpu.py beside this has the same functions. The rules stand in the package's docstring.
#include "indexing.cuh"

namespace {

constexpr int BRICK_SIDE = 8;
constexpr int BRICK_VOXELS = BRICK_SIDE * BRICK_SIDE * BRICK_SIDE;
constexpr int CELL_SIDE = 64;
constexpr int BRICKS_ALONG = CELL_SIDE / BRICK_SIDE;
constexpr int BRICKS = BRICKS_ALONG * BRICKS_ALONG * BRICKS_ALONG;
constexpr int CELL_THREADS = 256;

// The same arithmetic as in cpu.py, double by double: a kept centre costs time, a wrongly dropped one a voxel.
constexpr double ROUNDING = 1.0 + 1.0 / (1ll << 40);
constexpr int GRADIENT_FROM = 64;
constexpr int GRADIENT_STEPS = 8;

__device__ inline bool contained(Index d, Index other, Index squared_step) {
    const double slack = static_cast<double>(other - d - squared_step + 1);
    return slack > 2.0 * sqrt(static_cast<double>(squared_step) * static_cast<double>(d - 1)) * ROUNDING;
}

struct Block {
    const DISTANCE* distances;
    Index size_z, size_y, size_x;

    __device__ bool holds(Index z, Index y, Index x) const {
        return z >= 0 && y >= 0 && x >= 0 && z < size_z && y < size_y && x < size_x;
    }
    __device__ Index at(Index z, Index y, Index x) const { return distances[flat_index(z, y, x, size_y, size_x)]; }
};

// inner : all neighbours of the voxel lie in the block.
template <bool inner>
__device__ bool inside_a_neighbour(const Block& block, const Voxel& v, DISTANCE d, const long long* table, Index limit,
                                   Index weight_z, Index weight_y, Index weight_x) {
    const DISTANCE* here = block.distances + flat_index(v.z, v.y, v.x, block.size_y, block.size_x);
#pragma unroll
    for (int vz = -1; vz <= 1; ++vz) {
#pragma unroll
        for (int vy = -1; vy <= 1; ++vy) {
#pragma unroll
            for (int vx = -1; vx <= 1; ++vx) {
                const int kind = 4 * (vz != 0) + 2 * (vy != 0) + (vx != 0);
                if (kind == 0 || !(inner || block.holds(v.z + vz, v.y + vy, v.x + vx))) continue;
                const DISTANCE other = here[(vz * block.size_y + vy) * block.size_x + vx];
                if (other <= d) continue;
                if (d <= limit) {
                    if (other >= table[kind * (limit + 1) + d]) return true;
                } else if (contained(d, other,
                                     weight_z * (vz != 0) + weight_y * (vy != 0) + weight_x * (vx != 0))) {
                    return true;
                }
            }
        }
    }
    return false;
}

__device__ bool inside_uphill(const Block& block, const Voxel& v, Index d, Index weight_z, Index weight_y,
                              Index weight_x) {
    const double slope_z = (static_cast<double>(block.at(v.z + 1, v.y, v.x)) -
                            static_cast<double>(block.at(v.z - 1, v.y, v.x))) / static_cast<double>(weight_z);
    const double slope_y = (static_cast<double>(block.at(v.z, v.y + 1, v.x)) -
                            static_cast<double>(block.at(v.z, v.y - 1, v.x))) / static_cast<double>(weight_y);
    const double slope_x = (static_cast<double>(block.at(v.z, v.y, v.x + 1)) -
                            static_cast<double>(block.at(v.z, v.y, v.x - 1))) / static_cast<double>(weight_x);
    const double steepest = fmax(fabs(slope_z), fmax(fabs(slope_y), fabs(slope_x)));
    if (!(steepest > 0.0)) return false;
    for (int k = 2; k <= GRADIENT_STEPS; ++k) {
        const Index step_z = static_cast<Index>(rint(k * slope_z / steepest));
        const Index step_y = static_cast<Index>(rint(k * slope_y / steepest));
        const Index step_x = static_cast<Index>(rint(k * slope_x / steepest));
        if (!block.holds(v.z + step_z, v.y + step_y, v.x + step_x)) return false;
        const Index squared_step = weight_z * step_z * step_z + weight_y * step_y * step_y + weight_x * step_x * step_x;
        if (contained(d, block.at(v.z + step_z, v.y + step_y, v.x + step_x), squared_step)) return true;
    }
    return false;
}

}  // namespace

// A thread takes a voxel. kept counts the centres that stay.
extern "C" __global__ void prune(const DISTANCE* distances, long long size_z, long long size_y, long long size_x,
                                 const long long* table, long long limit, long long weight_z, long long weight_y,
                                 long long weight_x, unsigned char* keep, unsigned long long* kept) {
    const Block block = {distances, size_z, size_y, size_x};
    const Index smallest = min(weight_z, min(weight_y, weight_x));
    const Index voxels = size_z * size_y * size_x;
    for (Index begin = first_item() - threadIdx.x; begin < voxels; begin += item_step()) {
        const Index i = begin + threadIdx.x;
        bool needed = false;
        if (i < voxels) {
            const DISTANCE d = distances[i];
            if (d > smallest) {
                const Voxel v = voxel_at(i, size_y, size_x);
                const bool inner = v.z > 0 && v.z < size_z - 1 && v.y > 0 && v.y < size_y - 1 && v.x > 0 &&
                                   v.x < size_x - 1;
                needed = !(inner ? inside_a_neighbour<true>(block, v, d, table, limit, weight_z, weight_y, weight_x)
                                 : inside_a_neighbour<false>(block, v, d, table, limit, weight_z, weight_y, weight_x));
                if (needed && inner && d > GRADIENT_FROM * smallest) {
                    needed = !inside_uphill(block, v, d, weight_z, weight_y, weight_x);
                }
            }
            keep[i] = needed;
        }
        const int stay = __syncthreads_count(needed);
        if (stay && threadIdx.x == 0) atomicAdd(kept, static_cast<unsigned long long>(stay));
    }
}

// A block of CELL_THREADS threads takes a cell.
extern "C" __global__ void survey_cells(const DISTANCE* distances, const unsigned char* keep, long long size_z,
                                        long long size_y, long long size_x, long long cells_y, long long cells_x,
                                        long long* number, long long* largest) {
    __shared__ int counted[CELL_THREADS];
    __shared__ DISTANCE most[CELL_THREADS];
    const Voxel cell = voxel_at(blockIdx.x, cells_y, cells_x);
    const Index stop_y = min(size_y, (cell.y + 1) * CELL_SIDE), stop_x = min(size_x, (cell.x + 1) * CELL_SIDE);
    const Index stop_z = min(size_z, (cell.z + 1) * CELL_SIDE);
    const int lane_x = threadIdx.x % CELL_SIDE, lane_y = threadIdx.x / CELL_SIDE;
    int count = 0;
    DISTANCE top = 0;
    for (Index z = cell.z * CELL_SIDE; z < stop_z; ++z) {
        for (Index y = cell.y * CELL_SIDE + lane_y; y < stop_y; y += CELL_THREADS / CELL_SIDE) {
            const Index x = cell.x * CELL_SIDE + lane_x;
            if (x >= stop_x) continue;
            const Index i = flat_index(z, y, x, size_y, size_x);
            if (!keep[i]) continue;
            ++count;
            if (distances[i] > top) top = distances[i];
        }
    }
    counted[threadIdx.x] = count;
    most[threadIdx.x] = top;
    for (int half = CELL_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            counted[threadIdx.x] += counted[threadIdx.x + half];
            if (most[threadIdx.x + half] > most[threadIdx.x]) most[threadIdx.x] = most[threadIdx.x + half];
        }
    }
    if (threadIdx.x == 0) {
        number[blockIdx.x] = counted[0];
        largest[blockIdx.x] = most[0];
    }
}

namespace {

// First voxel of brick b of a cell that starts at `cell`.
__device__ inline Voxel brick_start(const long long* cell, int b) {
    return {cell[0] + b / (BRICKS_ALONG * BRICKS_ALONG) * BRICK_SIDE,
            cell[1] + b / BRICKS_ALONG % BRICKS_ALONG * BRICK_SIDE, cell[2] + b % BRICKS_ALONG * BRICK_SIDE};
}

// Where voxel `position` of a brick lies in the block, or −1 where it is no kept centre.
__device__ inline Index kept_at(const unsigned char* keep, const Voxel& brick, int position, Index size_z,
                                Index size_y, Index size_x) {
    const Index z = brick.z + (position >> 6), y = brick.y + ((position >> 3) & 7), x = brick.x + (position & 7);
    if (z >= size_z || y >= size_y || x >= size_x) return -1;
    const Index i = flat_index(z, y, x, size_y, size_x);
    return keep[i] ? i : -1;
}

}  // namespace

// A warp takes a brick.
extern "C" __global__ void pack_cells_count(const unsigned char* keep, long long size_z, long long size_y,
                                            long long size_x, const long long* starts, long long cells,
                                            unsigned short* counts) {
    for (Index i = first_warp(); i < cells * BRICKS; i += warp_step()) {
        const Voxel brick = brick_start(starts + 3 * (i / BRICKS), static_cast<int>(i % BRICKS));
        int count = 0;
        for (int position = lane_number(); position < BRICK_VOXELS; position += WARP) {
            const bool kept = kept_at(keep, brick, position, size_z, size_y, size_x) >= 0;
            count += __popc(__ballot_sync(ALL_LANES, kept));
        }
        if (lane_number() == 0) counts[i] = static_cast<unsigned short>(count);
    }
}

// A block takes a brick: keys (D, position) into shared memory, and each to the place that its rank gives it.
extern "C" __global__ void pack_cells_fill(const DISTANCE* distances, const unsigned char* keep, long long size_z,
                                           long long size_y, long long size_x, const long long* starts,
                                           long long bricks, const unsigned short* counts, const long long* ends,
                                           DISTANCE* centre_d, unsigned short* centre_position) {
    __shared__ Index keys[BRICK_VOXELS];
    __shared__ int filled;
    for (Index i = blockIdx.x; i < bricks; i += gridDim.x) {
        const int n = counts[i];
        if (n == 0) continue;
        if (threadIdx.x == 0) filled = 0;
        __syncthreads();
        const Voxel brick = brick_start(starts + 3 * (i / BRICKS), static_cast<int>(i % BRICKS));
        for (int position = threadIdx.x; position < BRICK_VOXELS; position += blockDim.x) {
            const Index at = kept_at(keep, brick, position, size_z, size_y, size_x);
            if (at >= 0) keys[atomicAdd(&filled, 1)] = (static_cast<Index>(distances[at]) << 9) | position;
        }
        __syncthreads();
        const Index first = ends[i] - n;
        for (int k = threadIdx.x; k < n; k += blockDim.x) {
            const Index key = keys[k];
            int rank = 0;
            for (int other = 0; other < n; ++other) rank += keys[other] > key;
            centre_d[first + rank] = static_cast<DISTANCE>(key >> 9);
            centre_position[first + rank] = static_cast<unsigned short>(key & 511);
        }
        __syncthreads();
    }
}
