"""What comes next: the order of the steps, the fan-out, the parameters. Other rooms do the work.

A flow file run as a script puts this folder first on sys.path: no file here may have the name of
anything that is imported.
"""
