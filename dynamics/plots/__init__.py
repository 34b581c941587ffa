"""The plotting layer: tables and an ``Axes`` in, the ``Axes`` out; terminal and page reports beside it. It knows tables, not models."""
