"""A whole cluster on one machine: every host of a `cluster.yml` in namespaces of its own, with the rendered files on
its disk and the real programs, set up as an operator would. Needs root; nothing of it is left when it is taken down.
"""
