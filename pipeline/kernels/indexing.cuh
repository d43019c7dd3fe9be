// Index arithmetic of all kernels: 64 bits everywhere, so that no side and no volume is too large.
#pragma once

typedef long long Index;

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int WARP = 32;

// a / b, rounded up. a ≥ 0, b > 0.
__device__ inline Index ceil_division(Index a, Index b) { return (a + b - 1) / b; }

// Position of voxel (z, y, x) in a contiguous array.
__device__ inline Index flat_index(Index z, Index y, Index x, Index size_y, Index size_x) {
    return (z * size_y + y) * size_x + x;
}

struct Voxel {
    Index z, y, x;
};

// The voxel at a position of a contiguous array.
__device__ inline Voxel voxel_at(Index flat, Index size_y, Index size_x) {
    const Index row = flat / size_x;
    return {row / size_y, row % size_y, flat - row * size_x};
}

// Grid-stride loops: for (Index i = first_item(); i < n; i += item_step()), in a grid of one dimension.
__device__ inline Index first_item() { return static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline Index item_step() { return static_cast<Index>(gridDim.x) * blockDim.x; }

// The same for whole warps: for (Index i = first_warp(); i < n; i += warp_step()). All lanes of a warp get one item.
__device__ inline int lane_number() { return static_cast<int>(threadIdx.x % WARP); }
__device__ inline Index first_warp() { return first_item() / WARP; }
__device__ inline Index warp_step() { return item_step() / WARP; }
