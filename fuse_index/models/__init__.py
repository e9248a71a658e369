"""Frozen models behind one small interface: causal LMs, CLIP, classifiers, encoders."""
