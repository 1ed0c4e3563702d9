"""Engines besides torch, each in a process of its own, since torch and an engine in one process slow each other.

``graph`` writes a network as ONNX; ``worker`` runs it with an engine (``openvino_engine``, ``onnxruntime_engine``) and
imports no torch; ``process`` is this side of it, ``shared`` the memory between them, ``predictor`` the Predictor.
"""
