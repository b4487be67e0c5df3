"""Pixels, backbones, the head and its gradients.

This room knows numpy, Keras and TensorFlow. It does not know Prefect or where files are: it takes bytes and arrays,
and returns arrays. specs.py, backbones/weights.py and engines/selection.py import no Keras, so a command that only asks
whether there is anything to do never loads TensorFlow.
"""
