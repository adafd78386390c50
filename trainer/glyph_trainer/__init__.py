"""Glyph's trainer: from a folder of images to a published, versioned SavedModel."""
