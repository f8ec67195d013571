"""Losses, codecs, recognition models and measurement for the Image Coding for Machines reproduction book."""
