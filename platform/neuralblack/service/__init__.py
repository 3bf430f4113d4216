"""The model behind HTTP: a plain FastAPI app, a batcher, a limited decoder process and the page. No Ray, no torch."""
