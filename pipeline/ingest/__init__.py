"""Ingest: raw files of any supported format to documents, every loss accounted for.

`config` declares a source, `plan` cuts it into splits, `readers.read_split` turns a split into documents and
failures. Nothing is imported here: `mixloom --help` must not pay for decoders.
"""
