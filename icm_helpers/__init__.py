"""Losses, codecs, recognition models and measurement for the Image Coding for Machines reproduction book."""

import warnings

# Packages below import tqdm.auto, which misses ipywidgets in a notebook; our own bars are plain text and need none.
warnings.filterwarnings("ignore", message="IProgress not found")
