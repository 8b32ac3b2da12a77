"""What inspection costs on this machine, and what it finds: latency, Table 6 and the demo.

Used through ``cff-bench``; importing this package loads no other.
"""
