"""Trains the same network here and in PyTorch, and compares everything that they compute."""
