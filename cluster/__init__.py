"""Where runs run: workers and schedulers. Knows no voxel."""
