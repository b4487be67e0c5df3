"""When, where and with which resources the flows run.

Knows flows and Prefect's servers, pools and workers; not what a flow does.
"""
