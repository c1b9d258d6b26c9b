"""Streams whose distribution changes at a known sample."""
