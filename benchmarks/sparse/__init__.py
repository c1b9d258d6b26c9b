"""Streams of strings, words and ids: quality and cost, against Vowpal Wabbit and River."""
