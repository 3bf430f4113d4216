"""The services that the benchmark compares with, each as somebody would write it who had the same engine."""
