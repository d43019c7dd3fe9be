// Distance kernels for a GPU; cpu.py beside this has the same functions. No stacks: a thread looks at as many voxels
// as can matter, and neighbouring threads look at neighbouring voxels of memory.
#include "indexing.cuh"

// Foreground as 0 and 1 from bits along x, the first voxel in the highest bit. A warp takes a line.
extern "C" __global__ void unpack_bits(const unsigned char* packed, long long lines, long long size_x,
                                       unsigned char* mask) {
    const Index bytes = ceil_division(size_x, 8);
    for (Index line = first_warp(); line < lines; line += warp_step()) {
        for (Index x = lane_number(); x < size_x; x += WARP) {
            mask[line * size_x + x] = packed[line * bytes + x / 8] >> (7 - x % 8) & 1;
        }
    }
}

// And back, ⌈size_x / 8⌉ bytes a line. A thread takes a byte.
extern "C" __global__ void pack_bits(const unsigned char* mask, long long lines, long long size_x,
                                     unsigned char* packed) {
    const Index bytes = ceil_division(size_x, 8);
    for (Index i = first_item(); i < lines * bytes; i += item_step()) {
        const Index line = i / bytes;
        const Index begin = (i - line * bytes) * 8;
        unsigned byte = 0;
        for (Index x = begin; x < min(begin + 8, size_x); ++x) byte |= (mask[line * size_x + x] & 1u) << (begin + 7 - x);
        packed[i] = static_cast<unsigned char>(byte);
    }
}

extern "C" __global__ void unswept(const unsigned char* mask, long long voxels, long long infinity, DISTANCE* out) {
    for (Index i = first_item(); i < voxels; i += item_step()) {
        out[i] = mask[i] ? static_cast<DISTANCE>(infinity) : 0;
    }
}

// A warp takes a line, 32 voxels at a time: to the right with the last background voxel so far, then back again.
extern "C" __global__ void distance_along_lines(const unsigned char* mask, long long lines, long long size_x,
                                                long long weight, long long infinity, DISTANCE* out) {
    const int lane = lane_number();
    for (Index line = first_warp(); line < lines; line += warp_step()) {
        const unsigned char* voxels = mask + line * size_x;
        DISTANCE* squared = out + line * size_x;
        const Index last_chunk = (size_x - 1) / WARP * WARP;
        Index passed = -1;
        for (Index begin = 0; begin <= last_chunk; begin += WARP) {
            const Index x = begin + lane;
            const bool inside = x < size_x;
            const unsigned background = __ballot_sync(ALL_LANES, inside && voxels[x] == 0);
            const unsigned left = background & (ALL_LANES >> (WARP - 1 - lane));
            const Index nearest = left ? begin + WARP - 1 - __clz(static_cast<int>(left)) : passed;
            if (inside) {
                const Index value = nearest < 0 ? infinity : weight * (x - nearest) * (x - nearest);
                squared[x] = static_cast<DISTANCE>(value);
            }
            if (background) passed = begin + WARP - 1 - __clz(static_cast<int>(background));
        }
        passed = -1;
        for (Index begin = last_chunk; begin >= 0; begin -= WARP) {
            const Index x = begin + lane;
            const bool inside = x < size_x;
            const unsigned background = __ballot_sync(ALL_LANES, inside && voxels[x] == 0);
            const unsigned right = background & (ALL_LANES << lane);
            const Index nearest = right ? begin + __ffs(static_cast<int>(right)) - 1 : passed;
            if (inside && nearest >= 0) {
                const Index value = weight * (nearest - x) * (nearest - x);
                if (value < squared[x]) squared[x] = static_cast<DISTANCE>(value);
            }
            if (background) passed = begin + __ffs(static_cast<int>(background)) - 1;
        }
    }
}

// The grid of the next two kernels has the axes (inner, n, outer), so that nobody divides.
#define FOR_EVERY_VOXEL(o, p, c, outer, n, inner)                                                                   \
    for (Index o = blockIdx.z; o < outer; o += gridDim.z)                                                           \
        for (Index p = static_cast<Index>(blockIdx.y) * blockDim.y + threadIdx.y; p < n;                            \
             p += static_cast<Index>(gridDim.y) * blockDim.y)                                                       \
            for (Index c = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; c < inner;                    \
                 c += static_cast<Index>(gridDim.x) * blockDim.x)

// Lower envelope of heights (outer, n, inner) along the middle axis, into out. A voxel looks both ways until a
// background voxel would be too far: heights are ≥ 0.
// farthest : the most voxels whose weighted square is a DISTANCE. Then nothing here overflows: best − step is positive,
// and a height below that has room for step and is no infinity.
extern "C" __global__ void envelope_along_columns(const DISTANCE* __restrict__ heights, long long outer, long long n,
                                                  long long inner, long long weight, long long farthest,
                                                  DISTANCE* __restrict__ out) {
    FOR_EVERY_VOXEL(o, p, c, outer, n, inner) {
        const Index here = (o * n + p) * inner + c;
        const DISTANCE scale = static_cast<DISTANCE>(weight);
        const Index last = min(farthest, max(p, n - 1 - p));
        DISTANCE best = heights[here];
        const DISTANCE* before = heights + here;
        const DISTANCE* after = before;
        for (DISTANCE d = 1; d <= last; ++d) {
            const DISTANCE step = scale * d * d;
            if (step >= best) break;
            before -= inner;
            after += inner;
            const DISTANCE below = d <= p ? *before : best;  // best stands for "nothing": it lowers nothing
            const DISTANCE above = d < n - p ? *after : best;
            const DISTANCE height = below < above ? below : above;
            if (height < best - step) best = height + step;
        }
        out[here] = best;
    }
}

extern "C" __global__ void relax_wall(DISTANCE* distances, long long outer, long long n, long long inner,
                                      long long weight, long long gap, bool from_high_side) {
    FOR_EVERY_VOXEL(o, p, c, outer, n, inner) {
        const Index away = (from_high_side ? n - 1 - p : p) + gap;
        const Index value = weight * away * away;
        const Index here = (o * n + p) * inner + c;
        if (value < distances[here]) distances[here] = static_cast<DISTANCE>(value);
    }
}

namespace {

// A column seen from one of its faces: voxel 0 is on the face, the voxels beyond are −1, −2, …
struct Column {
    const DISTANCE* face;
    Index step;
    Index weight;

    __device__ Index height(Index depth) const { return face[depth * step]; }
    __device__ Index value(Index depth, Index position) const {
        return height(depth) + weight * (position - depth) * (position - depth);
    }
};

// Walk away from the face along the parabolas that are lowest there, and give each to visit(depth). The first one is
// the lowest at −1. A shallower parabola falls below a deeper one once and for all, so the next one is that which does
// so first. Of equal ones the deepest is taken, but the shallowest at −1.
template <class Visit>
__device__ void walk_from_the_face(const Column& column, Index n, Index infinity, Index reach, Visit visit) {
    Index depth = -1;
    Index least = infinity;
    for (Index j = 0; j < n; ++j) {
        const Index step = column.weight * (j + 1) * (j + 1);
        if (depth >= 0 && step >= least) break;  // this one and all behind it are no lower, whatever their height
        const Index height = column.height(j);
        if (height < infinity && (depth < 0 || height + step < least)) {
            depth = j;
            least = height + step;
        }
    }
    while (depth >= 0) {
        visit(depth);
        const Index height = column.height(depth);
        Index next = -1;
        Index position = -reach - 1;  // where next takes over: nobody has yet
        for (Index k = depth - 1; k >= 0; --k) {
            const Index other = column.height(k);
            if (other >= infinity) continue;
            const Index from_k = position + 1 - k;
            const Index from_depth = position + 1 - depth;
            const Index rise = column.weight * (from_depth * from_depth - from_k * from_k);
            if (other - height < rise) {
                // It is lower at position + 1 already: it takes over there or nearer to the face, at the last
                // position below (height − other + weight·(depth² − k²)) / (2·weight·(depth − k)), which is negative.
                const Index above = height - other + column.weight * (depth * depth - k * k);
                const Index below = 2 * column.weight * (depth - k);
                position = -(-above / below) - 1;
                next = k;
            } else if (next >= 0 && column.value(k, position) < column.value(next, position)) {
                next = k;
            }
        }
        depth = next;
    }
}

__device__ inline Column column_at(const DISTANCE* distances, Index i, Index n, Index inner, Index weight,
                                   bool from_high_face) {
    const Index o = i / inner;
    const DISTANCE* first = distances + o * n * inner + (i - o * inner);
    return {from_high_face ? first + (n - 1) * inner : first, from_high_face ? -inner : inner, weight};
}

}  // namespace

// A thread takes a column. First the number of its parabolas, …
extern "C" __global__ void export_parabolas_count(const DISTANCE* distances, long long columns, long long n,
                                                  long long inner, long long weight, long long infinity,
                                                  long long reach, bool from_high_face, unsigned* counts) {
    for (Index i = first_item(); i < columns; i += item_step()) {
        unsigned count = 0;
        walk_from_the_face(column_at(distances, i, n, inner, weight, from_high_face), n, infinity, reach,
                           [&](Index) { ++count; });
        counts[i] = count;
    }
}

// … then, with the end of every column in the list, the parabolas themselves.
extern "C" __global__ void export_parabolas_fill(const DISTANCE* distances, long long columns, long long n,
                                                 long long inner, long long weight, long long infinity,
                                                 long long reach, bool from_high_face, const unsigned* counts,
                                                 const long long* ends, unsigned short* depth, DISTANCE* height) {
    for (Index i = first_item(); i < columns; i += item_step()) {
        const Column column = column_at(distances, i, n, inner, weight, from_high_face);
        Index at = ends[i] - counts[i];
        walk_from_the_face(column, n, infinity, reach, [&](Index j) {
            depth[at] = static_cast<unsigned short>(j);
            height[at] = static_cast<DISTANCE>(column.height(j));
            ++at;
        });
    }
}

// A thread takes a column and its list, and goes down both until the column is lower than all that follow.
extern "C" __global__ void relax_parabolas(DISTANCE* distances, long long columns, long long n, long long inner,
                                           long long weight, long long gap, bool from_high_side,
                                           const unsigned* counts, const long long* ends, const unsigned short* depth,
                                           const DISTANCE* height) {
    for (Index i = first_item(); i < columns; i += item_step()) {
        const Index last = ends[i] - 1;
        Index k = ends[i] - counts[i];
        if (k > last) continue;
        const Index o = i / inner;
        DISTANCE* voxel = distances + o * n * inner + (i - o * inner) + (from_high_side ? (n - 1) * inner : 0);
        for (Index e = 0; e < n; ++e) {
            const Index away = e + gap;
            Index value = height[k] + weight * (away + depth[k]) * (away + depth[k]);
            while (k < last) {
                const Index other = height[k + 1] + weight * (away + depth[k + 1]) * (away + depth[k + 1]);
                if (other > value) break;
                value = other;
                ++k;
            }
            if (value >= *voxel) break;
            *voxel = static_cast<DISTANCE>(value);
            voxel += from_high_side ? -inner : inner;
        }
    }
}
