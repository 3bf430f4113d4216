"""From scans to a dataset of slices, split by patient. Nothing here knows torch or Ray."""
