"""Makers of data sets: each turns its source into samples and an image store."""
