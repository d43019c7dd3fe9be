"""The one door to stored voxels: opening, foreground, writing, other formats, xarray views."""
