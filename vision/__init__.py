"""Pixels, backbones, the head and its gradients.

This room knows numpy, Keras and TensorFlow. It does not know Prefect, nor where files lie: it takes
bytes and arrays and gives arrays. specs.py and weights.py import no Keras, so that whoever only asks
whether there is anything to do never loads TensorFlow.
"""
