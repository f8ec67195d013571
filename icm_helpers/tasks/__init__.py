"""Recognition models, one file per family."""
