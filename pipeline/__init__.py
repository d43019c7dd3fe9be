"""From voxels to numbers. `open_volume` and `open_run` of pipeline.volume and workflows.results give xarray."""
