"""Tune audio-visual classifiers that suffer from modality imbalance, on a Ray cluster."""

from raygap.bytecode import keep_bytecode

keep_bytecode()  # before anything large is imported
