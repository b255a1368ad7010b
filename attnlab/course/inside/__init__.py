"""What runs beside a submission's code: standard library and NumPy alone, nothing of attnlab.

The folder is shown to the confined process as it is; the trusted process imports `codec` from it,
so that both ends of the wire read one text.
"""
