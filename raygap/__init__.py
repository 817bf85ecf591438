"""Tune audio-visual classifiers that suffer from modality imbalance, on a Ray cluster."""
