"""The report of a run as one page: plain data in, HTML and SVG out; only `facts` and `documents` read the run."""
