"""The order of the steps, the fan-out and the parameters. Other rooms do the work.

A flow file that runs as a script puts this folder first on sys.path. No file here may therefore share its name
with an imported module.
"""
