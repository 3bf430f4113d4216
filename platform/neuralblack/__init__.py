"""Brain-tumour subtypes from MRI slices: prepare, train, search, evaluate, serve. Research use only."""

__version__ = "0.1.0"
