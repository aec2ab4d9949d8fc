"""Reports: records in, Markdown, LaTeX, CSV and one HTML page out. Statistics are the comparison's."""
