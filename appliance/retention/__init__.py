"""Keeping: what is old, or in the way of new images, is deleted; nothing that is still needed is."""
