"""Networks as ordered stages, their weights, and the way from stored slices to their input."""
